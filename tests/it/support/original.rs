//! A database as the original application left it.

use mongodb::{
    Client, Database as Mongodb,
    bson::{DateTime, Document, doc},
};
use serde_json::{Value, json};

use crate::support::{harness::TestServer, person::Person};

/// Returns a time on the day on which the original application ran.
pub fn at(millis: i64) -> DateTime {
    DateTime::from_millis(1_600_000_000_000 + millis)
}

/// Returns an id as the original application generated them.
pub fn id(n: u32) -> String {
    format!(
        "{:08x}4d1e4f0a9c3b2a{:010x}",
        n.wrapping_mul(0x9e37_79b9),
        n
    )
}

pub fn user(n: u32) -> Document {
    doc! { "_id": id(n), "firstName": format!("first {n}"), "lastName": "Last", "type": "consumer", "createdAt": at(n.into()), "updatedAt": at(n.into()), "__v": 0 }
}

pub fn room(n: u32, members: &[u32], created: i64) -> Document {
    let members: Vec<_> = members.iter().map(|n| id(*n)).collect();
    doc! { "_id": id(n), "userIds": &members, "type": "consumer-to-consumer", "chatInitiator": &members[0], "createdAt": at(created), "updatedAt": at(created), "__v": 0 }
}

/// Returns a message with these readers. Its author's own read entry is included, as it always was.
pub fn message(n: u32, room: u32, author: u32, created: i64, readers: &[(u32, i64)]) -> Document {
    let mut read = vec![doc! { "readByUserId": id(author), "readAt": at(created) }];
    read.extend(
        readers
            .iter()
            .map(|(reader, when)| doc! { "readByUserId": id(*reader), "readAt": at(*when) }),
    );
    doc! {
        "_id": id(n), "chatRoomId": id(room), "message": { "messageText": format!("text {n}") }, "type": "text",
        "postedByUser": id(author), "readByRecipients": read, "createdAt": at(created), "updatedAt": at(created), "__v": 0,
    }
}

pub const ALICE: u32 = 1;
pub const BOB: u32 = 2;
pub const CAROL: u32 = 3;
/// A deleted user who wrote and read.
pub const GONE: u32 = 4;
pub const ROOM: u32 = 10;
/// A newer room with the same members.
pub const DOUBLE: u32 = 11;
/// A room that lists Alice twice.
pub const TWICE: u32 = 12;
/// A deleted room that still has messages.
pub const NO_ROOM: u32 = 13;

pub async fn contents(database: &Mongodb, collection: &str) -> Vec<Document> {
    let mut found = database
        .collection::<Document>(collection)
        .find(doc! {})
        .sort(doc! { "_id": 1 })
        .await
        .unwrap();
    let mut documents = Vec::new();
    while found.advance().await.unwrap() {
        documents.push(found.deserialize_current().unwrap());
    }
    documents
}

/// Fills the database as the original application left it.
pub async fn original(url: &str) -> Mongodb {
    let database = Client::with_uri_str(url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let insert = async |collection: &str, documents: Vec<Document>| {
        database
            .collection::<Document>(collection)
            .insert_many(documents)
            .await
            .unwrap();
    };
    insert("users", vec![user(ALICE), user(BOB), user(CAROL)]).await;
    insert(
        "chatrooms",
        vec![
            room(DOUBLE, &[BOB, ALICE], 60),
            room(ROOM, &[ALICE, BOB], 50),
            room(TWICE, &[ALICE, ALICE, CAROL], 70),
        ],
    )
    .await;
    let messages = vec![
        // Stored in another order than that of their times; two have the same time.
        message(105, ROOM, GONE, 1_400, &[]),
        message(103, ROOM, BOB, 1_200, &[(ALICE, 5_000)]),
        message(101, ROOM, ALICE, 1_000, &[(BOB, 2_000), (GONE, 2_500)]),
        message(102, ROOM, ALICE, 1_000, &[(BOB, 2_000)]),
        message(104, ROOM, BOB, 1_300, &[(ALICE, 6_000)]),
        message(106, ROOM, ALICE, 1_500, &[]),
        message(111, DOUBLE, BOB, 1_100, &[]),
        message(121, TWICE, CAROL, 1_600, &[(ALICE, 1_700), (ALICE, 1_800)]),
        message(131, NO_ROOM, ALICE, 1_000, &[]),
        message(132, NO_ROOM, BOB, 1_001, &[]),
        doc! { "_id": id(141), "chatRoomId": id(DOUBLE), "postedByUser": id(BOB), "type": "text" },
    ];
    insert("chatmessages", messages).await;
    database
}

pub async fn person(server: &TestServer, n: u32) -> Person {
    let user = server.get(&format!("/users/{}", id(n))).await.ok()["user"].clone();
    Person {
        base: server.base.clone(),
        http: server.http.clone(),
        id: id(n),
        token: server.log_in(&id(n)).await,
        user,
    }
}

pub fn readers(message: &Value) -> Value {
    let reader = |entry: &Value| json!([entry["readByUserId"], entry["readAt"]]);
    message["readByRecipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(reader)
        .collect()
}
