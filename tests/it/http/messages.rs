//! Messages: posting, reading, paging, marking as read.

use std::collections::HashSet;

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{answer::Answer, databases::Kind, harness::TestServer},
};

#[tokio::test]
async fn a_post_has_all_fields_that_a_client_shows() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.posts(&room, "hello").await.ok()["post"].clone();
    assert_eq!(post["_id"], *room);
    assert_eq!(post["chatRoomId"], *room);
    assert_eq!(post["postId"].as_str().unwrap().len(), 32);
    assert_eq!(post["seq"], 1);
    assert_eq!(post["message"], json!({ "messageText": "hello" }));
    assert_eq!(post["type"], "text");
    assert_eq!(post["postedByUser"], alice.user);
    assert_eq!(
        post["readByRecipients"],
        json!([{ "readByUserId": alice.id, "readAt": post["createdAt"] }])
    );
    assert_eq!(post["chatRoomInfo"], json!([alice.user, bob.user]));
    assert_eq!(post["createdAt"], post["updatedAt"]);
    assert_eq!(alice.posts(&room, "again").await.ok()["post"]["seq"], 2);
}

#[tokio::test]
async fn any_text_arrives_as_it_was_sent() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let texts = [
        " blanks around ",
        "emoji 👩‍👩‍👧 and مرحبا",
        "nul \u{0} inside",
        "\"quotes\" \\ and \u{7f}",
        "{\"$gt\":\"\"}",
        "'; DROP TABLE users; --",
        &"long ".repeat(15_000),
    ];
    for text in texts {
        alice.posts(&room, text).await.ok();
    }
    assert_eq!(bob.reads(&room, "").await, texts);
}

#[tokio::test]
async fn a_message_without_text_is_refused() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let post = async |room: &str, body: Value| {
        Answer::of(
            alice
                .request(reqwest::Method::POST, &format!("/room/{room}/message"))
                .json(&body),
        )
        .await
    };
    for (body, error) in [
        (json!({}), "please provide a string"),
        (json!({ "messageText": 5 }), "please provide a string"),
        (
            json!({ "messageText": { "$gt": "" } }),
            "please provide a string",
        ),
        (json!({ "messageText": "" }), "string cannot be empty"),
        (
            json!({ "messageText": " \n\u{3000}" }),
            "string cannot be empty",
        ),
    ] {
        post(&room, body)
            .await
            .invalid(json!({ "messageText": error }));
    }
    post("nope", json!({ "messageText": "hi" }))
        .await
        .refused(400, "No room exists for this id");
    assert_eq!(
        alice.posts(&room, "first").await.ok()["post"]["seq"],
        1,
        "a refused message takes no number"
    );
}

#[tokio::test]
async fn a_stranger_can_do_nothing_in_a_room() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    alice.posts(&room, "private").await.ok();
    let refusal = "You are not a member of this room";
    stranger
        .get(&format!("/room/{room}"))
        .await
        .refused(403, refusal);
    stranger
        .posts(&room, "let me in")
        .await
        .refused(403, refusal);
    Answer::of(stranger.request(reqwest::Method::PUT, &format!("/room/{room}/mark-read")))
        .await
        .refused(403, refusal);
    assert_eq!(stranger.recents("").await, Vec::<Value>::new());
}

#[apply(each_store)]
#[tokio::test]
async fn the_conversation_pages_back_from_the_newest(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut empty = alice.get(&format!("/room/{room}")).await.ok();
    assert_eq!(
        empty.as_object_mut().unwrap().remove("chatRoom").unwrap()["chatRoomId"],
        room
    );
    assert_eq!(
        empty,
        json!({ "success": true, "conversation": [], "users": [alice.user, bob.user], "lastSeq": 0, "hasMore": false })
    );
    for n in 1..=25 {
        alice.posts(&room, &n.to_string()).await.ok();
    }
    let numbers =
        |range: std::ops::RangeInclusive<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    for (query, expected) in [
        ("", numbers(16..=25)),
        ("?page=1", numbers(6..=15)),
        ("?page=2", numbers(1..=5)),
        ("?page=3", vec![]),
        ("?limit=3&page=2", numbers(17..=19)),
        ("?limit=3abc&page=1.9", numbers(20..=22)),
        ("?limit=0&page=x", numbers(16..=25)),
        ("?limit=-4&page=-1", numbers(16..=25)),
        ("?limit=2&limit=7", numbers(24..=25)),
        ("?limit=999999", numbers(1..=25)),
        ("?page=18446744073709551615&limit=500", vec![]),
        ("?before=25&limit=2", numbers(23..=24)),
        ("?before=3", numbers(1..=2)),
        ("?before=1", vec![]),
        ("?before=99999999999999999999&limit=1", numbers(25..=25)),
        ("?after=0&limit=2", numbers(1..=2)),
        ("?after=23", numbers(24..=25)),
        ("?after=25", vec![]),
    ] {
        assert_eq!(bob.reads(&room, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn pages_stay_full_after_deletions() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut ids = Vec::new();
    for n in 1..=40 {
        ids.push(
            alice.posts(&room, &n.to_string()).await.ok()["post"]["postId"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let deleted: HashSet<_> = [1, 5, 6, 7, 20, 21, 22, 23, 24, 25, 38, 40].into();
    for n in &deleted {
        server
            .delete(&format!("/delete/message/{}", ids[n - 1]))
            .await
            .ok();
    }
    let left: Vec<_> = (1..=40)
        .filter(|n| !deleted.contains(n))
        .map(|n: usize| n.to_string())
        .collect();
    for limit in [1, 3, 7, 40] {
        let mut pages = Vec::new();
        for page in 0.. {
            let texts = bob
                .reads(&room, &format!("?limit={limit}&page={page}"))
                .await;
            if texts.is_empty() {
                break;
            }
            pages.splice(0..0, texts);
        }
        assert_eq!(pages, left, "limit {limit}");
    }
    assert_eq!(
        bob.reads(&room, "?before=26&limit=3").await,
        ["17", "18", "19"]
    );
    assert_eq!(
        bob.reads(&room, "?after=19&limit=3").await,
        ["26", "27", "28"]
    );
}

#[apply(each_store)]
#[tokio::test]
async fn marking_read_counts_new_messages_and_returns_the_time(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    assert_eq!(bob.marks_read(&room).await, 0);
    alice.posts(&room, "1").await.ok();
    bob.posts(&room, "2").await.ok();
    alice.posts(&room, "3").await.ok();
    assert_eq!(
        bob.marks_read(&room).await,
        2,
        "own messages are not unread"
    );
    assert_eq!(bob.marks_read(&room).await, 0);
    server.turn_clock(60_000);
    alice.posts(&room, "4").await.ok();
    assert_eq!(bob.marks_read(&room).await, 1);
    assert_eq!(alice.marks_read(&room).await, 1);
    let body = alice.get(&format!("/room/{room}")).await.ok();
    let readers = |n: usize| {
        body["conversation"][n]["readByRecipients"]
            .as_array()
            .unwrap()
            .clone()
    };
    let ids = |n: usize| {
        readers(n)
            .iter()
            .map(|reader| reader["readByUserId"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(0), [alice.id.clone(), bob.id.clone()]);
    assert_eq!(ids(1), [bob.id.clone(), alice.id.clone()]);
    assert_eq!(ids(3), [alice.id.clone(), bob.id.clone()]);
    let read_at = |n: usize| readers(n)[1]["readAt"].as_str().unwrap().to_owned();
    assert_eq!(read_at(0), read_at(2), "one mark covers both");
    assert!(
        read_at(3) > read_at(2),
        "a mark tells when it was set, also after later ones"
    );
    assert!(readers(0)[0]["readAt"] == body["conversation"][0]["createdAt"]);
    assert_eq!(body["conversation"][0]["updatedAt"], *read_at(0));
}

#[tokio::test]
async fn marking_read_while_messages_arrive_never_covers_a_later_one() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let poster = {
        let (alice, room) = (alice.clone(), room.clone());
        tokio::spawn(async move {
            for n in 0..200 {
                alice.posts(&room, &n.to_string()).await.ok();
            }
        })
    };
    let mut marked = 0;
    while !poster.is_finished() {
        marked += bob.marks_read(&room).await;
    }
    poster.await.unwrap();
    marked += bob.marks_read(&room).await;
    assert_eq!(marked, 200, "each message became read once");
    let body = bob.get(&format!("/room/{room}?limit=200")).await.ok();
    for message in body["conversation"].as_array().unwrap() {
        let readers = message["readByRecipients"].as_array().unwrap();
        assert_eq!(readers.len(), 2);
        assert!(
            readers[1]["readAt"].as_str() >= message["createdAt"].as_str(),
            "{message}"
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn sequence_numbers_have_no_gaps_or_repeats_under_concurrency(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let other = alice.room_with(&[]).await;
    let posting = (0..16).map(|n| {
        let person = if n % 2 == 0 {
            alice.clone()
        } else {
            bob.clone()
        };
        let room = if n == 0 { other.clone() } else { room.clone() };
        tokio::spawn(async move {
            let mut seqs = Vec::new();
            for k in 0..50 {
                let post = person.posts(&room, &format!("{n}:{k}")).await.ok();
                seqs.push(post["post"]["seq"].as_u64().unwrap());
            }
            assert!(
                seqs.is_sorted(),
                "one caller's messages stand in the order in which they were sent"
            );
            (n, seqs)
        })
    });
    let mut seqs = Vec::new();
    for poster in posting.collect::<Vec<_>>() {
        let (n, own) = poster.await.unwrap();
        if n == 0 {
            assert_eq!(
                own,
                (1..=50).collect::<Vec<_>>(),
                "rooms count for themselves"
            );
        } else {
            seqs.extend(own);
        }
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=750).collect::<Vec<_>>());
    let body = bob.get(&format!("/room/{room}?limit=500")).await.ok();
    let page = body["conversation"].as_array().unwrap();
    assert_eq!(
        page.iter()
            .map(|message| message["seq"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        (251..=750).collect::<Vec<_>>()
    );
    let times: Vec<_> = page
        .iter()
        .map(|message| message["createdAt"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted());
}

#[tokio::test]
async fn the_order_of_a_room_survives_a_clock_that_goes_back() {
    let mut server = TestServer::start(Kind::Sqlite).await;
    let (mut alice, bob, room) = server.two_in_a_room().await;
    alice.posts(&room, "before").await.ok();
    server.turn_clock(-3_600_000);
    alice.posts(&room, "an hour earlier").await.ok();
    server.restart().await;
    alice.base.clone_from(&server.base);
    alice.posts(&room, "and after a restart").await.ok();
    let body = alice.get(&format!("/room/{room}")).await.ok();
    let page = body["conversation"].as_array().unwrap();
    assert_eq!(
        page.iter()
            .map(|message| &message["seq"])
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(page.is_sorted_by_key(|message| message["createdAt"].as_str().unwrap().to_owned()));
    drop(bob);
}
