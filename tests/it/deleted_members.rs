//! Deleted users who are still members of rooms: they are neither listed nor counted, and what they
//! have written and read stays.

use std::time::Instant;

use mongodb::{
    Client,
    bson::{Document, doc},
};
use reqwest::Method;
use rstest::rstest;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::{Database, Kind},
    each_store,
    harness::{PATIENCE, TestServer},
    people::Person,
    wire::Socket,
};

/// A room of eight users in the order of their ids. Three of them are deleted after all have
/// written and read in it.
struct Group {
    server: TestServer,
    here: Vec<Person>,
    gone: Vec<Person>,
    room: String,
}

impl Group {
    async fn new(kind: Kind, listed: &str) -> Self {
        let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", listed)]).await;
        let mut people = Vec::new();
        for n in 0..8 {
            people.push(server.person(&format!("Person {n}")).await);
        }
        people.sort_by(|one, other| one.id.cmp(&other.id));
        let room = people[0]
            .named_room("room", &people[1..].iter().collect::<Vec<_>>())
            .await;
        for person in &people {
            person.says(&room, "hello").await;
        }
        for person in &people {
            person.marks_read(&room).await;
            // Fills the caches of the server.
            person.get(&format!("/room/{room}/members")).await.ok();
        }
        let mut group = Self {
            server,
            here: Vec::new(),
            gone: Vec::new(),
            room,
        };
        for (n, person) in people.into_iter().enumerate() {
            // Two in succession, which could fill a page of two, and the last one.
            if [2, 3, 7].contains(&n) {
                group
                    .server
                    .delete(&format!("/users/{}", person.id))
                    .await
                    .ok();
                group.gone.push(person);
            } else {
                group.here.push(person);
            }
        }
        group
    }

    fn ids(&self) -> Vec<Value> {
        self.here.iter().map(|person| json!(person.id)).collect()
    }

    fn users(&self) -> Vec<Value> {
        self.here.iter().map(|person| person.user.clone()).collect()
    }
}

fn ids_of(users: &Value) -> Vec<Value> {
    users
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["_id"].clone())
        .collect()
}

#[apply(each_store)]
#[tokio::test]
async fn a_page_of_members_is_full_as_long_as_there_are_more(kind: Kind) {
    let group = Group::new(kind, "100").await;
    let page = async |query: &str| {
        group.here[0]
            .get(&format!("/room/{}/members?{query}", group.room))
            .await
            .ok()
    };
    let mut listed = Vec::new();
    for (n, length) in [2, 2, 1, 0].into_iter().enumerate() {
        let body = page(&format!("limit=2&page={n}")).await;
        assert_eq!(
            (
                body["users"].as_array().unwrap().len(),
                &body["memberCount"]
            ),
            (length, &json!(5))
        );
        listed.extend(body["users"].as_array().unwrap().clone());
    }
    assert_eq!(listed, group.users());
    assert_eq!(page("").await["users"], json!(group.users()));
    assert_eq!(
        page("limit=3&page=99999999999999999999").await["users"],
        json!([])
    );
}

#[apply(each_store)]
#[tokio::test]
async fn a_deleted_member_is_named_and_counted_nowhere(kind: Kind) {
    let group = Group::new(kind, "100").await;
    let (room, alice) = (&group.room, &group.here[0]);
    let renamed = alice
        .calls(
            Method::PUT,
            &format!("/room/{room}"),
            json!({ "name": "another" }),
        )
        .await
        .ok()["chatRoom"]
        .take();
    let added = alice.adds(room, &[&group.here[1]]).await.ok()["chatRoom"].take();
    let conversation = alice.get(&format!("/room/{room}")).await.ok();
    for shown in [&renamed, &added, &conversation["chatRoom"]] {
        assert_eq!(
            (&shown["memberIds"], &shown["memberCount"]),
            (&json!(group.ids()), &json!(5))
        );
    }
    assert_eq!(ids_of(&conversation["users"]), group.ids());
    assert_eq!(
        ids_of(&alice.get(&format!("/room/{room}/presence")).await.ok()["users"]),
        group.ids()
    );
    let mut socket = Socket::of(alice, room).await;
    let post = group.here[1].says(room, "hello").await;
    assert_eq!(ids_of(&post["chatRoomInfo"]), group.ids());
    assert_eq!(socket.hears_post().await, post);
    let recent = alice.recents("").await.remove(0);
    let info: Vec<_> = recent["roomInfo"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user[0]["_id"].clone())
        .collect();
    assert_eq!(info, group.ids());
}

#[apply(each_store)]
#[tokio::test]
async fn what_a_deleted_member_has_written_and_read_stays(kind: Kind) {
    let group = Group::new(kind, "100").await;
    let conversation = group.here[0]
        .get(&format!("/room/{}", group.room))
        .await
        .ok()["conversation"]
        .take();
    let messages = conversation.as_array().unwrap();
    assert_eq!(messages.len(), 8);
    let by_deleted = messages
        .iter()
        .filter(|message| message["postedByUser"]["deleted"] == true);
    assert_eq!(by_deleted.count(), 3);
    for message in messages {
        assert_eq!(message["readByRecipients"].as_array().unwrap().len(), 8);
    }
}

#[apply(each_store)]
#[tokio::test]
async fn a_large_room_counts_those_who_are_there(kind: Kind) {
    let group = Group::new(kind, "4").await;
    let (room, alice) = (&group.room, &group.here[0]);
    let post = alice.says(room, "hello").await;
    let edited = alice.edits(room, &post["postId"], "edited").await.ok()["post"].take();
    for shown in [&post, &edited] {
        assert_eq!(
            (&shown["chatRoomInfo"], &shown["memberCount"]),
            (&json!([alice.user]), &json!(5))
        );
    }
    let conversation = alice.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        (
            &conversation["memberCount"],
            &conversation["chatRoom"]["memberCount"]
        ),
        (&json!(5), &json!(5))
    );
    assert_eq!(conversation["chatRoom"].get("memberIds"), None);
    assert_eq!(
        ids_of(&conversation["users"]),
        group.ids(),
        "all of them appear"
    );
    assert_eq!(alice.recents("").await[0]["memberCount"], 5);
}

#[apply(each_store)]
#[tokio::test]
async fn a_room_is_large_by_those_who_are_there(kind: Kind) {
    let group = Group::new(kind, "5").await;
    let (room, alice) = (&group.room, &group.here[0]);
    let post = alice.says(room, "hello").await;
    assert_eq!(
        (ids_of(&post["chatRoomInfo"]), post.get("memberCount")),
        (group.ids(), None)
    );
    let conversation = alice.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        (
            ids_of(&conversation["users"]),
            conversation.get("memberCount")
        ),
        (group.ids(), None)
    );
    assert_eq!(conversation["chatRoom"]["memberIds"], json!(group.ids()));
    assert_eq!(conversation["conversation"][0].get("readCount"), None);
    let recent = alice.recents("").await.remove(0);
    assert_eq!(
        (
            recent["roomInfo"].as_array().unwrap().len(),
            recent.get("memberCount")
        ),
        (5, None)
    );
}

/// In a room of more than a hundred members, deleted members are not tracked one by one.
#[apply(each_store)]
#[tokio::test]
async fn whoever_is_deleted_is_not_counted_from_then_on(kind: Kind) {
    let server = TestServer::start(kind).await;
    let mut people = Vec::new();
    for n in 0..103 {
        people.push(server.person(&format!("Person {n}")).await);
    }
    let (alice, others) = people.split_first().unwrap();
    let room = alice
        .named_room("room", &others[..101].iter().collect::<Vec<_>>())
        .await;
    assert_eq!(alice.says(&room, "all").await["memberCount"], 102);
    server
        .delete(&format!("/users/{}", others[0].id))
        .await
        .ok();
    assert_eq!(alice.says(&room, "one less").await["memberCount"], 101);
    alice.adds(&room, &[&others[101]]).await.ok();
    assert_eq!(alice.says(&room, "one more").await["memberCount"], 102);
    for other in &others[1..3] {
        server.delete(&format!("/users/{}", other.id)).await.ok();
    }
    let post = alice.says(&room, "so few that all are listed").await;
    assert_eq!(
        (
            post["chatRoomInfo"].as_array().unwrap().len(),
            post.get("memberCount")
        ),
        (100, None)
    );
}

#[rstest]
#[tokio::test]
async fn whoever_is_deleted_at_one_server_is_soon_not_counted_at_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let settings = [("CAUSERIE_ROOMS__LISTED_MEMBERS", "1")];
    let (first, second) = (
        TestServer::on(database.again(), &settings).await,
        TestServer::on(database, &settings).await,
    );
    let (alice, bob, room) = first.two_in_a_room().await;
    let carol = first.person("Carol").await;
    alice.adds(&room, &[&carol]).await.ok();
    let there = alice.at(&second);
    let count = async || there.get(&format!("/room/{room}")).await.ok()["memberCount"].take();
    let deadline = Instant::now() + PATIENCE;
    for (expected, deleted) in [(3, Some(&bob)), (2, None)] {
        while count().await != expected {
            assert!(Instant::now() < deadline);
        }
        if let Some(deleted) = deleted {
            first.delete(&format!("/users/{}", deleted.id)).await.ok();
        }
    }
}

/// In the original application a deleted user leaves nothing but an id in rooms.
#[rstest]
#[tokio::test]
async fn members_of_whom_nothing_is_known_are_not_counted(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[values(false, true)] later: bool,
) {
    let database = Database::new(kind).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let id = |n: u8| format!("{n:032x}");
    let user =
        |n| doc! { "_id": id(n), "firstName": "Old", "lastName": "Timer", "type": "consumer" };
    let room = doc! { "_id": id(9), "userIds": [id(1), id(2), id(3)], "type": "consumer-to-consumer", "chatInitiator": id(1), "large": false };
    let mut server = TestServer::on(database, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", "1")]).await;
    server.stop().await;
    mongodb
        .collection::<Document>("users")
        .insert_many([user(1), user(3)])
        .await
        .unwrap();
    mongodb
        .collection::<Document>("chatrooms")
        .insert_one(room)
        .await
        .unwrap();
    // The state that the first version of the schema left, or a database without a version.
    let version = if later {
        doc! { "$set": { "version": 1_i64 } }
    } else {
        doc! { "$unset": { "version": 1 } }
    };
    mongodb
        .collection::<Document>("causerie")
        .update_one(doc! { "_id": "schema" }, version)
        .await
        .unwrap();
    server.restart().await;
    let token = server.log_in(&id(1)).await;
    let alice = Person {
        base: server.base.clone(),
        http: server.http.clone(),
        id: id(1),
        token,
        user: json!({}),
    };
    let members = alice.get(&format!("/room/{}/members", id(9))).await.ok();
    assert_eq!(
        (ids_of(&members["users"]), &members["memberCount"]),
        (vec![json!(id(1)), json!(id(3))], &json!(2))
    );
    assert_eq!(alice.says(&id(9), "hello").await["memberCount"], 2);
}

/// Users of the original application whose ids have another format are ignored.
#[rstest]
#[tokio::test]
async fn a_page_of_users_is_full_whatever_else_is_in_the_database(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let mongodb = Client::with_uri_str(&database.url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let user = |id: mongodb::bson::Bson| doc! { "_id": id, "firstName": "Old", "lastName": "Timer", "type": "consumer" };
    let odd = (0..501).map(|n| user(format!("user {n}").into())).chain([
        user(7.into()),
        user(mongodb::bson::oid::ObjectId::new().into()),
    ]);
    mongodb
        .collection::<Document>("users")
        .insert_many(odd)
        .await
        .unwrap();
    let server = TestServer::on(database, &[]).await;
    let mut people = Vec::new();
    for n in 0..5 {
        people.push(server.person(&format!("Person {n}")).await.user);
    }
    for (page, expected) in [&people[..2], &people[2..4], &people[4..], &[]]
        .into_iter()
        .enumerate()
    {
        assert_eq!(
            server
                .get(&format!("/users?limit=2&page={page}"))
                .await
                .ok()["users"],
            json!(expected)
        );
    }
    assert_eq!(server.get("/users").await.ok()["users"], json!(people));
}
