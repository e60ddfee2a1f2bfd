//! Rooms with more members than are listed with every message.

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, person::Person, wire::Socket},
};

/// Starts a server that lists at most four members, with a room of five members and one of four.
async fn five(kind: Kind) -> (TestServer, Vec<Person>, String, String) {
    let server = TestServer::with(kind, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", "4")]).await;
    let mut people = Vec::new();
    for name in ["Alice", "Bob", "Carol", "Dave", "Eve"] {
        people.push(server.person(name).await);
    }
    let others: Vec<_> = people.iter().skip(1).collect();
    let (large, small) = (
        people[0].room_with(&others).await,
        people[0].room_with(&others[..3]).await,
    );
    (server, people, large, small)
}

#[tokio::test]
async fn a_post_in_a_large_room_shows_its_author_and_the_member_count() {
    let (_server, people, large, small) = five(Kind::Sqlite).await;
    let post = people[1].says(&small, "hello").await;
    assert_eq!(
        (
            post["chatRoomInfo"].as_array().unwrap().len(),
            post.get("memberCount")
        ),
        (4, None)
    );
    let mut socket = Socket::of(&people[2], &large).await;
    let post = people[1].says(&large, "hello").await;
    assert_eq!(
        (&post["chatRoomInfo"], &post["memberCount"]),
        (&json!([people[1].user]), &json!(5))
    );
    assert_eq!(socket.hears_post().await, post);
    let edited = people[1]
        .edits(&large, &post["postId"], "hello all")
        .await
        .ok()["post"]
        .take();
    assert_eq!(
        (&edited["chatRoomInfo"], &edited["memberCount"]),
        (&json!([people[1].user]), &json!(5))
    );
}

#[apply(each_store)]
#[tokio::test]
async fn readers_of_a_message_in_a_large_room_are_counted_and_some_are_listed(kind: Kind) {
    let (_server, people, large, small) = five(kind).await;
    people[0].says(&large, "one").await;
    people[0].says(&small, "one").await;
    for (n, person) in people.iter().enumerate().skip(1) {
        let message = people[0].get(&format!("/room/{large}")).await.ok()["conversation"][0].take();
        assert_eq!(
            (
                message["readByRecipients"].as_array().unwrap().len(),
                &message["readCount"]
            ),
            (n.min(4), &json!(n))
        );
        assert_eq!(person.marks_read(&large).await, 1);
    }
    for (path, list) in [
        (format!("/room/{large}"), "conversation"),
        ("/room".to_owned(), "conversation"),
    ] {
        let body = people[0].get(&path).await.ok();
        let message = body[list]
            .as_array()
            .unwrap()
            .iter()
            .find(|message| message["chatRoomId"] == *large)
            .unwrap();
        assert_eq!(
            (
                message["readByRecipients"].as_array().unwrap().len(),
                &message["readCount"]
            ),
            (4, &json!(5)),
            "{path}"
        );
        assert_eq!(
            message["readByRecipients"][0]["readByUserId"], *people[0].id,
            "the author first"
        );
    }
    let entry = people[0].syncs(&large, "").await["entries"][0]["message"].take();
    assert_eq!(
        (
            entry["readByRecipients"].as_array().unwrap().len(),
            &entry["readCount"]
        ),
        (4, &json!(5))
    );
    let edited = people[0].edits(&large, &entry["_id"], "first").await.ok()["post"].take();
    assert_eq!(
        (&edited["readByRecipients"], &edited["readCount"]),
        (&entry["readByRecipients"], &json!(5))
    );
    let small = people[0].get(&format!("/room/{small}")).await.ok();
    assert!(
        small["conversation"][0].get("readCount").is_none() && small.get("memberCount").is_none()
    );
}

#[tokio::test]
async fn in_a_large_room_read_events_reach_only_the_readers_own_sockets() {
    let (_server, people, large, small) = five(Kind::Sqlite).await;
    let (mut own, mut elsewhere) = (
        Socket::of(&people[1], &large).await,
        Socket::by(&people[1]).await,
    );
    let mut others = Socket::of(&people[0], &large).await;
    others.succeeds("subscribe", json!([small])).await;
    for room in [&large, &small] {
        people[0].says(room, "one").await;
        assert_eq!(people[1].marks_read(room).await, 1);
    }
    assert_eq!(own.hears_post().await["seq"], 1);
    for socket in [&mut own, &mut elsewhere] {
        let heard = socket.hears_of("conversation read").await;
        assert_eq!(
            (&heard["chatRoomId"], &heard["userId"], &heard["upToSeq"]),
            (&json!(large), &json!(people[1].id), &json!(1))
        );
        socket.hears_nothing_more().await;
    }
    let heard: Vec<_> = others
        .has_heard()
        .await
        .into_iter()
        .filter(|event| event[0] == "conversation read")
        .collect();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0][1]["chatRoomId"], small);
}

#[tokio::test]
async fn a_large_room_shows_authors_and_lists_all_members_by_page() {
    let (_server, people, large, _) = five(Kind::Sqlite).await;
    people[1].says(&large, "one").await;
    people[3].says(&large, "two").await;
    let body = people[0].get(&format!("/room/{large}")).await.ok();
    assert_eq!(
        (&body["users"], &body["memberCount"]),
        (&json!([people[1].user, people[3].user]), &json!(5))
    );
    let recent = people[4].recents("").await.remove(0);
    assert_eq!(
        (&recent["roomInfo"], &recent["memberCount"]),
        (&json!([[people[3].user]]), &json!(5))
    );
    let mut listed = Vec::new();
    for page in 0..3 {
        let body = people[0]
            .get(&format!("/room/{large}/members?limit=2&page={page}"))
            .await
            .ok();
        assert_eq!(body["memberCount"], 5);
        listed.extend(body["users"].as_array().unwrap().clone());
    }
    let mut all: Vec<Value> = people.iter().map(|person| person.user.clone()).collect();
    all.sort_by_key(|user| user["_id"].as_str().unwrap().to_owned());
    assert_eq!(listed, all);
    let body = people[0]
        .get(&format!(
            "/room/{large}/members?limit=2&page=18446744073709551615"
        ))
        .await
        .ok();
    assert_eq!(body["users"], json!([]));
    assert_eq!(
        people[0].get(&format!("/room/{large}/presence")).await.ok()["users"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
}

#[tokio::test]
async fn a_room_becomes_large_and_small_again_with_its_members() {
    let (_server, people, _, small) = five(Kind::Sqlite).await;
    let shown = people[0].adds(&small, &[&people[4]]).await.ok()["chatRoom"].take();
    assert_eq!(
        (&shown["memberCount"], shown.get("memberIds")),
        (&json!(5), None)
    );
    assert_eq!(people[4].says(&small, "hello").await["memberCount"], 5);
    let shown = people[1].removes(&small, &people[1]).await.ok();
    assert_eq!(shown["removedMembersCount"], 1);
    let post = people[4].says(&small, "hello").await;
    assert_eq!(
        (
            post["chatRoomInfo"].as_array().unwrap().len(),
            post.get("memberCount")
        ),
        (4, None)
    );
}
