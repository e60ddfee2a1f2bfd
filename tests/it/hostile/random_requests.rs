//! Tens of thousands of random requests.

use futures_util::future::join_all;
use rand::{Rng, RngExt};

use crate::support::{
    databases::Kind,
    loaded_server::{LoadedServer, Request},
    person::{Person, new_person},
    random::{mutated, noise, one_of, random},
};

/// The number of random bodies for each endpoint.
const BODIES: usize = 10_000;
const CONNECTIONS: usize = 8;

const KINDS: [&[u8]; 14] = [
    b"application/json",
    b"application/json",
    b"application/json",
    b"application/json; charset=utf-8",
    b"application/json;charset=utf-16",
    b"Application/JSON ; charset=\"UTF-8\"; x",
    b"application/x-www-form-urlencoded",
    b"application/x-www-form-urlencoded; charset=\xff",
    b"multipart/form-data; boundary=x",
    b"text/html",
    b"",
    b";;;=",
    b"\x80\xff/json",
    b"application/json, application/json",
];

/// Returns a random body: three quarters are a valid body with errors or without, the others are
/// arbitrary bytes.
fn random_body(random: &mut impl Rng, path: &str, token: &str, valid: &[Vec<u8>]) -> Request {
    let body = match random.random_range(0..8) {
        0 => noise(random, 500),
        1 => noise(random, 8),
        2 => one_of(random, valid).clone(),
        _ => {
            let valid = one_of(random, valid);
            mutated(random, valid)
        }
    };
    let kind = one_of(random, &KINDS);
    Request::new(
        "POST",
        path.as_bytes(),
        &[("content-type", kind), ("authorization", token.as_bytes())],
        &body,
    )
}

async fn ten_thousand_bodies(kind: Kind, endpoint: usize) {
    let loaded = LoadedServer::begins(kind).await;
    let (path, fields) = loaded.bodies()[endpoint].clone();
    let json: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    let form: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", value.trim_matches(['[', ']', '"'])))
        .collect();
    let valid = [
        format!("{{{}}}", json.join(",")).into_bytes(),
        form.join("&").into_bytes(),
    ];
    let token = format!("Bearer {}", loaded.alice.token);
    let mut random = random();
    let requests: Vec<_> = (0..BODIES)
        .map(|_| random_body(&mut random, &path, &token, &valid))
        .collect();
    join_all(
        requests
            .chunks(BODIES / CONNECTIONS)
            .map(|share| loaded.answers_all(share)),
    )
    .await;
    loaded.ends_well().await;
}

#[tokio::test]
async fn ten_thousand_random_users_are_answered() {
    ten_thousand_bodies(Kind::Sqlite, 0).await;
}

#[tokio::test]
async fn ten_thousand_random_rooms_are_answered() {
    ten_thousand_bodies(Kind::Sqlite, 1).await;
}

#[tokio::test]
async fn ten_thousand_random_messages_are_answered() {
    ten_thousand_bodies(Kind::Sqlite, 2).await;
}

#[tokio::test]
async fn ten_thousand_random_members_are_answered() {
    ten_thousand_bodies(Kind::Sqlite, 3).await;
}

const METHODS: [&str; 10] = [
    "GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW",
];

const SEGMENTS: [&[u8]; 25] = [
    b"members",
    b"sync",
    b"search",
    b"unread",
    b"presence",
    b"users",
    b"room",
    b"room",
    b"login",
    b"delete",
    b"message",
    b"mark-read",
    b"initiate",
    b"health",
    b"ready",
    b"",
    b".",
    b"..",
    b"%2e%2e",
    b"%2F",
    b"%00",
    b"%ff",
    b"%",
    b"%u0041",
    b"*",
];

const QUERIES: [&[u8]; 20] = [
    b"since=",
    b"q=",
    b"page=",
    b"limit=",
    b"before=",
    b"after=",
    b"page",
    b"limit[]=",
    b"1",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"1e9",
    b"0x",
    b"%ff",
    b"%",
    b"&",
    b"+",
    b"?",
    b"NaN",
];

/// Returns a request for a path of valid and invalid segments with a similar query, with a token or
/// something that resembles one.
fn random_target(random: &mut impl Rng, mallory: &Person, room: &str) -> Request {
    let ids = [
        mallory.id.as_bytes(),
        room.as_bytes(),
        b"0199d1f0c0de7aaa8bbbccccddddeeee",
    ];
    let mut target = Vec::new();
    for _ in 0..random.random_range(1..=4) {
        let segment = if random.random_bool(0.3) {
            one_of(random, &ids)
        } else {
            one_of(random, &SEGMENTS)
        };
        target.push(b'/');
        target.extend(if random.random_bool(0.1) {
            legal(&mutated(random, segment))
        } else {
            segment.to_vec()
        });
    }
    if random.random_bool(0.5) {
        target.push(b'?');
        for _ in 0..random.random_range(0..8) {
            let piece = one_of(random, &QUERIES);
            target.extend(if random.random_bool(0.2) {
                legal(&mutated(random, piece))
            } else {
                piece.to_vec()
            });
        }
    }
    let token = format!("Bearer {}", mallory.token).into_bytes();
    let token = if random.random_bool(0.3) {
        legal(&mutated(random, &token))
    } else {
        token
    };
    let method = *one_of(random, &METHODS);
    Request::new(method, &target, &[("authorization", &token)], b"")
}

/// Removes the bytes that are not allowed in request lines and headers. `hostile::http` tests those.
fn legal(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .filter(|byte| byte.is_ascii_graphic() && !b"#\"<>`{}|^\\".contains(byte))
        .collect()
}

#[tokio::test]
async fn thousands_of_random_paths_are_answered() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mallory = new_person(&loaded.base, "Mallory").await;
    // A room that the random requests may post to, read and delete.
    let room = mallory.room_with(&[]).await;
    let mut random = random();
    let requests: Vec<_> = (0..4_000)
        .map(|_| random_target(&mut random, &mallory, &room))
        .collect();
    join_all(
        requests
            .chunks(1_000)
            .map(|share| loaded.answers_all(share)),
    )
    .await;
    loaded.ends_well().await;
}
