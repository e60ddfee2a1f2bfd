//! Two servers on one database: users, rooms, logs and sessions.

use std::collections::HashMap;

use futures_util::future::join_all;
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{
    answer::Answer,
    databases::Kind,
    people::{NO_REFRESH, SECURE, refresh},
    person::{Person, log_of},
    two_servers::{two_servers, two_servers_and_alice, until},
    wire::Socket,
};

const ROOMS: usize = 4;
const POSTS: usize = 100;

/// The second server has an outdated version of the room in its cache, but the log decides.
#[rstest]
#[tokio::test]
async fn a_member_added_on_one_server_can_be_removed_on_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let ([first, _second], [alice, at_second]) = two_servers_and_alice(kind).await;
    let (bob, carol) = (first.person("Bob").await, first.person("Carol").await);
    let room = alice.named_room("the two", &[&bob]).await;
    at_second.get(&format!("/room/{room}")).await.ok();
    alice.adds(&room, &[&carol]).await.ok();
    assert_eq!(
        at_second.removes(&room, &carol).await.ok()["removedMembersCount"],
        1
    );
    carol
        .posts(&room, "still here")
        .await
        .refused(403, "You are not a member of this room");
}

#[rstest]
#[tokio::test]
async fn concurrent_refreshes_on_two_servers_return_the_same_token(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let [first, second] = two_servers(kind, &SECURE).await;
    // The clocks of two servers are never exactly the same.
    second.turn_clock(-3_000);
    let alice = first.member("alice").await;
    let there = alice.at(&second);
    let (one, other) = tokio::join!(alice.refreshes(), refresh(&there, &alice.refresh_token));
    let (one, other) = (one.ok(), other.ok());
    assert_eq!(one["refreshToken"], other["refreshToken"]);
    let token = one["refreshToken"].as_str().unwrap();
    let next = refresh(&there, token).await.ok();
    assert_eq!(
        refresh(&alice, token).await.ok()["refreshToken"],
        next["refreshToken"]
    );
    refresh(&alice, &alice.refresh_token)
        .await
        .refused(401, NO_REFRESH);
    refresh(&there, next["refreshToken"].as_str().unwrap())
        .await
        .refused(401, NO_REFRESH);
}

#[rstest]
#[tokio::test]
async fn an_edit_on_one_server_lists_its_readers_on_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
    #[values("100", "1")] listed: &str,
) {
    let [first, second] = two_servers(kind, &[("CAUSERIE_ROOMS__LISTED_MEMBERS", listed)]).await;
    let (alice, bob, room) = first.two_in_a_room().await;
    let post = alice.says(&room, "frist").await;
    assert_eq!(bob.marks_read(&room).await, 1);
    let mut socket = Socket::of(&bob.at(&second), &room).await;
    let edited = alice.edits(&room, &post["postId"], "first").await.ok()["post"].take();
    let readers = edited["readByRecipients"].as_array().unwrap().len();
    assert_eq!(
        (readers, edited["readCount"].as_u64()),
        if listed == "1" {
            (1, Some(2))
        } else {
            (2, None)
        }
    );
    assert_eq!(socket.hears_of("message edited").await["message"], edited);
}

async fn post_all(author: Person, rooms: Vec<String>, name: String) -> Vec<(String, String, u64)> {
    let mut acknowledged = Vec::new();
    for n in 0..POSTS {
        let (room, text) = (&rooms[n % ROOMS], format!("{name}/{n}"));
        let post = author.posts(room, &text).await.ok()["post"].clone();
        acknowledged.push((text, room.clone(), post["seq"].as_u64().unwrap()));
    }
    acknowledged
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_append_to_one_log(#[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {
    let (servers, alice) = two_servers_and_alice(kind).await;
    let others = [
        servers[0].person("Bob").await,
        servers[0].person("Carol").await,
        servers[0].person("Dave").await,
    ];
    let mut rooms = Vec::new();
    for members in [&[&others[0]][..], &[&others[1]], &[&others[2]], &[]] {
        rooms.push(alice[0].room_with(members).await);
    }
    let posters = (0..8).map(|n| {
        tokio::spawn(post_all(
            alice[n % 2].clone(),
            rooms.clone(),
            format!("client {n}"),
        ))
    });
    let acknowledged: Vec<_> = join_all(posters)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    assert_eq!(acknowledged.len(), 8 * POSTS);
    for reader in &alice {
        let mut logs = HashMap::new();
        for room in &rooms {
            logs.insert(room.clone(), log_of(reader, room).await);
        }
        assert_eq!(
            logs.values().map(HashMap::len).sum::<usize>(),
            acknowledged.len()
        );
        for (text, room, seq) in &acknowledged {
            assert_eq!(logs[room].get(text), Some(seq));
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_find_the_same_room(#[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {
    let (servers, alice) = two_servers_and_alice(kind).await;
    let bob = servers[1].person("Bob").await;
    let askers = (0..40).map(|n| {
        let (alice, bob) = (alice[n % 2].clone(), bob.clone());
        tokio::spawn(async move { alice.initiate(&[&bob]).await.ok()["chatRoom"].clone() })
    });
    let rooms: Vec<Value> = join_all(askers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(
        rooms
            .iter()
            .all(|room| room["chatRoomId"] == rooms[0]["chatRoomId"])
    );
    assert_eq!(rooms.iter().filter(|room| room["isNew"] == true).count(), 1);
}

/// Retries until the response has this status and message.
async fn comes_to(status: u16, message: &str, ask: impl AsyncFn() -> Answer) {
    let is_answered_so = async || {
        let answer = ask().await;
        let is_so = answer.status == status;
        if is_so {
            answer.refused(status, message);
        }
        is_so
    };
    until(
        &format!("it is not answered with {status} {message}"),
        is_answered_so,
    )
    .await;
}

#[rstest]
#[tokio::test]
async fn what_ends_on_one_server_ends_on_the_other(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let (servers, alice) = two_servers_and_alice(kind).await;
    let bob = servers[1].person("Bob").await;
    let room = alice[0].room_with(&[&bob]).await;
    bob.posts(&room, "hello").await.ok();
    alice[0].posts(&room, "hello").await.ok();
    let user = format!("/users/{}", bob.id);
    servers[1].get(&user).await.ok();
    let post = async |who: &Person| {
        let body = json!({ "messageText": "too late" });
        Answer::of(
            who.request(Method::POST, &format!("/room/{room}/message"))
                .json(&body),
        )
        .await
    };

    servers[0].delete(&user).await.ok();
    comes_to(404, "No user with this id found", || servers[1].get(&user)).await;
    comes_to(401, "No user with this id found", || post(&bob)).await;

    servers[0]
        .delete(&format!("/delete/room/{room}"))
        .await
        .ok();
    // Refused at once: the log is closed, even for a server that still has the room in its cache.
    post(&alice[1])
        .await
        .refused(400, "No room exists for this id");
    let conversation = format!("/room/{room}");
    comes_to(400, "No room exists for this id", || {
        alice[1].get(&conversation)
    })
    .await;
    assert!(alice[1].recents("").await.is_empty());
}
