//! `causerie export` and `causerie import`, between all stores.

use std::{fs, os::unix::fs::PermissionsExt};

use rstest::rstest;
use rstest_reuse::apply;

use crate::{
    each_store,
    support::{
        commands::{Exports, command, import, succeeded},
        conversation::Conversation,
        databases::{Database, Kind},
        harness::TestServer,
        people::{PASSWORD, SECURE},
        person::Person,
    },
};

#[rstest]
#[case::sqlite_to_mongodb(Kind::Sqlite, Kind::ReplicaSet)]
#[case::mongodb_to_sqlite(Kind::ReplicaSet, Kind::Sqlite)]
#[case::sqlite_to_sqlite(Kind::Sqlite, Kind::Sqlite)]
#[tokio::test]
async fn everything_is_the_same_after_a_transfer_and_goes_on(#[case] from: Kind, #[case] to: Kind) {
    let exports = Exports::new();
    let source = TestServer::start(from).await;
    let there = Conversation::on(&source).await;
    let before = there.view().await;
    let (file, printed) = exports.export("export.ndjson", &source.database());
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600,
        "it holds the key"
    );

    let target = Database::new(to).await;
    assert_eq!(succeeded(&import(&file, &target)), printed);
    let target = TestServer::on(target, &[]).await;
    // The tokens are accepted, because the key that signed them was imported.
    let here = there.at(&target);
    for (expected, found) in before.iter().zip(here.view().await) {
        assert_eq!(*expected, found);
    }

    goes_on(&here).await;
    assert_eq!(succeeded(&command(&["check"], &target.database())), "");
}

/// Checks that the people can continue the conversation as if nothing had happened.
async fn goes_on(here: &Conversation) {
    let [alice, bob, carol] = &here.people;
    let last = last_seq_of_pair(here, alice).await;
    let again = alice
        .sends_as(&here.pair, "sent \u{1f3b2} \"once\"\n", "client 1")
        .await
        .ok()["post"]
        .take();
    assert_eq!(again["postId"], here.with_client_id["postId"]);
    let next = bob.says(&here.pair, "and on").await;
    assert_eq!(next["seq"], last + 1);
    assert_eq!(
        alice.room_with(&[bob]).await,
        here.pair,
        "it is still found by its members"
    );
    alice
        .edits(&here.pair, &here.with_client_id["postId"], "by bus")
        .await
        .ok();
    assert_eq!(
        alice.finds(&format!("{}/search", here.pair), "bus").await,
        ["by bus"]
    );
    alice.says(&here.large, "in the large room").await;
    let recent = alice.recents("").await;
    assert_eq!(recent[0]["message"]["messageText"], "in the large room");
    alice.removes(&here.group, carol).await.ok();
    assert_eq!(carol.posts(&here.group, "no more").await.status, 403);
}

/// Returns the last sequence number of the room of two.
async fn last_seq_of_pair(conversation: &Conversation, person: &Person) -> u64 {
    let log = person
        .syncs(&conversation.pair, "?since=0&limit=1000")
        .await;
    let entries = log["entries"].as_array().unwrap();
    entries.last().unwrap()["seq"].as_u64().unwrap()
}

#[tokio::test]
async fn passwords_are_transferred_and_sessions_end() {
    let exports = Exports::new();
    let source = TestServer::secure(Kind::Sqlite).await;
    let alice = source.member("alice").await;
    alice.get("/room").await.ok();
    let (file, _) = exports.export("export.ndjson", &source.database());
    let target = Database::new(Kind::Sqlite).await;
    succeeded(&import(&file, &target));
    let target = TestServer::on(target, &SECURE).await;
    assert_eq!(alice.at(&target).get("/room").await.status, 401);
    let login = target.enters("alice", PASSWORD).await.ok();
    assert_eq!(login["user"]["_id"], *alice.id);
}

#[apply(each_store)]
#[tokio::test]
async fn an_export_while_messages_are_posted_is_complete_up_to_a_point(kind: Kind) {
    let exports = Exports::new();
    let source = TestServer::start(kind).await;
    let (alice, bob, room) = source.two_in_a_room().await;
    for n in 0..10 {
        alice.says(&room, &format!("before {n}")).await;
    }
    let (file, database) = (exports.path("export.ndjson"), source.database());
    let path = file.clone();
    let exporting = tokio::task::spawn_blocking(move || {
        succeeded(&command(&["export", path.to_str().unwrap()], &database))
    });
    let mut meanwhile = 0;
    while !exporting.is_finished() {
        let post = bob.says(&room, &format!("meanwhile {meanwhile}")).await;
        // Changes of what may have been exported already.
        alice.edits(&room, &post["postId"], "not hers").await;
        bob.edits(&room, &post["postId"], &format!("edited {meanwhile}"))
            .await
            .ok();
        bob.deletes(&post["postId"]).await;
        alice.marks_read(&room).await;
        meanwhile += 1;
    }
    exporting.await.unwrap();
    let target = Database::new(Kind::Sqlite).await;
    succeeded(&import(&file, &target));
    assert_eq!(succeeded(&command(&["check"], &target)), "");
    let target = TestServer::on(target, &[]).await;
    let texts = alice.at(&target).reads(&room, "?limit=100").await;
    assert!((0..10).all(|n| texts.contains(&format!("before {n}"))));
}
