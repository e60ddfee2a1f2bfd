//! Pages of long messages: they end before they use too much memory, report that there is more, and
//! the next page continues where they ended.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::{databases::Kind, harness::TestServer, person::Person};

/// The maximum size of the messages in one response, in bytes.
const MOST: usize = 4 * 1024 * 1024;
/// More messages than fit into one response, for both kinds of text.
const COUNT: u64 = 75;

/// Returns a long text, or a short one that is long when encoded as JSON.
fn text(n: u64) -> String {
    format!(
        "word {n} {}",
        if n.is_multiple_of(2) {
            "x".repeat(70_000)
        } else {
            "\u{1}".repeat(12_000)
        }
    )
}

async fn with_long_messages(alice: &Person) -> String {
    let room = alice.named_room("room", &[alice]).await;
    for n in 1..=COUNT {
        alice.says(&room, &text(n)).await;
    }
    room
}

/// Returns the sequence numbers of the entries on a page, and the body. Checks that the page is not
/// larger than allowed.
async fn page(person: &Person, path: &str, list: &str) -> (Vec<u64>, Value) {
    let body = person.get(path).await.ok();
    let size = body[list].to_string().len();
    // The limit does not count commas and brackets.
    assert!(size < MOST + 1_000, "{path}: {size}");
    (seqs(&body[list]), body)
}

fn seqs(list: &Value) -> Vec<u64> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item["seq"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn long_pages_by_cursor_end_early_and_omit_nothing() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let room = with_long_messages(&alice).await;
    let (mut after, mut before, mut since) = (Vec::new(), Vec::new(), Vec::new());
    for (path, list, read) in [
        ("?limit=500&after=", "conversation", &mut after),
        ("/sync?limit=500&since=", "entries", &mut since),
    ] {
        loop {
            let (seqs, body) = page(
                &alice,
                &format!("/room/{room}{path}{}", read.last().unwrap_or(&0)),
                list,
            )
            .await;
            read.extend(seqs);
            if body["hasMore"] == false {
                break;
            }
            assert!(
                body[list].to_string().len() > MOST - 80_000,
                "{path}: it might have been longer"
            );
        }
        assert_eq!(*read, (1..=COUNT).collect::<Vec<_>>(), "{path}");
    }
    while before.first() != Some(&1) {
        let (mut seqs, body) = page(
            &alice,
            &format!(
                "/room/{room}?limit=500&before={}",
                before.first().unwrap_or(&(COUNT + 1))
            ),
            "conversation",
        )
        .await;
        assert_eq!(body["hasMore"], seqs[0] != 1);
        seqs.append(&mut before);
        before = seqs;
    }
    assert_eq!(before, after);
    let whole = alice.get(&format!("/room/{room}?limit=500")).await.ok();
    assert_eq!(
        (seqs(&whole["conversation"]), &whole["hasMore"]),
        (after, &false.into()),
        "by number it is as long as asked for"
    );
}

#[tokio::test]
async fn long_search_results_end_early_and_omit_nothing() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let room = with_long_messages(&alice).await;
    for path in [format!("/room/{room}/search"), "/room/search".into()] {
        let (mut found, mut before) = (Vec::new(), String::new());
        loop {
            let (seqs, body) = page(
                &alice,
                &format!("{path}?q=word&limit=500{before}"),
                "messages",
            )
            .await;
            found.extend(seqs);
            let Some(cursor) = body["before"].as_str() else {
                break;
            };
            before = format!("&before={cursor}");
        }
        assert_eq!(found, (1..=COUNT).rev().collect::<Vec<_>>(), "{path}");
    }
}

#[tokio::test]
async fn long_pages_by_number_end_early_only_in_secure_mode_and_say_so() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.registered("Alice", "consumer").await;
    let room = with_long_messages(&alice).await;
    let path = format!("/room/{room}");
    let (newest, body) = page(&alice, &format!("{path}?limit=500"), "conversation").await;
    let count = newest.len() as u64;
    assert_eq!(
        (newest, &body["hasMore"]),
        ((COUNT + 1 - count..=COUNT).collect(), &true.into())
    );
    let (rest, body) = page(
        &alice,
        &format!("{path}?limit={count}&page=1"),
        "conversation",
    )
    .await;
    assert_eq!(
        (rest, &body["hasMore"]),
        ((1..=COUNT - count).collect(), &false.into()),
        "half of them fit"
    );
    assert_eq!(
        page(&alice, &format!("{path}?limit=40&page=1"), "conversation")
            .await
            .0
            .len() as u64,
        COUNT - 40,
        "so many always fit"
    );
}

#[tokio::test]
async fn long_recents_end_early_only_in_secure_mode_and_say_so() {
    for secure in [true, false] {
        let server = if secure {
            TestServer::secure(Kind::Sqlite).await
        } else {
            TestServer::start(Kind::Sqlite).await
        };
        let alice = if secure {
            server.registered("Alice", "consumer").await
        } else {
            server.person("Alice").await
        };
        let mut rooms = Vec::new();
        for n in 1..=COUNT {
            let room = alice.named_room("room", &[&alice]).await;
            alice.says(&room, &text(n)).await;
            rooms.insert(0, room);
        }
        let ids = |body: &Value| -> Vec<String> {
            body["conversation"]
                .as_array()
                .unwrap()
                .iter()
                .map(|room| room["_id"].as_str().unwrap().to_owned())
                .collect()
        };
        if !secure {
            let body = alice.get("/room?limit=500").await.ok();
            assert_eq!((ids(&body), &body["hasMore"]), (rooms, &false.into()));
            continue;
        }
        let (first, body) = page(&alice, "/room?limit=500", "conversation").await;
        let mut seen = ids(&body);
        assert_eq!(body["hasMore"], true);
        let (_, body) = page(
            &alice,
            &format!("/room?limit={}&page=1", first.len()),
            "conversation",
        )
        .await;
        seen.extend(ids(&body));
        assert_eq!((seen, &body["hasMore"]), (rooms, &false.into()));
    }
}

#[tokio::test]
async fn a_page_holds_at_least_one_message_of_any_length() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_HTTP__MAX_BODY_BYTES", "6000000")],
    )
    .await;
    let alice = server.person("Alice").await;
    let room = alice.named_room("room", &[&alice]).await;
    for _ in 0..2 {
        alice.says(&room, &"x".repeat(MOST + 1)).await;
    }
    for (path, list, first, last) in [
        ("?after=0", "conversation", 1, false),
        ("?after=1", "conversation", 2, true),
        ("?before=3", "conversation", 2, false),
        ("?before=2", "conversation", 1, true),
        ("/sync?since=0", "entries", 1, false),
        ("/sync?since=1", "entries", 2, true),
    ] {
        let body = alice.get(&format!("/room/{room}{path}")).await.ok();
        assert_eq!(
            (seqs(&body[list]), &body["hasMore"]),
            (vec![first], &(!last).into()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn every_response_has_a_content_length() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let room = alice.named_room("room", &[&alice]).await;
    for n in [2, 4] {
        alice.says(&room, &text(n)).await;
    }
    let length = async |request: RequestBuilder| {
        let response = request.send().await.unwrap();
        let (announced, body) = (response.content_length(), response.bytes().await.unwrap());
        assert_eq!(announced, Some(body.len() as u64));
        String::from_utf8(body.to_vec()).unwrap()
    };
    assert!(
        length(alice.request(Method::GET, &format!("/room/{room}")))
            .await
            .len()
            > 140_000
    );
    length(alice.request(Method::GET, "/room")).await;
    let path = "/socket.io/?EIO=4&transport=polling";
    let opened = length(alice.request(Method::GET, path)).await;
    let opened: Value = serde_json::from_str(&opened[1..]).unwrap();
    let path = format!("{path}&sid={}", opened["sid"].as_str().unwrap());
    length(alice.request(Method::POST, &path).body("40")).await;
    assert!(
        length(alice.request(Method::GET, &path))
            .await
            .contains("40{")
    );
    let identify = format!("420[\"identity\",\"{}\"]", alice.id);
    let sync = format!("421[\"sync\",{{\"rooms\":{{\"{room}\":0}}}}]");
    length(
        alice
            .request(Method::POST, &path)
            .body(format!("{identify}\x1e{sync}")),
    )
    .await;
    let mut answered = String::new();
    while !answered.contains("431[") {
        answered += &length(alice.request(Method::GET, &path)).await;
    }
    assert!(answered.len() > 140_000);
}
