//! Deleting rooms and messages.

use std::time::Duration;

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer},
};

#[tokio::test]
async fn a_deleted_message_keeps_its_sequence_number() {
    let server = TestServer::start(Kind::Sqlite).await;
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

#[tokio::test]
async fn deleting_a_room_deletes_its_messages() {
    let server = TestServer::start(Kind::Sqlite).await;
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
async fn a_room_deleted_under_load_leaves_no_messages(kind: Kind) {
    let server = TestServer::start(kind).await;
    let [alice, bob] = [server.person("Alice").await, server.person("Bob").await];
    for _ in 0..5 {
        let room = alice.room_with(&[&bob]).await;
        alice.posts(&room, "there is a room").await.ok();
        let posting = (0..16).map(|n| {
            let (person, room) = ([&alice, &bob][n % 2].clone(), room.clone());
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
async fn messages_of_a_deleted_user_remain(kind: Kind) {
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
