//! Changes whose caller is gone before they are done.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Request, header},
};
use causerie::{
    access::Access,
    accounts::{self, Accounts, DisconnectUsers},
    auth::{
        Authenticator, Caller, MaybeAuthenticated,
        password::Passwords,
        sessions::Sessions,
        token::{Claims, Tokens},
    },
    budget::MemoryBudget,
    chat::{self, Chat, NewRoom},
    clock::Clock,
    config::Config,
    descriptors::Descriptors,
    http::{self, App},
    limits::Limits,
    model::{Credentials, PasswordHash, RoomId, RoomType, SessionId, User, UserId, Username},
    sockets::{Presence, Sockets},
    store::Store,
    timeline::{RoomEvent, Subscribers, Timeline, Transient},
};
use futures_util::FutureExt;
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use tower::ServiceExt;

use crate::support::{
    databases::{Database, Kind},
    harness::PATIENCE,
    store::{append, draft, user},
};

type Announced = mpsc::UnboundedReceiver<RoomEvent>;

/// Records the events that are announced to it.
struct Recorder(mpsc::UnboundedSender<RoomEvent>);

impl Subscribers for Recorder {
    fn announce(&self, events: &[RoomEvent]) {
        for event in events {
            self.0.send(event.clone()).unwrap();
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

/// The service of rooms, and what it works with.
struct Services {
    config: Config,
    store: Store,
    clock: Clock,
    access: Access,
    limits: Arc<Limits>,
    chat: Chat,
}

impl Services {
    async fn open(database: &Database) -> (Self, Announced) {
        let (config, store, clock) = (
            Config::load(None, &[].into()).unwrap(),
            database.open().await,
            Clock::system(),
        );
        let (sender, announced) = mpsc::unbounded_channel();
        let access = Access::new(config.access, config.registration, store.clone());
        let limits = Arc::new(Limits::new(&config.limits, config.access, clock.clone()));
        let listed = config.rooms.listed_members;
        let timeline =
            Timeline::start(store.clone(), clock.clone(), Recorder(sender), listed).unwrap();
        let chat = Chat::new(chat::Dependencies {
            access: access.clone(),
            store: store.clone(),
            timeline,
            limits: Arc::clone(&limits),
            clock: clock.clone(),
            config: config.rooms.clone(),
        });
        let services = Self {
            config,
            store,
            clock,
            access,
            limits,
            chat,
        };
        (services, announced)
    }
}

async fn next(announced: &mut Announced) -> Transient {
    let event = timeout(PATIENCE, announced.recv())
        .await
        .expect("the change is announced");
    match event {
        Some(RoomEvent::Transient(event)) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_are_announced_after_the_caller_is_gone() {
    let database = Database::new(Kind::Sqlite).await;
    let (services, mut announced) = Services::open(&database).await;
    let (store, chat) = (&services.store, &services.chat);
    let members = [1, 2].map(|n| user(n).id);
    for n in [1, 2] {
        store.accounts.add(user(n), None).await.unwrap();
    }
    // Reads the users, and below the room, into the cache, so that each request starts with the
    // change.
    let users = store.users.find_many(&members).await.unwrap();
    let caller = Caller {
        user: Arc::clone(&users[1]),
        claims: Claims {
            user: members[1],
            session: None,
            ends: None,
        },
        address: IpAddr::from([127, 0, 0, 1]).into(),
    };
    let new = NewRoom {
        user_ids: vec![members[0].to_string()],
        kind: RoomType::ConsumerToConsumer,
        name: None,
    };
    // `now_or_never` polls the request once; then it is dropped.
    drop(chat.initiate(&caller, new).now_or_never());
    let Transient::RoomCreated { room, .. } = next(&mut announced).await else {
        panic!("another event was announced");
    };
    assert_eq!(room.members, members);

    append(store, draft(&room, 1, 1)).await;
    let id = room.id.to_string();
    store.rooms.find(room.id).await.unwrap().unwrap();
    drop(chat.mark_read(&caller, &id, None).now_or_never());
    assert!(
        matches!(next(&mut announced).await, Transient::Read { mark, .. } if mark.user == members[1])
    );

    let sender = MaybeAuthenticated {
        address: caller.address,
        caller: Some(caller),
    };
    store.rooms.find(room.id).await.unwrap().unwrap();
    drop(chat.delete_room(&sender, &id).now_or_never());
    assert!(
        matches!(next(&mut announced).await, Transient::RoomDeleted(deleted) if deleted.members == members)
    );
}

/// Records when the sockets of ended sessions are to be closed.
struct Closed(mpsc::UnboundedSender<()>);

impl DisconnectUsers for Closed {
    fn close_sessions(&self, _: &[SessionId]) {
        self.0.send(()).unwrap();
    }

    fn close_user(&self, _: UserId) {}
}

impl Services {
    /// Returns the REST API, which uses these tokens and hashes and reports ended sessions to
    /// `closing`.
    fn router(self, tokens: Arc<Tokens>, passwords: Passwords, closing: Closed) -> Router {
        let Self {
            config,
            store,
            clock,
            access,
            limits,
            chat,
        } = self;
        let presence = Presence::new(store.clone(), clock.clone(), &config.rooms);
        let budget = MemoryBudget::new(&config.memory, config.access);
        let sockets = Sockets::new(
            &config.socket,
            presence,
            Arc::clone(&limits),
            Arc::clone(&budget),
        );
        let sessions = Sessions::new(store.clone(), Arc::clone(&tokens), clock.clone(), &config);
        let app = App {
            accounts: Accounts::new(accounts::Dependencies {
                store: store.clone(),
                access,
                limits: Arc::clone(&limits),
                clock: clock.clone(),
                passwords,
                sessions,
                sockets: Arc::new(closing),
            }),
            chat,
            authenticator: Authenticator::new(config.access, store.clone(), tokens, clock),
            limits,
            sockets: Arc::new(sockets.clone()),
            database: Arc::clone(&store.database),
            descriptors: Descriptors::new(),
            budget,
            config: config.http,
        };
        http::router(app, sockets.transport(), 1_000_000)
    }
}

/// Adds a user with the username `carol` and this password, and returns the hash of the password.
async fn add_carol(
    store: &Store,
    passwords: &Passwords,
    user: &User,
    password: &str,
) -> PasswordHash {
    let username = Username::parse("carol").unwrap();
    let hash = passwords
        .hash(password.into(), &username, user)
        .await
        .unwrap()
        .unwrap();
    let credentials = Credentials {
        username,
        password: hash.clone(),
    };
    let added = store.accounts.add(user.clone(), Some(credentials)).await;
    assert!(added.unwrap());
    hash
}

#[tokio::test]
async fn a_password_change_is_completed_after_the_caller_is_gone() {
    let database = Database::new(Kind::Sqlite).await;
    let (services, _announced) = Services::open(&database).await;
    let store = services.store.clone();
    let (tokens, passwords) = (Arc::new(Tokens::new(&[0; 32], [])), Passwords::new());
    let carol = user(1);
    let former = add_carol(&store, &passwords, &carol, "tall green kettle").await;
    let token = tokens.sign(&carol, None, services.clock.now(), None);
    let (closing, mut closed) = mpsc::unbounded_channel();
    let router = services.router(tokens, passwords, Closed(closing));
    let change = json!({ "oldPassword": "tall green kettle", "newPassword": "short red kettle" });
    let request = Request::put(format!("/users/{}/password", carol.id))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(change.to_string()))
        .unwrap();
    let mut request = Box::pin(router.oneshot(request));
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
            .accounts
            .credentials(carol.id)
            .await
            .unwrap()
            .unwrap()
            .password
            .0,
        former.0
    );
}
