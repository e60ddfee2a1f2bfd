//! Texts that were deleted or replaced are nowhere in the database.

use std::{fs, path::Path, time::Duration};

use causerie::{model::MessageId, store::NewEntryKind};
use mongodb::bson::{Document, doc};
use rstest_reuse::apply;

use crate::{
    each_store,
    support::{
        databases::{Database, Kind},
        entries::edit,
        harness::{PATIENCE, TestServer},
        person::Person,
        search::{found, in_room, says, with_room},
        store::{append, change, delete, draft, with_messages},
    },
};

/// Texts that occur nowhere else.
const SECRETS: [&str; 3] = ["qqfirstdraftqq", "qqsecondthoughtqq", "qqregrettedqq"];

/// Returns everything that tools of the database find of the texts: the raw bytes of the file and
/// its journals, or every document.
async fn kept(server: &TestServer, kind: Kind) -> String {
    let url = server.database().url;
    if kind == Kind::Sqlite {
        let path = url.strip_prefix("sqlite:").unwrap();
        let files = [
            path.to_owned(),
            format!("{path}-wal"),
            format!("{path}-journal"),
        ];
        return files
            .iter()
            .filter_map(|file| std::fs::read(file).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect();
    }
    let database = mongodb::Client::with_uri_str(&url)
        .await
        .unwrap()
        .default_database()
        .unwrap();
    let mut all = String::new();
    for name in database.list_collection_names().await.unwrap() {
        let mut documents = database
            .collection::<Document>(&name)
            .find(doc! {})
            .await
            .unwrap();
        while documents.advance().await.unwrap() {
            all.extend([
                name.as_str(),
                ": ",
                &documents.deserialize_current().unwrap().to_string(),
                "\n",
            ]);
        }
    }
    all
}

#[apply(each_store)]
#[tokio::test]
async fn deleted_and_replaced_texts_are_nowhere_in_the_database(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let edited = alice.says(&room, SECRETS[0]).await;
    let regretted = alice.says(&room, SECRETS[2]).await;
    server.database().indexed().await;
    assert_eq!(
        bob.get(&format!("/room/search?q={}", SECRETS[0]))
            .await
            .ok()["messages"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(
        kept(&server, kind).await.contains(SECRETS[0]),
        "this would find it"
    );
    alice.edits(&room, &edited["postId"], SECRETS[1]).await.ok();
    assert_eq!(
        bob.get(&format!("/room/search?q={}", SECRETS[1]))
            .await
            .ok()["messages"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    alice
        .edits(&room, &edited["postId"], "qqfinalqq")
        .await
        .ok();
    alice.deletes(&regretted["postId"]).await;
    assert_eq!(bob.reads(&room, "").await, ["qqfinalqq"]);
    server.stop().await;
    let kept = kept(&server, kind).await;
    assert!(kept.contains("qqfinalqq"));
    for secret in SECRETS {
        if let Some(at) = kept.find(secret) {
            let from = kept[..at]
                .char_indices()
                .rev()
                .nth(200)
                .map_or(0, |(at, _)| at);
            panic!(
                "{secret} is still there: {:?}",
                &kept[from..at + secret.len()]
            );
        }
    }
}

/// Returns which of these words are in the files of a database.
fn words_in_files<'a>(folder: &Path, words: &[&'a str]) -> Vec<&'a str> {
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect();
    let holds = |word: &str| {
        files.iter().any(|file| {
            file.windows(word.len())
                .any(|window| window == word.as_bytes())
        })
    };
    words.iter().copied().filter(|word| holds(word)).collect()
}

#[tokio::test]
async fn erased_texts_soon_disappear_from_all_database_files() {
    const ERASED: [&str; 5] = ["walrus", "ostrich", "penguin", "quokka", "Heliotrope"];
    let server = TestServer::start(Kind::Sqlite).await;
    let database = server.database();
    let file = Path::new(database.url.strip_prefix("sqlite:").unwrap());
    let folder = file.parent().unwrap();
    let (alice, bob, room) = server.two_in_a_room().await;
    let deleted_room = alice.named_room("another", &[&bob]).await;
    let user = server.person("Heliotrope").await;
    let by_id = alice.says(&room, "walrus").await;
    let edited = alice.says(&room, "ostrich").await;
    let edited_and_deleted = alice.says(&room, "penguin").await;
    alice.says(&deleted_room, "quokka").await;
    alice.says(&room, "sparrow").await;
    // The words are then in the search index, and all data is in the database file itself.
    database.indexed().await;
    for word in ["walrus", "ostrich", "penguin", "quokka"] {
        assert_eq!(
            alice.get(&format!("/room/search?q={word}")).await.ok()["messages"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
    let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
    rusqlite::Connection::open(file)
        .unwrap()
        .query_row(checkpoint, [], |_| Ok(()))
        .unwrap();
    assert_eq!(words_in_files(folder, &ERASED), ERASED);

    alice.edits(&room, &edited["postId"], "eagle").await.ok();
    alice
        .edits(&room, &edited_and_deleted["postId"], "falcon")
        .await
        .ok();
    alice.deletes(&edited_and_deleted["postId"]).await;
    alice.deletes(&by_id["postId"]).await;
    server
        .delete(&format!("/delete/room/{deleted_room}"))
        .await
        .ok();
    server.delete(&format!("/users/{}", user.id)).await.ok();
    until_erased(folder, &[&ERASED[..], &["falcon"]].concat()).await;
    assert_eq!(
        words_in_files(folder, &["sparrow", "eagle"]),
        ["sparrow", "eagle"],
        "and nothing else is gone"
    );

    check_room_in_use(folder, &alice, &room).await;
}

/// Waits until the words are in none of the files in the folder.
async fn until_erased(folder: &Path, words: &[&str]) {
    let erased = async {
        while !words_in_files(folder, words).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, erased)
        .await
        .unwrap_or_else(|_| panic!("{:?} are still there", words_in_files(folder, words)));
}

/// Checks that a deleted text also disappears from the files in the folder while others are posted
/// in its room.
async fn check_room_in_use(folder: &Path, alice: &Person, room: &str) {
    let crane = alice.says(room, "crane").await;
    alice.deletes(&crane["postId"]).await;
    let erased = async {
        while !words_in_files(folder, &["crane"]).is_empty() {
            alice.says(room, "sparrow").await;
        }
    };
    tokio::time::timeout(PATIENCE, erased)
        .await
        .expect("it is still there");
}

#[tokio::test]
async fn deleted_and_replaced_texts_are_gone_from_the_file() {
    let database = Database::new(Kind::Sqlite).await;
    let (store, room) = with_messages(&database, 0).await;
    for n in 1..=200 {
        append(&store, draft(&room, 1, n)).await;
    }
    for n in (1..=200).step_by(2) {
        append(&store, change(&room, 1, edit(n, "now"))).await;
        assert!(delete(&store, &room, n + 1).await);
    }
    store.database.close().await;
    let bytes = std::fs::read(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    let is_text = |window: &[u8]| window.starts_with(b"text ") && window[5].is_ascii_digit();
    assert!(!bytes.windows(6).any(is_text), "a text is still there");
}

#[tokio::test]
async fn words_of_deleted_and_replaced_texts_are_gone_from_the_file() {
    let database = Database::new(Kind::Sqlite).await;
    let (store, room) = with_room(&database, &[]).await;
    for n in 1..=300 {
        append(&store, says(&room, n, &format!("xylophone{n} ordinary"))).await;
    }
    database.indexed().await;
    let indexed = "SELECT count(*) FROM search_postings WHERE term LIKE 'xylophone%'";
    assert_eq!(
        database
            .file()
            .query_row(indexed, [], |row| row.get::<_, i64>(0))
            .unwrap(),
        300
    );
    assert_eq!(
        found(&store, in_room(&room), "ordinary", None, 500)
            .await
            .len(),
        300
    );
    for n in (1..=300).step_by(2) {
        let message = MessageId::from_bytes(u128::from(n).to_be_bytes());
        append(
            &store,
            change(
                &room,
                1,
                NewEntryKind::Edit {
                    message,
                    text: "ordinary".into(),
                },
            ),
        )
        .await;
        assert!(delete(&store, &room, n + 1).await);
    }
    assert_eq!(
        found(&store, in_room(&room), "ordinary", None, 500)
            .await
            .len(),
        150
    );
    store.database.close().await;
    let bytes = std::fs::read(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    assert!(
        !bytes.windows(9).any(|window| window == b"xylophone"),
        "a word is still there"
    );
}
