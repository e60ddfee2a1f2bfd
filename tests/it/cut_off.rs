//! A change is completed and announced even if the request is dropped midway because its client
//! disconnected.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    http::{Request, header},
};
use causerie::{
    access::{Access, Action, Caller, Identity},
    budget::MemoryBudget,
    chat::Chat,
    clock::Clock,
    config::Config,
    descriptors::Descriptors,
    http::{self, App},
    limits::Limits,
    model::{Credentials, RoomId, SessionId, UserId, Username},
    password::Passwords,
    sessions::Sessions,
    sockets::{Event, Presence, SocketHub, Sockets},
    timeline::{RoomEvent, RoomEventKind, Subscribers, Timeline},
    token::{Claims, Tokens},
};
use futures_util::FutureExt;
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use tower::ServiceExt;

use crate::{
    databases::{Database, Kind},
    harness::PATIENCE,
    store::{append, draft, room, user},
};

type Heard = mpsc::UnboundedReceiver<RoomEventKind>;

/// Records the events that are announced to it.
struct Notes(mpsc::UnboundedSender<RoomEventKind>);

impl Subscribers for Notes {
    fn announce(&self, news: &[RoomEvent]) {
        for news in news {
            self.0.send(news.what.clone()).unwrap();
        }
    }

    fn has_subscribers(&self, _: RoomId) -> bool {
        true
    }

    fn interrupt(&self, room: RoomId) {
        panic!("room {room} was interrupted");
    }

    fn interrupt_user(&self, user: UserId) {
        panic!("user {user} was interrupted");
    }
}

async fn chat(database: &Database) -> (Chat, Heard) {
    let (config, store, clock) = (
        Config::load(None, &[].into()).unwrap(),
        database.open().await,
        Clock::system(),
    );
    let (tell, heard) = mpsc::unbounded_channel();
    let tokens = Arc::new(Tokens::new(&[0; 32], []));
    let chat = Chat {
        access: Access::new(
            config.access,
            config.registration,
            Arc::clone(&store),
            tokens,
            clock.clone(),
        ),
        timeline: Timeline::start(
            Arc::clone(&store),
            clock.clone(),
            Notes(tell),
            config.rooms.listed_members,
        )
        .unwrap(),
        limits: Arc::new(Limits::new(&config.limits, config.access, clock.clone())),
        config: config.rooms,
        store,
        clock,
    };
    (chat, heard)
}

async fn told(heard: &mut Heard) -> RoomEventKind {
    timeout(PATIENCE, heard.recv())
        .await
        .expect("it was done, and nobody was told")
        .unwrap()
}

/// Returns the second user as a caller. Authorizes this caller first, so that the server has
/// already read the room and the next request starts with the change.
async fn second(chat: &Chat, action: Action, room: RoomId) -> Caller {
    let user = chat.store.user(user(2).id).await.unwrap().unwrap();
    let token = Claims {
        user: user.id,
        session: None,
        ends: None,
    };
    let caller = Caller {
        identity: Some(Identity { user, token }),
        address: IpAddr::from([127, 0, 0, 1]).into(),
    };
    chat.access
        .authorize(&caller, action, &room.to_string())
        .await
        .unwrap();
    caller
}

#[tokio::test]
async fn what_was_begun_is_told_though_the_caller_is_gone() {
    let database = Database::new(Kind::Sqlite).await;
    let (chat, mut heard) = chat(&database).await;
    for n in [1, 2] {
        chat.store.add_user(user(n), None).await.unwrap();
    }
    let room = room(1, &[1, 2]);
    let (id, message) = (room.id, draft(&room, 1, 1));
    // `now_or_never` polls the request once; then it is dropped.
    drop(chat.initiate(room).now_or_never());
    assert!(matches!(told(&mut heard).await, RoomEventKind::RoomCreated(room) if room.id == id));

    append(&chat.store, message).await;
    let caller = second(&chat, Action::MarkRead, id).await;
    drop(
        chat.mark_read(&caller, &id.to_string(), None)
            .now_or_never(),
    );
    assert!(
        matches!(told(&mut heard).await, RoomEventKind::Read { mark, .. } if mark.user == user(2).id)
    );

    let caller = second(&chat, Action::Delete, id).await;
    drop(chat.delete_room(&caller, &id.to_string()).now_or_never());
    assert!(
        matches!(told(&mut heard).await, RoomEventKind::RoomDeleted(members) if members.len() == 2)
    );
}

/// A hub without sockets. Records when the sockets of ended sessions are to be closed.
struct Closed(mpsc::UnboundedSender<()>);

impl SocketHub for Closed {
    fn announce(&self, _: &[Event<'_>]) {}

    fn close_sessions(&self, _: &[SessionId]) {
        self.0.send(()).unwrap();
    }

    fn close_user(&self, _: UserId) {}

    fn online(&self, users: &[UserId]) -> Vec<bool> {
        vec![false; users.len()]
    }
}

#[tokio::test]
async fn a_change_of_password_that_has_ended_sessions_is_finished_though_the_caller_is_gone() {
    let database = Database::new(Kind::Sqlite).await;
    let (chat, _heard) = chat(&database).await;
    let (config, store, clock) = (
        Config::load(None, &[].into()).unwrap(),
        Arc::clone(&chat.store),
        chat.clock.clone(),
    );
    let (tokens, passwords) = (Arc::new(Tokens::new(&[0; 32], [])), Passwords::new());
    let (carol, username) = (user(1), Username::parse("carol").unwrap());
    let former = passwords
        .hash("tall green kettle".into(), &username, &carol)
        .await
        .unwrap()
        .unwrap();
    store
        .add_user(
            carol.clone(),
            Some(Credentials {
                username,
                password: former.clone(),
            }),
        )
        .await
        .unwrap();
    let token = tokens.sign(&carol, None, clock.now(), None);
    let presence = Presence::new(Arc::clone(&store), clock.clone(), &config.rooms);
    let budget = MemoryBudget::new(&config.memory, config.access);
    let sockets = Sockets::new(
        &config.socket,
        presence,
        Arc::clone(&chat.limits),
        Arc::clone(&budget),
    );
    let (tell, mut closed) = mpsc::unbounded_channel();
    let app = App {
        store: Arc::clone(&store),
        access: chat.access.clone(),
        sessions: Sessions::new(Arc::clone(&store), tokens, clock.clone(), &config),
        passwords,
        limits: Arc::clone(&chat.limits),
        sockets: Arc::new(Closed(tell)),
        descriptors: Descriptors::new(),
        budget,
        clock,
        config: config.http,
        chat,
    };
    let change = json!({ "oldPassword": "tall green kettle", "newPassword": "short red kettle" });
    let request = Request::put(format!("/users/{}/password", carol.id))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(change.to_string()))
        .unwrap();
    let mut request = Box::pin(http::router(app, sockets.transport(), 1_000_000).oneshot(request));
    // Drops the request after the former sessions have ended and before it is polled again.
    tokio::select! {
        biased;
        first = closed.recv() => first.unwrap(),
        answer = &mut request => panic!("nobody is cut off: {answer:?}"),
    }
    drop(request);
    timeout(PATIENCE, closed.recv())
        .await
        .ok()
        .flatten()
        .expect("sessions that were begun meanwhile go on");
    assert_ne!(
        store
            .credentials(carol.id)
            .await
            .unwrap()
            .unwrap()
            .password
            .0,
        former.0
    );
}
