//! Kills the process repeatedly under load: no acknowledged message is lost, duplicated or out of
//! order.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    each_deployment,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::PATIENCE,
        person::{Person, log_of},
        program::Program,
    },
};

const KILLS: usize = 5;
const ROOMS: usize = 4;
const POSTERS: usize = 16;
/// The number of acknowledged posts between two kills.
const BETWEEN_KILLS: usize = 300;

/// The acknowledged messages: maps each text to its room and sequence number.
type Acknowledged = Arc<Mutex<HashMap<String, (String, u64)>>>;

#[apply(each_deployment)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_a_kill_exactly_once(kind: Kind) {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let settings = [("CAUSERIE_DATABASE", database.url.as_str())];
    let mut program = Program::start(folder.path(), &settings);
    let (alice, rooms) = alice_and_her_rooms(&program.base).await;
    let acknowledged = Acknowledged::default();
    for round in 0..KILLS {
        let done = Arc::new(AtomicUsize::new(0));
        let posters: Vec<_> = (0..POSTERS)
            .map(|poster| {
                let caller = Person {
                    base: program.base.clone(),
                    http: reqwest::Client::new(),
                    ..alice.clone()
                };
                let (room, acknowledged, done) = (
                    rooms[poster % ROOMS].clone(),
                    Arc::clone(&acknowledged),
                    Arc::clone(&done),
                );
                tokio::spawn(async move {
                    for n in 0.. {
                        let text = format!("{round}/{poster}/{n}");
                        let request = caller
                            .request(Method::POST, &format!("/room/{room}/message"))
                            .json(&json!({ "messageText": text }));
                        let Ok(answer) = request.send().await else {
                            return;
                        };
                        let Ok(body) = answer.json::<Value>().await else {
                            return;
                        };
                        let seq = body["post"]["seq"].as_u64().unwrap();
                        assert!(
                            acknowledged
                                .lock()
                                .unwrap()
                                .insert(text, (room.clone(), seq))
                                .is_none()
                        );
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        while done.load(Ordering::Relaxed) < BETWEEN_KILLS {
            assert!(
                Instant::now() < deadline,
                "the posts are not getting anywhere"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        program.kill();
        for poster in posters {
            poster.await.unwrap();
        }
        program = Program::start(folder.path(), &settings);
        let so_far = acknowledged.lock().unwrap().clone();
        check(
            &Person {
                base: program.base.clone(),
                ..alice.clone()
            },
            &rooms,
            &so_far,
        )
        .await;
    }
}

async fn alice_and_her_rooms(base: &str) -> (Person, Vec<String>) {
    let http = reqwest::Client::new();
    let mut ids = Vec::new();
    for n in 0..=ROOMS {
        let body = json!({ "firstName": format!("{n}"), "lastName": "x", "type": "consumer" });
        let user = Answer::of(http.post(format!("{base}/users")).json(&body))
            .await
            .ok();
        ids.push(user["user"]["_id"].as_str().unwrap().to_owned());
    }
    let login = Answer::of(http.post(format!("{base}/login/{}", ids[0])))
        .await
        .ok();
    let alice = Person {
        base: base.to_owned(),
        http,
        id: ids[0].clone(),
        token: login["authorization"].as_str().unwrap().to_owned(),
        user: json!(null),
    };
    let mut rooms = Vec::new();
    for id in &ids[1..] {
        let body = json!({ "userIds": [id], "type": "consumer-to-consumer" });
        let room = Answer::of(alice.request(Method::POST, "/room/initiate").json(&body))
            .await
            .ok();
        rooms.push(room["chatRoom"]["chatRoomId"].as_str().unwrap().to_owned());
    }
    (alice, rooms)
}

/// Checks that every log is complete and holds each acknowledged message once, at the acknowledged
/// sequence number.
async fn check(alice: &Person, rooms: &[String], acknowledged: &HashMap<String, (String, u64)>) {
    let mut found = HashMap::new();
    for room in rooms {
        for (text, seq) in log_of(alice, room).await {
            assert_eq!(
                found.insert(text, (room.clone(), seq)),
                None,
                "a message stands there twice"
            );
        }
    }
    for (text, place) in acknowledged {
        assert_eq!(found.get(text), Some(place), "{text} was acknowledged");
    }
}
