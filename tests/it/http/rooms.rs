//! Rooms: initiating, finding an existing room, recent conversations.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{answer::Answer, databases::Kind, harness::TestServer, person::Person},
};

async fn initiate(caller: &Person, body: &Value) -> Answer {
    Answer::of(caller.request(Method::POST, "/room/initiate").json(body)).await
}

#[tokio::test]
async fn the_same_members_have_one_room_of_each_type() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let room = alice.initiate(&[&bob, &carol]).await.ok()["chatRoom"].clone();
    assert_eq!(
        (&room["isNew"], &room["message"], &room["type"]),
        (
            &json!(true),
            &json!("creating a new chatroom"),
            &json!("consumer-to-consumer")
        )
    );
    for again in [
        alice.initiate(&[&carol, &bob]).await,
        carol.initiate(&[&alice, &bob]).await,
        bob.initiate(&[&bob, &alice, &carol]).await,
    ] {
        let again = again.ok()["chatRoom"].clone();
        assert_eq!(
            (&again["isNew"], &again["message"]),
            (&json!(false), &json!("retrieving an old chat room"))
        );
        assert_eq!(again["chatRoomId"], room["chatRoomId"]);
    }
    let body = json!({ "userIds": [bob.id, carol.id], "type": "consumer-to-support" });
    let other_type = initiate(&alice, &body).await.ok()["chatRoom"].clone();
    assert_eq!(other_type["isNew"], true);
    assert_ne!(other_type["chatRoomId"], room["chatRoomId"]);
    assert_ne!(alice.room_with(&[&bob]).await, room["chatRoomId"]);
}

#[apply(each_store)]
#[tokio::test]
async fn a_hundred_concurrent_callers_get_one_room(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob] = [server.person("Alice").await, server.person("Bob").await];
    let calls = (0..100).map(|n| {
        let (caller, other) = if n % 2 == 0 {
            (alice.clone(), bob.clone())
        } else {
            (bob.clone(), alice.clone())
        };
        tokio::spawn(async move { caller.initiate(&[&other]).await.ok()["chatRoom"].clone() })
    });
    let mut rooms = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        rooms.push(call.await.unwrap());
    }
    assert!(
        rooms
            .iter()
            .all(|room| room["chatRoomId"] == rooms[0]["chatRoomId"])
    );
    assert_eq!(rooms.iter().filter(|room| room["isNew"] == true).count(), 1);
}

#[tokio::test]
async fn initiate_validates_every_field() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let kind = "Possible value are consumer-to-consumer,consumer-to-support";
    for (body, errors) in [
        (
            json!({}),
            json!({ "userIds": "Please provide an array", "type": kind }),
        ),
        (
            json!({ "userIds": {}, "type": "x" }),
            json!({ "userIds": "Please provide an array", "type": kind }),
        ),
    ] {
        initiate(&alice, &body).await.invalid(errors);
    }
    let (unique, strings) = (
        "Values of array should be unique",
        "Values of array should be string only",
    );
    for (ids, error) in [
        (json!("a"), "Please provide an array"),
        (json!([]), "Array cannot be empty"),
        (json!(["a", "a"]), unique),
        (json!([1, 1.0]), unique),
        (json!([1, "1"]), strings),
        (json!([{}, {}]), strings),
        (json!([" "]), strings),
        (
            json!(["nope", alice.id]),
            "No user with this id found: nope",
        ),
        (json!(["x", "y"]), "No users with these ids found: x, y"),
    ] {
        let body = json!({ "userIds": ids, "type": "consumer-to-consumer" });
        initiate(&alice, &body)
            .await
            .invalid(json!({ "userIds": error }));
    }
}

#[apply(each_store)]
#[tokio::test]
async fn recents_are_ordered_by_their_latest_message(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let with_bob = alice.room_with(&[&bob]).await;
    let with_carol = alice.room_with(&[&carol]).await;
    assert_eq!(
        alice.recents("").await,
        Vec::<Value>::new(),
        "rooms with no message are left out"
    );
    alice.posts(&with_bob, "first").await.ok();
    carol.posts(&with_carol, "second").await.ok();
    let rooms = |recents: Vec<Value>| {
        recents
            .into_iter()
            .map(|room| room["_id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        rooms(alice.recents("").await),
        [json!(with_carol), json!(with_bob)]
    );
    let last = bob.posts(&with_bob, "third").await.ok()["post"].clone();
    bob.marks_read(&with_bob).await;
    alice.marks_read(&with_bob).await;
    let recents = alice.recents("").await;
    let latest = &recents[0];
    assert_eq!(latest["_id"], *with_bob);
    assert_eq!(latest["chatRoomId"], *with_bob);
    assert_eq!(latest["messageId"], last["postId"]);
    assert_eq!(latest["message"], json!({ "messageText": "third" }));
    assert_eq!(latest["type"], "text");
    assert_eq!(latest["seq"], 2);
    assert_eq!(latest["postedByUser"], bob.user);
    assert_eq!(latest["createdAt"], last["createdAt"]);
    assert_eq!(latest["roomInfo"], json!([[alice.user], [bob.user]]));
    let readers = latest["readByRecipients"].as_array().unwrap();
    assert_eq!(readers.len(), 2);
    assert_eq!(
        (&readers[0]["readByUserId"], &readers[0]["readByUser"]),
        (&bob.user["_id"], &json!([bob.user]))
    );
    assert_eq!(
        (&readers[1]["readByUserId"], &readers[1]["readByUser"]),
        (&alice.user["_id"], &json!([alice.user]))
    );
    assert_eq!(rooms(alice.recents("?limit=1").await), [json!(with_bob)]);
    assert_eq!(
        rooms(alice.recents("?limit=1&page=1").await),
        [json!(with_carol)]
    );
    assert_eq!(
        rooms(alice.recents("?limit=1&page=2").await),
        Vec::<Value>::new()
    );
    assert_eq!(
        rooms(carol.recents("").await),
        [json!(with_carol)],
        "only the caller's rooms"
    );
}

#[tokio::test]
async fn a_deleted_latest_message_is_replaced_by_the_previous_one() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let room = alice.room_with(&[&bob]).await;
    let other = alice.room_with(&[&carol]).await;
    let first = alice.posts(&room, "first").await.ok()["post"]["postId"].clone();
    alice.posts(&other, "elsewhere").await.ok();
    let second = alice.posts(&room, "second").await.ok()["post"]["postId"].clone();
    server
        .delete(&format!("/delete/message/{}", second.as_str().unwrap()))
        .await
        .ok();
    let recents = bob.recents("").await;
    assert_eq!(recents[0]["messageId"], first);
    assert_eq!(
        alice.recents("").await[0]["_id"],
        *other,
        "the room moves back with its latest message"
    );
    server
        .delete(&format!("/delete/message/{}", first.as_str().unwrap()))
        .await
        .ok();
    assert_eq!(bob.recents("").await, Vec::<Value>::new());
    alice.posts(&room, "third").await.ok();
    assert_eq!(
        bob.recents("").await[0]["seq"],
        5,
        "the two deletions have numbers as well"
    );
}

#[tokio::test]
async fn a_room_of_more_than_a_hundred_is_in_the_recents_of_every_member() {
    let server = TestServer::start(Kind::Sqlite).await;
    let mut members = Vec::new();
    for n in 0..150 {
        members.push(server.person(&format!("Member {n}")).await);
    }
    let large = members[0]
        .room_with(&members.iter().skip(1).collect::<Vec<_>>())
        .await;
    let small = members[0].room_with(&[&members[1]]).await;
    members[0].posts(&small, "small").await.ok();
    let post = members[5].posts(&large, "to all").await.ok()["post"].clone();
    assert_eq!(
        (&post["chatRoomInfo"], &post["memberCount"]),
        (&json!([members[5].user]), &json!(150))
    );
    for person in [&members[1], &members[0]] {
        let rooms: Vec<_> = person
            .recents("")
            .await
            .into_iter()
            .map(|room| room["_id"].clone())
            .collect();
        assert_eq!(rooms, [json!(large), json!(small)]);
        assert_eq!(person.recents("?limit=1&page=1").await[0]["_id"], *small);
    }
    let recent = members[149].recents("").await.remove(0);
    assert_eq!(
        (&recent["roomInfo"], &recent["memberCount"]),
        (&json!([[members[5].user]]), &json!(150))
    );
    members[1].posts(&small, "small again").await.ok();
    assert_eq!(members[1].recents("").await[0]["_id"], *small);
    assert_eq!(members[77].marks_read(&large).await, 1);
}
