//! Search: words, order, paging, and messages that are no longer found.

use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, search::texts},
};

#[tokio::test]
async fn words_are_found_in_any_order_without_case_and_accents() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    for text in [
        "Crème brûlée for two",
        "Two for the Zürich train",
        "ΑΘΗΝΑ and Київ",
        "nothing in common",
        "η οδός",
    ] {
        alice.says(&room, text).await;
    }
    let here = format!("{room}/search");
    for scope in [here.as_str(), "search"] {
        for (words, found) in [
            ("brulee", vec!["Crème brûlée for two"]),
            ("TWO CREME", vec!["Crème brûlée for two"]),
            (
                "two, for!",
                vec!["Two for the Zürich train", "Crème brûlée for two"],
            ),
            ("train zurich the for two", vec!["Two for the Zürich train"]),
            ("αθηνα", vec!["ΑΘΗΝΑ and Київ"]),
            ("київ AND", vec!["ΑΘΗΝΑ and Київ"]),
            ("ΟΔΟΣ", vec!["η οδός"]),
            ("two athens", vec![]),
            ("creme brul", vec![]),
        ] {
            assert_eq!(bob.finds(scope, words).await, found, "{words} in {scope}");
        }
    }
    let message = bob.searches(&here, "brulee", "").await["messages"][0].take();
    assert_eq!(
        (
            &message["chatRoomId"],
            &message["seq"],
            &message["postedByUser"]
        ),
        (&json!(room), &json!(1), &alice.user)
    );
    assert_eq!(message["readByRecipients"][0]["readByUserId"], *alice.id);
}

/// Searches with operators of the databases that find the text with all words.
const WITH_OPERATORS: [&str; 21] = [
    "OR",
    "this OR that",
    "AND",
    "NOT",
    "NEAR",
    "\"that this\"",
    "-this",
    "+this",
    "this*",
    "^this",
    "words:this",
    "(this",
    "this)",
    "'this",
    "this;--",
    "{this}",
    "this\\",
    "\"this",
    "NEAR(this that, 42)",
    "this\u{0}that",
    "$this",
];

/// Searches with operators of the databases and with words that are in no text.
fn with_absent_words() -> Vec<String> {
    let long = ["x ".repeat(2_000), "y".repeat(4_000)];
    [
        "this OR missing",
        "missing -this",
        "NOT missing",
        "{\"$ne\": 1}",
        "th*",
        "text:this",
        "' OR 1=1 --",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain(long)
    .collect()
}

#[tokio::test]
async fn operators_of_the_database_are_ordinary_words() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let text = "this or that and not near words 42";
    alice.says(&room, text).await;
    let here = format!("{room}/search");
    for scope in [here.as_str(), "search"] {
        for words in WITH_OPERATORS {
            assert_eq!(
                bob.finds(scope, words).await,
                [text],
                "{words:?} in {scope}"
            );
        }
        for words in &with_absent_words() {
            assert_eq!(
                bob.finds(scope, words).await,
                Vec::<String>::new(),
                "{words:?} in {scope}"
            );
        }
        for words in [
            "", " ", "*", "\"\"", "()", "-", "$", "\u{0}", "\u{fffd}", "^:'",
        ] {
            let nothing = json!({ "success": true, "messages": [], "hasMore": false });
            assert_eq!(bob.searches(scope, words, "").await, nothing, "{words:?}");
        }
        assert_eq!(
            bob.get(&format!("/room/{scope}")).await.ok()["messages"],
            json!([])
        );
        assert_eq!(
            bob.get(&format!("/room/{scope}?q=%ff%fe")).await.ok()["messages"],
            json!([])
        );
        assert_eq!(
            texts(
                &bob.get(&format!("/room/{scope}?q=this&q=missing"))
                    .await
                    .ok()
            ),
            [text],
            "the first counts"
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn results_are_paged_from_the_newest(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let other = alice.named_room("other", &[&bob]).await;
    let mut here = Vec::new();
    let mut all = Vec::new();
    for n in 0..35 {
        let to = if n % 3 == 0 { &other } else { &room };
        let text = format!("word {n}");
        alice.says(to, &text).await;
        alice.says(to, "noise").await;
        server.turn_clock(1_000);
        if to == &room {
            here.insert(0, text.clone());
        }
        all.insert(0, text);
    }
    for (scope, expected) in [(format!("{room}/search"), here), ("search".into(), all)] {
        for limit in [1, 4, 10, 500] {
            let (mut found, mut before) = (Vec::new(), String::new());
            loop {
                let body = bob
                    .searches(&scope, "word", &format!("&limit={limit}{before}"))
                    .await;
                assert!(texts(&body).len() <= limit && !texts(&body).is_empty());
                found.extend(texts(&body));
                assert_eq!(
                    body["hasMore"] == true,
                    body["before"].is_string(),
                    "{body}"
                );
                if body["hasMore"] == false {
                    break;
                }
                before = format!("&before={}", body["before"].as_str().unwrap());
            }
            assert_eq!(found, expected, "{limit} in {scope}");
        }
        assert_eq!(
            bob.finds(&scope, "word").await,
            expected[..10],
            "ten by default"
        );
        for before in ["nope", "-1", "x-y", "99999999999999999999", "5-5", "%00"] {
            let answer = bob
                .get(&format!("/room/{scope}?q=word&before={before}"))
                .await;
            answer.ok();
        }
    }
    assert_eq!(
        texts(
            &bob.searches(&format!("{room}/search"), "word", "&before=1")
                .await
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        texts(
            &bob.searches(&format!("{room}/search"), "word", "&before=2")
                .await
        ),
        ["word 1"]
    );
}

#[tokio::test]
async fn messages_with_the_same_timestamp_are_each_found_once() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let other = alice.named_room("other", &[&bob]).await;
    // After a clock is set back, timestamps advance by single milliseconds for a while.
    server.turn_clock(3_600_000);
    alice.says(&room, "word first").await;
    alice.says(&other, "word first").await;
    server.turn_clock(-3_600_000);
    for n in 0..10 {
        alice.says(&room, &format!("word {n}")).await;
        alice.says(&other, &format!("word {n}")).await;
    }
    for (scope, count) in [(format!("{room}/search"), 11), ("search".into(), 22)] {
        let (mut found, mut before) = (Vec::new(), String::new());
        loop {
            let body = bob
                .searches(&scope, "word", &format!("&limit=3{before}"))
                .await;
            found.extend(
                body["messages"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|message| message["_id"].as_str().unwrap().to_owned()),
            );
            match body["before"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        assert_eq!(found.len(), count, "{scope}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), count, "{scope}");
    }
}

#[tokio::test]
async fn former_and_deleted_texts_are_not_found() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let here = format!("{room}/search");
    for round in 0..3 {
        let edited = alice.says(&room, &format!("before word {round}")).await;
        let deleted = alice.says(&room, &format!("regretted word {round}")).await;
        if round > 0 {
            server.database().indexed().await;
            assert_eq!(bob.finds(&here, "word").await.len(), 3);
        }
        alice
            .edits(&room, &edited["postId"], &format!("after word {round}"))
            .await
            .ok();
        alice.deletes(&deleted["postId"]).await;
        for scope in [here.as_str(), "search"] {
            for gone in ["before", "regretted"] {
                assert_eq!(
                    bob.finds(scope, gone).await,
                    Vec::<String>::new(),
                    "{gone} in {scope}"
                );
            }
            assert_eq!(
                bob.finds(scope, "after").await,
                [format!("after word {round}")]
            );
        }
        alice
            .edits(&room, &edited["postId"], "other word")
            .await
            .ok();
        let message = bob.searches(&here, "other", "").await["messages"][0].take();
        assert!(message["editedAt"].is_string());
        assert_eq!(bob.finds(&here, "after").await, Vec::<String>::new());
        if round > 0 {
            alice.deletes(&edited["postId"]).await;
        }
    }
    server.delete(&format!("/delete/room/{room}")).await.ok();
    assert_eq!(bob.finds("search", "word").await, Vec::<String>::new());
}
