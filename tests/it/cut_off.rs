//! What is done is told, also when whoever asked for it goes away in the middle: their request is dropped then, wherever it stands.

use std::{net::IpAddr, sync::Arc};

use causerie::{
    access::{Access, Action, Caller, Proof},
    chat::Chat,
    clock::Clock,
    config::Config,
    limits::Limits,
    model::{RoomId, UserId},
    timeline::{Listeners, News, Timeline, Told},
    token::{Tokens, Verified},
};
use futures_util::FutureExt;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    databases::{Database, Kind},
    harness::PATIENCE,
    store::{append, draft, room, user},
};

type Heard = mpsc::UnboundedReceiver<Told>;

/// Notes what it is told.
struct Notes(mpsc::UnboundedSender<Told>);

impl Listeners for Notes {
    fn announce(&self, news: &[News]) {
        for news in news {
            self.0.send(news.what.clone()).unwrap();
        }
    }

    fn listen_in(&self, _: RoomId) -> bool {
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
    let (config, store, clock) = (Config::load(None, &[].into()).unwrap(), database.open().await, Clock::system());
    let (tell, heard) = mpsc::unbounded_channel();
    let tokens = Arc::new(Tokens::new(&[0; 32], []));
    let chat = Chat {
        access: Access::new(config.access, config.registration, Arc::clone(&store), tokens, clock.clone()),
        timeline: Timeline::start(Arc::clone(&store), clock.clone(), Notes(tell), config.rooms.listed_members).unwrap(),
        limits: Arc::new(Limits::new(&config.limits, config.access)),
        config: config.rooms,
        store,
        clock,
    };
    (chat, heard)
}

async fn told(heard: &mut Heard) -> Told {
    timeout(PATIENCE, heard.recv()).await.expect("it was done, and nobody was told").unwrap()
}

/// The second user, of whose room the server has just read all there is, so that the next request begins with the change.
async fn second(chat: &Chat, action: Action, room: RoomId) -> Caller {
    let user = chat.store.user(user(2).id).await.unwrap().unwrap();
    let token = Verified { user: user.id, session: None, ends: None };
    let caller = Caller { proof: Some(Proof { user, token }), address: IpAddr::from([127, 0, 0, 1]).into() };
    chat.access.admit(&caller, action, &room.to_string()).await.unwrap();
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
    // Once is how often a request is looked after here; then it is dropped.
    drop(chat.initiate(room).now_or_never());
    assert!(matches!(told(&mut heard).await, Told::RoomCreated(room) if room.id == id));

    append(&chat.store, message).await;
    let caller = second(&chat, Action::MarkRead, id).await;
    drop(chat.mark_read(&caller, &id.to_string(), None).now_or_never());
    assert!(matches!(told(&mut heard).await, Told::Read { mark, .. } if mark.user == user(2).id));

    let caller = second(&chat, Action::Delete, id).await;
    drop(chat.delete_room(&caller, &id.to_string()).now_or_never());
    assert!(matches!(told(&mut heard).await, Told::RoomDeleted(members) if members.len() == 2));
}
