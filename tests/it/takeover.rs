//! Taking over a database of the original application: all its data is available where its clients
//! expect it, and new data continues from there.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use causerie::model::Timestamp;
use mongodb::{
    Client, Database as Mongodb,
    bson::{DateTime, Document, doc},
};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    databases::{Database, Kind},
    harness::{PATIENCE, Program, TestServer},
    people::Person,
};

/// Returns a time on the day on which the original application ran.
fn at(millis: i64) -> DateTime {
    DateTime::from_millis(1_600_000_000_000 + millis)
}

fn iso(millis: i64) -> Value {
    Timestamp(at(millis).timestamp_millis()).to_string().into()
}

/// Returns an id as the original application generated them.
fn id(n: u32) -> String {
    format!(
        "{:08x}4d1e4f0a9c3b2a{:010x}",
        n.wrapping_mul(0x9e37_79b9),
        n
    )
}

fn user(n: u32) -> Document {
    doc! { "_id": id(n), "firstName": format!("first {n}"), "lastName": "Last", "type": "consumer", "createdAt": at(n.into()), "updatedAt": at(n.into()), "__v": 0 }
}

fn room(n: u32, members: &[u32], created: i64) -> Document {
    let members: Vec<_> = members.iter().map(|n| id(*n)).collect();
    doc! { "_id": id(n), "userIds": &members, "type": "consumer-to-consumer", "chatInitiator": &members[0], "createdAt": at(created), "updatedAt": at(created), "__v": 0 }
}

/// Returns a message with these readers. Its author's own read entry is included, as it always was.
fn message(n: u32, room: u32, author: u32, created: i64, readers: &[(u32, i64)]) -> Document {
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

const ALICE: u32 = 1;
const BOB: u32 = 2;
const CAROL: u32 = 3;
/// A deleted user who wrote and read.
const GONE: u32 = 4;
const ROOM: u32 = 10;
/// A newer room with the same members.
const DOUBLE: u32 = 11;
/// A room that lists Alice twice.
const TWICE: u32 = 12;
/// A deleted room that still has messages.
const NO_ROOM: u32 = 13;

async fn contents(database: &Mongodb, collection: &str) -> Vec<Document> {
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
async fn original(url: &str) -> Mongodb {
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

async fn person(server: &TestServer, n: u32) -> Person {
    let user = server.get(&format!("/users/{}", id(n))).await.ok()["user"].clone();
    Person {
        base: server.base.clone(),
        http: server.http.clone(),
        id: id(n),
        token: server.log_in(&id(n)).await,
        user,
    }
}

fn readers(message: &Value) -> Value {
    let reader = |entry: &Value| json!([entry["readByUserId"], entry["readAt"]]);
    message["readByRecipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(reader)
        .collect()
}

#[rstest]
#[tokio::test]
async fn what_the_original_application_wrote_is_there(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    original(&database.url).await;
    let server = TestServer::on(database, &[]).await;
    let [alice, bob] = [person(&server, ALICE).await, person(&server, BOB).await];
    let users = server.get("/users").await.ok()["users"].clone();
    assert_eq!(
        users
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["_id"].clone())
            .collect::<Vec<_>>(),
        [id(ALICE), id(BOB), id(CAROL)]
    );
    assert_eq!(users[0]["createdAt"], iso(ALICE.into()));

    // By time, then by id. Ids of the same time are compared as texts.
    let mut same_time = [id(101), id(102)];
    same_time.sort();
    let room = id(ROOM);
    let body = alice.get(&format!("/room/{room}")).await.ok();
    let conversation = body["conversation"].as_array().unwrap();
    let ids: Vec<_> = conversation
        .iter()
        .map(|message| message["_id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            &same_time[0],
            &same_time[1],
            &id(103),
            &id(104),
            &id(105),
            &id(106)
        ]
    );
    assert_eq!(
        conversation
            .iter()
            .map(|message| message["seq"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(conversation[2]["message"]["messageText"], "text 103");
    assert_eq!(conversation[2]["createdAt"], iso(1_200));
    let gone = json!({ "_id": id(GONE), "firstName": "Deleted", "lastName": "user", "type": "consumer", "deleted": true });
    assert_eq!(conversation[4]["postedByUser"], gone);
    assert_eq!(body["users"].as_array().unwrap().len(), 2);

    assert_eq!(
        readers(&conversation[0]),
        json!([[id(ALICE), iso(1_000)], [id(BOB), iso(2_000)]])
    );
    assert_eq!(
        readers(&conversation[2]),
        json!([[id(BOB), iso(1_200)], [id(ALICE), iso(5_000)]])
    );
    assert_eq!(
        readers(&conversation[3]),
        json!([[id(BOB), iso(1_300)], [id(ALICE), iso(6_000)]])
    );
    assert_eq!(readers(&conversation[5]), json!([[id(ALICE), iso(1_500)]]));
    assert_eq!(
        alice.marks_read(&room).await,
        1,
        "that of the one who is gone"
    );
    assert_eq!(bob.marks_read(&room).await, 2, "that, and Alice's last");

    let found = alice.initiate(&[&bob]).await.ok()["chatRoom"].clone();
    assert_eq!(
        (&found["isNew"], &found["chatRoomId"]),
        (&json!(false), &json!(room)),
        "the older one"
    );
    assert_eq!(
        bob.reads(&id(DOUBLE), "").await,
        ["", "text 111"],
        "and the other can be read"
    );
    let carol = person(&server, CAROL).await;
    assert_eq!(alice.room_with(&[&carol]).await, id(TWICE));
    let twice = carol.get(&format!("/room/{}", id(TWICE))).await.ok();
    assert_eq!(twice["users"].as_array().unwrap().len(), 2);
    assert_eq!(
        readers(&twice["conversation"][0]),
        json!([[id(CAROL), iso(1_600)], [id(ALICE), iso(1_700)]])
    );

    let recents: Vec<_> = alice
        .recents("")
        .await
        .iter()
        .map(|recent| recent["_id"].clone())
        .collect();
    assert_eq!(recents, [id(TWICE), room.clone(), id(DOUBLE)]);
    assert_eq!(
        alice.posts(&room, "and on it goes").await.ok()["post"]["seq"],
        7
    );
    assert_eq!(
        alice.posts(&id(DOUBLE), "here too").await.ok()["post"]["seq"],
        3
    );
    alice
        .get(&format!("/room/{}", id(NO_ROOM)))
        .await
        .refused(400, "No room exists for this id");
}

#[rstest]
#[tokio::test]
async fn nothing_of_the_original_is_changed_and_the_second_start_changes_nothing(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let mongodb = original(&database.url).await;
    let collections = ["users", "chatrooms", "chatmessages"];
    let mut before = Vec::new();
    for collection in collections {
        before.push(contents(&mongodb, collection).await);
    }
    let mut server = TestServer::on(database, &[]).await;
    // Indexing adds to the messages in the background.
    server.database().indexed().await;
    let mut after = Vec::new();
    for (collection, before) in collections.iter().zip(&before) {
        let now = contents(&mongodb, collection).await;
        for original in before {
            let taken_over = now
                .iter()
                .find(|document| document.get("_id") == original.get("_id"))
                .unwrap();
            for (field, value) in original {
                assert_eq!(
                    taken_over.get(field),
                    Some(value),
                    "{field} in {collection}"
                );
            }
        }
        after.push(now);
    }
    let marks = contents(&mongodb, "readmarks").await;
    assert_eq!(marks.len(), 5, "{marks:?}");
    server.restart().await;
    for (collection, after) in collections.iter().zip(&after) {
        assert_eq!(&contents(&mongodb, collection).await, after);
    }
    assert_eq!(contents(&mongodb, "readmarks").await, marks);
}

/// Inserts many messages in a few rooms. Bob has read every third.
async fn many_messages(mongodb: &Mongodb, count: u32) {
    let rooms: Vec<_> = (0..5)
        .map(|n| room(ROOM + n, &[ALICE, BOB, 1_000 + n], 50))
        .collect();
    mongodb
        .collection::<Document>("users")
        .insert_many([user(ALICE), user(BOB)])
        .await
        .unwrap();
    mongodb
        .collection::<Document>("chatrooms")
        .insert_many(rooms)
        .await
        .unwrap();
    let all: Vec<_> = (0..count)
        .map(|n| {
            let created = i64::from(n.wrapping_mul(7_919) % count);
            let read = [(BOB, i64::from(n) + 1_000_000)];
            message(
                100_000 + n,
                ROOM + n % 5,
                ALICE,
                created,
                if n % 3 == 0 { &read } else { &[] },
            )
        })
        .collect();
    for some in all.chunks(5_000) {
        mongodb
            .collection::<Document>("chatmessages")
            .insert_many(some)
            .await
            .unwrap();
    }
}

/// Checks that the messages of every room are numbered from 1 by their times, and that every read
/// mark exists.
async fn check_taken_over(mongodb: &Mongodb, count: u32) {
    let mut messages = contents(mongodb, "chatmessages").await;
    assert_eq!(messages.len(), usize::try_from(count).unwrap());
    let place = |message: &Document| {
        let text = |field| message.get_str(field).unwrap().to_owned();
        (
            text("chatRoomId"),
            message
                .get_datetime("createdAt")
                .unwrap()
                .timestamp_millis(),
            text("_id"),
        )
    };
    messages.sort_by_key(place);
    for of_room in messages.chunk_by(|a, b| a.get("chatRoomId") == b.get("chatRoomId")) {
        for (message, seq) in of_room.iter().zip(1..) {
            assert_eq!(message.get_i64("seq").unwrap(), seq);
        }
    }
    assert_eq!(
        contents(mongodb, "readmarks").await.len(),
        messages.len().div_ceil(3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_is_killed_goes_on_where_it_was() {
    const MESSAGES: u32 = 12_000;
    let database = Database::new(Kind::ReplicaSet).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    many_messages(&mongodb, MESSAGES).await;
    let folder = TempDir::new().unwrap();
    let messages = mongodb.collection::<Document>("chatmessages");
    let numbered = async || {
        messages
            .count_documents(doc! { "seq": { "$gt": 0 } })
            .hint(by_id())
            .await
            .unwrap()
    };
    // Killed before any progress, and then each time more has been done.
    for share in [0, 1, 2, 3] {
        let mut command = Program::command(folder.path());
        command
            .env("CAUSERIE_LISTEN", "127.0.0.1:0")
            .env("CAUSERIE_DATABASE", &database.url);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The lease of the killed process has to expire first.
        let deadline = Instant::now() + 3 * PATIENCE;
        while numbered().await < u64::from(MESSAGES) * share / 5 {
            assert!(
                Instant::now() < deadline,
                "the takeover is not getting anywhere"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", &database.url)]);
    assert!(
        program
            .log()
            .contains("took over the messages of the original application"),
        "{}",
        program.log()
    );
    check_taken_over(&mongodb, MESSAGES).await;
}

fn by_id() -> mongodb::options::Hint {
    mongodb::options::Hint::Keys(doc! { "_id": 1 })
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_take_over_one_database(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    const MESSAGES: u32 = 3_000;
    let database = Database::new(kind).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    many_messages(&mongodb, MESSAGES).await;
    let (first, second) = tokio::join!(
        TestServer::on(database.again(), &[]),
        TestServer::on(database.again(), &[])
    );
    check_taken_over(&mongodb, MESSAGES).await;
    for server in [&first, &second] {
        let alice = person(server, ALICE).await;
        let page = alice.get(&format!("/room/{}?limit=1", id(ROOM))).await.ok();
        assert_eq!(page["conversation"][0]["seq"], MESSAGES / 5);
    }
}
