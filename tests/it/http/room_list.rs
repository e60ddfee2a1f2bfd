//! The list of rooms, including those without messages, and the details of a room, by REST alone.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, person::Person, wire::Socket},
};

const ALL: &str = "?empty=include&limit=100";

fn ids(rooms: &[Value]) -> Vec<Value> {
    rooms
        .iter()
        .map(|room| room["chatRoomId"].clone())
        .collect()
}

/// Returns the rooms of all pages of two rooms. Each page is full as long as there is more.
async fn in_pages(person: &Person, query: &str) -> Vec<Value> {
    let mut rooms = Vec::new();
    for page in 0.. {
        let body = person
            .get(&format!("/room?limit=2&page={page}{query}"))
            .await
            .ok();
        let (piece, has_more) = (
            body["conversation"].as_array().unwrap().clone(),
            body["hasMore"] == true,
        );
        assert!(
            piece.len() == 2 || !has_more,
            "page {page} of {}: {body}",
            rooms.len()
        );
        rooms.extend(piece);
        if !has_more {
            break;
        }
    }
    rooms
}

#[tokio::test]
async fn a_conversation_includes_the_room() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob] = [server.person("Alice").await, server.person("Bob").await];
    let mut socket = Socket::by(&bob).await;
    let room = alice.named_room("Chess 🎲", &[&bob]).await;
    let created = socket.hears_of("room created").await["chatRoom"].take();
    let shown = bob.get(&format!("/room/{room}")).await.ok();
    assert_eq!(shown["chatRoom"], created);
    assert_eq!(
        (&created["name"], &created["type"], &created["initiatorId"]),
        (
            &json!("Chess 🎲"),
            &json!("consumer-to-consumer"),
            &json!(alice.id)
        )
    );
    assert_eq!(shown["conversation"], json!([]));
    let plain = alice.room_with(&[&bob]).await;
    assert_eq!(
        alice
            .get(&format!("/room/{plain}?limit=1&before=1"))
            .await
            .ok()["chatRoom"]
            .get("name"),
        None
    );
    alice
        .calls(
            Method::PUT,
            &format!("/room/{plain}"),
            json!({ "name": "Go" }),
        )
        .await
        .ok();
    assert_eq!(
        alice.get(&format!("/room/{plain}")).await.ok()["chatRoom"]["name"],
        "Go"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn empty_rooms_are_listed_by_creation_time_on_request(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, first) = server.two_in_a_room().await;
    let mut rooms = vec![first];
    for n in 1..7 {
        server.turn_clock(10);
        rooms.push(alice.named_room(&format!("room {n}"), &[&bob]).await);
    }
    server.turn_clock(10);
    alice.says(&rooms[1], "one").await;
    let deleted = alice.says(&rooms[4], "two").await;
    server.turn_clock(10);
    let newest = bob.named_room("newest", &[&alice]).await;
    let with_messages = [json!(rooms[4]), json!(rooms[1])];
    let order = |last: &[usize]| -> Vec<Value> {
        [json!(newest)]
            .into_iter()
            .chain(last.iter().map(|n| json!(rooms[*n])))
            .collect()
    };
    let all = alice.recents(ALL).await;
    assert_eq!(ids(&all), order(&[4, 1, 6, 5, 3, 2, 0]));
    assert_eq!(in_pages(&alice, "&empty=include").await, all);
    assert_eq!(
        ids(&alice.recents("").await),
        with_messages,
        "the list without it stays as it is"
    );
    assert_eq!(in_pages(&alice, "").await, alice.recents("").await);
    assert!(alice.recents("").await[0].get("chatRoom").is_none());

    // The fields of a room without a message, and of one with a message.
    let (empty, written) = (&all[0], &all[1]);
    for (field, value) in [
        ("_id", json!(newest)),
        ("messageId", json!(null)),
        ("seq", json!(null)),
        ("message", json!(null)),
        ("type", json!(null)),
        ("postedByUser", json!(null)),
        ("readByRecipients", json!([])),
        ("name", json!("newest")),
        ("unreadCount", json!(0)),
        ("lastSeq", json!(0)),
    ] {
        assert_eq!(empty[field], value, "{field}");
    }
    assert_eq!(empty["createdAt"], empty["chatRoom"]["createdAt"]);
    assert_eq!(
        empty["chatRoom"],
        alice.get(&format!("/room/{newest}")).await.ok()["chatRoom"]
    );
    assert_eq!(empty["roomInfo"].as_array().unwrap().len(), 2);
    let mut without = written.clone();
    without.as_object_mut().unwrap().remove("chatRoom");
    assert_eq!(without, alice.recents("").await[0]);
    assert_eq!(written["chatRoom"]["initiatorId"], *alice.id);

    // A room that has lost its only message has no message.
    alice.deletes(&deleted["postId"]).await;
    assert_eq!(
        ids(&alice.recents(ALL).await),
        order(&[1, 6, 5, 4, 3, 2, 0])
    );
    assert_eq!(
        ids(&in_pages(&alice, "&empty=include").await),
        order(&[1, 6, 5, 4, 3, 2, 0])
    );
    // Other changes do not count as messages either.
    server.turn_clock(10);
    let carol = server.person("Carol").await;
    alice.adds(&rooms[2], &[&carol]).await.ok();
    alice
        .calls(
            Method::PUT,
            &format!("/room/{}", rooms[3]),
            json!({ "name": "another" }),
        )
        .await
        .ok();
    assert_eq!(
        ids(&alice.recents(ALL).await),
        order(&[1, 6, 5, 4, 3, 2, 0])
    );
    assert_eq!(ids(&carol.recents(ALL).await), [json!(rooms[2])]);
    // A room that the user has left is in no list.
    alice.removes(&rooms[6], &alice).await.ok();
    assert_eq!(ids(&alice.recents(ALL).await), order(&[1, 5, 4, 3, 2, 0]));
}

#[apply(each_store)]
#[tokio::test]
async fn large_empty_rooms_are_listed_as_well(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", "1")]).await;
    let mut people = Vec::new();
    for n in 0..102 {
        people.push(server.person(&format!("Person {n}")).await);
    }
    let (alice, others) = people.split_first().unwrap();
    let large = alice
        .named_room("large", &others.iter().collect::<Vec<_>>())
        .await;
    server.turn_clock(10);
    let small = alice.named_room("small", &[&others[0]]).await;
    assert_eq!(ids(&alice.recents(ALL).await), [json!(small), json!(large)]);
    let listed = alice.recents(ALL).await.remove(1);
    assert_eq!(
        (&listed["memberCount"], &listed["roomInfo"]),
        (&json!(102), &json!([]))
    );
    assert_eq!(
        (
            &listed["chatRoom"]["memberCount"],
            listed["chatRoom"].get("memberIds")
        ),
        (&json!(102), None)
    );
    server.turn_clock(10);
    others[5].says(&large, "hello").await;
    assert_eq!(ids(&alice.recents(ALL).await), [json!(large), json!(small)]);
    assert_eq!(ids(&alice.recents("").await), [json!(large)]);
}

/// Where history is hidden, a message from before the user joined does not count: the room is left
/// out, or listed by its creation.
#[apply(each_store)]
#[tokio::test]
async fn hidden_messages_leave_no_gaps_in_pages(kind: Kind) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__HISTORY", "from joining")]).await;
    let [alice, carol] = [server.person("Alice").await, server.person("Carol").await];
    let mut rooms = Vec::new();
    for n in 0..6 {
        server.turn_clock(10);
        rooms.push(alice.named_room(&format!("room {n}"), &[&alice]).await);
    }
    for room in &rooms {
        server.turn_clock(10);
        alice.says(room, "not for Carol").await;
        alice.adds(room, &[&carol]).await.ok();
    }
    server.turn_clock(10);
    for n in [0, 2] {
        alice.says(&rooms[n], "for Carol").await;
        server.turn_clock(10);
    }
    let order = |order: &[usize]| order.iter().map(|n| json!(rooms[*n])).collect::<Vec<_>>();
    assert_eq!(ids(&in_pages(&carol, "").await), order(&[2, 0]));
    assert_eq!(ids(&carol.recents("?limit=1").await), order(&[2]));
    let all = in_pages(&carol, "&empty=include").await;
    assert_eq!(ids(&all), order(&[2, 0, 5, 4, 3, 1]));
    assert!(!json!(all).to_string().contains("not for Carol"));
    assert_eq!(
        ids(&in_pages(&alice, "&empty=include").await),
        order(&[2, 0, 5, 4, 3, 1])
    );
    assert_eq!(
        in_pages(&alice, "").await.len(),
        6,
        "who was there from the beginning sees all"
    );
}

#[tokio::test]
async fn invalid_values_of_the_parameter_empty_are_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    for query in [
        "empty=",
        "empty",
        "empty=exclude",
        "empty=Include",
        "empty=include,",
        "empty=1&empty=include",
    ] {
        alice
            .get(&format!("/room?{query}"))
            .await
            .invalid(json!({ "empty": "Possible value are include" }));
    }
    assert_eq!(alice.recents("?empty=include").await, Vec::<Value>::new());
    server
        .get("/room?empty=nonsense")
        .await
        .refused(400, "No access token provided");
}

/// A user who may not see a room gets none of its details.
#[tokio::test]
async fn a_stranger_is_told_nothing_of_a_room() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, _, room) = server.two_members().await;
    let stranger = server.member("stranger").await;
    assert_eq!(ids(&alice.recents(ALL).await), [json!(room)]);
    let refused = stranger
        .get(&format!("/room/{room}"))
        .await
        .refused(403, "You are not a member of this room");
    assert_eq!(refused.get("chatRoom"), None);
    assert_eq!(stranger.recents(ALL).await, Vec::<Value>::new());
}
