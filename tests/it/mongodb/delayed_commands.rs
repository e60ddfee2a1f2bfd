//! Commands that MongoDB delays or refuses while clients are connected.

use mongodb::bson::doc;
use serde_json::{Value, json};

use crate::support::{
    databases::Database,
    harness::{PATIENCE, TestServer},
    mongod::Mongod,
    wire::{Socket, with_presence},
};

/// The edit is in the log, but its read state cannot be loaded, so there is no correct event to
/// send.
#[tokio::test]
async fn sockets_are_closed_after_an_edit_whose_readers_are_unknown() {
    let mongod = Mongod::obedient();
    let server = TestServer::on(Database::on(&mongod), &[]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let post = alice.says(&room, "frist").await;
    let socket = Socket::of(&bob, &room).await;
    mongod
        .hinder("aggregate", "readmarks", doc! { "errorCode": 50 })
        .await;
    let answer = alice.edits(&room, &post["postId"], "first").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(socket.ends().await, Vec::<Value>::new());
    mongod.release().await;
    let mut socket = Socket::by(&bob).await;
    let synced = socket
        .asks("sync", json!([{ "rooms": { &room: 1 } }]))
        .await["rooms"][&room]
        .take();
    assert_eq!(
        synced["entries"][0]["message"]["message"],
        json!({ "messageText": "first" })
    );
    let again = alice.edits(&room, &post["postId"], "1st").await.ok()["post"].take();
    assert_eq!(
        socket.hears_of("message edited").await,
        json!({ "message": again, "seq": 3 })
    );
}

/// Before the server announces that a user is offline, it accesses the database, which may take
/// some time.
#[ignore = "slow"]
#[tokio::test]
async fn a_reconnect_before_the_offline_event_cancels_it() {
    let mongod = Mongod::obedient();
    let server = TestServer::on(Database::on(&mongod), &[]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut alices = with_presence(&alice, &room).await;
    let bobs = Socket::by(&bob).await;
    alices.hears_of("user online").await;
    // Delays the update of the time when Bob was last seen.
    mongod
        .hinder(
            "update",
            "users",
            doc! { "blockConnection": true, "blockTimeMS": 6_000 },
        )
        .await;
    drop(bobs);
    let patience = i64::try_from(PATIENCE.as_millis()).unwrap();
    mongod.admin(doc! { "waitForFailPoint": "failCommand", "timesEntered": 1_i64, "maxTimeMS": patience }).await;
    assert_eq!(alice.sees(&room).await[1]["online"], false);
    let bobs = Socket::by(&bob).await;
    assert_eq!(alice.sees(&room).await[1]["online"], true);
    let back = alice.says(&room, "back").await["createdAt"].clone();
    alices.hears_post().await;
    // Disabling the fail point waits for the commands that it still delays.
    mongod.release().await;
    drop(bobs);
    let heard = alices.hears_of("user offline").await;
    assert!(heard["lastSeenAt"].as_str() >= back.as_str(), "{heard}");
    alices.hears_nothing_more().await;
}
