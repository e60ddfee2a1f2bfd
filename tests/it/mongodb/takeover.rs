//! Takes over a database of the original application.

use causerie::model::Timestamp;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{
    databases::{Database, Kind},
    harness::TestServer,
    original::{
        ALICE, BOB, CAROL, DOUBLE, GONE, NO_ROOM, ROOM, TWICE, at, contents, id, original, person,
        readers,
    },
};

fn iso(millis: i64) -> Value {
    Timestamp(at(millis).timestamp_millis()).to_string().into()
}

#[rstest]
#[tokio::test]
async fn data_of_the_original_application_is_available(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    original(&database.url).await;
    let server = TestServer::on(database, &[]).await;
    let [alice, bob] = [person(&server, ALICE).await, person(&server, BOB).await];
    let users = server.get("/users").await.ok()["users"].clone();
    assert_eq!(
        users
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["_id"].clone())
            .collect::<Vec<_>>(),
        [id(ALICE), id(BOB), id(CAROL)]
    );
    assert_eq!(users[0]["createdAt"], iso(ALICE.into()));

    // By time, then by id. Ids of the same time are compared as texts.
    let mut same_time = [id(101), id(102)];
    same_time.sort();
    let room = id(ROOM);
    let body = alice.get(&format!("/room/{room}")).await.ok();
    let conversation = body["conversation"].as_array().unwrap();
    let ids: Vec<_> = conversation
        .iter()
        .map(|message| message["_id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            &same_time[0],
            &same_time[1],
            &id(103),
            &id(104),
            &id(105),
            &id(106)
        ]
    );
    assert_eq!(
        conversation
            .iter()
            .map(|message| message["seq"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(conversation[2]["message"]["messageText"], "text 103");
    assert_eq!(conversation[2]["createdAt"], iso(1_200));
    let gone = json!({ "_id": id(GONE), "firstName": "Deleted", "lastName": "user", "type": "consumer", "deleted": true });
    assert_eq!(conversation[4]["postedByUser"], gone);
    assert_eq!(body["users"].as_array().unwrap().len(), 2);

    assert_eq!(
        readers(&conversation[0]),
        json!([[id(ALICE), iso(1_000)], [id(BOB), iso(2_000)]])
    );
    assert_eq!(
        readers(&conversation[2]),
        json!([[id(BOB), iso(1_200)], [id(ALICE), iso(5_000)]])
    );
    assert_eq!(
        readers(&conversation[3]),
        json!([[id(BOB), iso(1_300)], [id(ALICE), iso(6_000)]])
    );
    assert_eq!(readers(&conversation[5]), json!([[id(ALICE), iso(1_500)]]));
    assert_eq!(
        alice.marks_read(&room).await,
        1,
        "that of the one who is gone"
    );
    assert_eq!(bob.marks_read(&room).await, 2, "that, and Alice's last");

    let found = alice.initiate(&[&bob]).await.ok()["chatRoom"].clone();
    assert_eq!(
        (&found["isNew"], &found["chatRoomId"]),
        (&json!(false), &json!(room)),
        "the older one"
    );
    assert_eq!(
        bob.reads(&id(DOUBLE), "").await,
        ["", "text 111"],
        "and the other can be read"
    );
    let carol = person(&server, CAROL).await;
    assert_eq!(alice.room_with(&[&carol]).await, id(TWICE));
    let twice = carol.get(&format!("/room/{}", id(TWICE))).await.ok();
    assert_eq!(twice["users"].as_array().unwrap().len(), 2);
    assert_eq!(
        readers(&twice["conversation"][0]),
        json!([[id(CAROL), iso(1_600)], [id(ALICE), iso(1_700)]])
    );

    let recents: Vec<_> = alice
        .recents("")
        .await
        .iter()
        .map(|recent| recent["_id"].clone())
        .collect();
    assert_eq!(recents, [id(TWICE), room.clone(), id(DOUBLE)]);
    assert_eq!(
        alice.posts(&room, "and on it goes").await.ok()["post"]["seq"],
        7
    );
    assert_eq!(
        alice.posts(&id(DOUBLE), "here too").await.ok()["post"]["seq"],
        3
    );
    alice
        .get(&format!("/room/{}", id(NO_ROOM)))
        .await
        .refused(400, "No room exists for this id");
}

#[rstest]
#[tokio::test]
async fn the_takeover_changes_no_original_data_and_runs_once(
    #[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind,
) {
    let database = Database::new(kind).await;
    let mongodb = original(&database.url).await;
    let collections = ["users", "chatrooms", "chatmessages"];
    let mut before = Vec::new();
    for collection in collections {
        before.push(contents(&mongodb, collection).await);
    }
    let mut server = TestServer::on(database, &[]).await;
    // Indexing adds to the messages in the background.
    server.database().indexed().await;
    let mut after = Vec::new();
    for (collection, before) in collections.iter().zip(&before) {
        let now = contents(&mongodb, collection).await;
        for original in before {
            let taken_over = now
                .iter()
                .find(|document| document.get("_id") == original.get("_id"))
                .unwrap();
            for (field, value) in original {
                assert_eq!(
                    taken_over.get(field),
                    Some(value),
                    "{field} in {collection}"
                );
            }
        }
        after.push(now);
    }
    let marks = contents(&mongodb, "readmarks").await;
    assert_eq!(marks.len(), 5, "{marks:?}");
    server.restart().await;
    for (collection, after) in collections.iter().zip(&after) {
        assert_eq!(&contents(&mongodb, collection).await, after);
    }
    assert_eq!(contents(&mongodb, "readmarks").await, marks);
}
