//! Deleting rooms and messages.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, TestServer};
use crate::{databases::Kind, each_store};
use rstest_reuse::apply;

#[apply(each_store)]
#[tokio::test]
async fn a_deleted_message_is_gone_and_its_number_stays_taken(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob] = [server.person("Alice").await, server.person("Bob").await];
    let room = alice.room_with(&[&bob]).await;
    alice.posts(&room, "one").await.ok();
    let two = alice.posts(&room, "two").await.ok()["post"]["postId"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        server.delete(&format!("/delete/message/{two}")).await.ok()["deletedMessagesCount"],
        1
    );
    assert_eq!(
        server.delete(&format!("/delete/message/{two}")).await.ok()["deletedMessagesCount"],
        0
    );
    assert_eq!(
        server.delete("/delete/message/nope").await.ok()["deletedMessagesCount"],
        0
    );
    assert_eq!(
        alice.posts(&room, "three").await.ok()["post"]["seq"],
        4,
        "the deletion has a number as well"
    );
    assert_eq!(bob.reads(&room, "").await, ["one", "three"]);
    assert_eq!(
        bob.marks_read(&room).await,
        2,
        "a deleted message was never unread"
    );
}

#[apply(each_store)]
#[tokio::test]
async fn a_deleted_room_takes_its_messages_along(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob] = [server.person("Alice").await, server.person("Bob").await];
    let room = alice.room_with(&[&bob]).await;
    let mut posts = Vec::new();
    for n in 0..5 {
        posts.push(
            alice.posts(&room, &format!("{n}")).await.ok()["post"]["postId"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    server
        .delete(&format!("/delete/message/{}", posts[0]))
        .await
        .ok();
    let answer = server.delete(&format!("/delete/room/{room}")).await.ok();
    assert_eq!(
        answer,
        json!({ "success": true, "message": "Operation performed succesfully", "deletedRoomsCount": 1, "deletedMessagesCount": 4 })
    );
    let again = server.delete(&format!("/delete/room/{room}")).await.ok();
    assert_eq!(
        (&again["deletedRoomsCount"], &again["deletedMessagesCount"]),
        (&json!(0), &json!(0))
    );
    alice
        .get(&format!("/room/{room}"))
        .await
        .refused(400, "No room exists for this id");
    alice
        .posts(&room, "late")
        .await
        .refused(400, "No room exists for this id");
    assert_eq!(
        server
            .delete(&format!("/delete/message/{}", posts[1]))
            .await
            .ok()["deletedMessagesCount"],
        0
    );
    assert_eq!(bob.recents("").await, Vec::<Value>::new());
    let new = alice.initiate(&[&bob]).await.ok()["chatRoom"].clone();
    assert_eq!(new["isNew"], true);
    assert_ne!(new["chatRoomId"], *room);
}

#[apply(each_store)]
#[tokio::test]
async fn a_room_deleted_while_people_post_leaves_nothing_behind(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob] = [server.person("Alice").await, server.person("Bob").await];
    for _ in 0..5 {
        let room = alice.room_with(&[&bob]).await;
        alice.posts(&room, "there is a room").await.ok();
        let posting = (0..16).map(|n| {
            let (person, room) = (
                if n % 2 == 0 {
                    alice.clone()
                } else {
                    bob.clone()
                },
                room.clone(),
            );
            tokio::spawn(async move {
                let mut posted = 0;
                loop {
                    let answer = person.posts(&room, "more").await;
                    if answer.status != 200 {
                        answer.refused(400, "No room exists for this id");
                        return posted;
                    }
                    posted += 1;
                }
            })
        });
        let posting: Vec<_> = posting.collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let deleted = server.delete(&format!("/delete/room/{room}")).await.ok();
        let mut acknowledged = 1;
        for poster in posting {
            acknowledged += poster.await.unwrap();
        }
        assert_eq!(
            deleted["deletedMessagesCount"], acknowledged,
            "every post that was acknowledged was deleted, and no other"
        );
    }
    assert_eq!(alice.recents("").await, Vec::<Value>::new());
}

#[apply(each_store)]
#[tokio::test]
async fn what_a_deleted_user_wrote_stays(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let room = alice.room_with(&[&bob, &carol]).await;
    bob.posts(&room, "remember me").await.ok();
    server.delete(&format!("/users/{}", bob.id)).await.ok();
    let gone = json!({ "_id": bob.id, "firstName": "Deleted", "lastName": "user", "type": "consumer", "deleted": true });
    let body = alice.get(&format!("/room/{room}")).await.ok();
    assert_eq!(body["conversation"][0]["postedByUser"], gone);
    assert_eq!(
        body["conversation"][0]["message"]["messageText"],
        "remember me"
    );
    assert_eq!(body["users"], json!([alice.user, carol.user]));
    let recent = alice.recents("").await.remove(0);
    assert_eq!(recent["postedByUser"], gone);
    assert_eq!(recent["roomInfo"], json!([[alice.user], [carol.user]]));
    assert_eq!(recent["readByRecipients"][0]["readByUser"], json!([gone]));
    assert_eq!(
        alice.posts(&room, "we do").await.ok()["post"]["chatRoomInfo"],
        json!([alice.user, carol.user])
    );
    bob.posts(&room, "still here?")
        .await
        .refused(401, "No user with this id found");
    assert_eq!(alice.marks_read(&room).await, 1);
}

/// Returns which of these words are in the files of a database.
fn found<'a>(folder: &Path, words: &[&'a str]) -> Vec<&'a str> {
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
async fn what_was_erased_is_soon_in_no_file_of_the_database() {
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
    assert_eq!(found(folder, &ERASED), ERASED);

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
    let erased = async {
        while !found(folder, &[&ERASED[..], &["falcon"]].concat()).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, erased)
        .await
        .unwrap_or_else(|_| panic!("{:?} are still there", found(folder, &ERASED)));
    assert_eq!(
        found(folder, &["sparrow", "eagle"]),
        ["sparrow", "eagle"],
        "and nothing else is gone"
    );

    // Data is erased from a room that is still in use, too.
    let crane = alice.says(&room, "crane").await;
    alice.deletes(&crane["postId"]).await;
    let erased = async {
        while !found(folder, &["crane"]).is_empty() {
            alice.says(&room, "sparrow").await;
        }
    };
    tokio::time::timeout(PATIENCE, erased)
        .await
        .expect("it is still there");
}
