//! Deleted users who are still members of rooms: they are neither listed nor counted, and what they
//! have written and read stays.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, pages::ids_of, person::Person, wire::Socket},
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

#[apply(each_store)]
#[tokio::test]
async fn pages_of_members_skip_deleted_users_and_stay_full(kind: Kind) {
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

#[tokio::test]
async fn a_deleted_member_is_neither_listed_nor_counted() {
    let group = Group::new(Kind::Sqlite, "100").await;
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

#[tokio::test]
async fn messages_and_read_marks_of_a_deleted_member_remain() {
    let group = Group::new(Kind::Sqlite, "100").await;
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

#[tokio::test]
async fn a_large_room_does_not_count_deleted_members() {
    let group = Group::new(Kind::Sqlite, "4").await;
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

#[tokio::test]
async fn deleted_members_do_not_make_a_room_large() {
    let group = Group::new(Kind::Sqlite, "5").await;
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
async fn the_member_count_drops_when_a_member_is_deleted(kind: Kind) {
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
