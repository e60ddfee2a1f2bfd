//! HTTP polling: malformed payloads.

use futures_util::future::join_all;
use rand::RngExt;

use crate::support::{
    databases::Kind,
    loaded_server::LoadedServer,
    person::Person,
    polling::BINARY,
    random::{mutated, noise, one_of, random},
    wire::Socket,
};

#[tokio::test]
async fn a_payload_length_inside_a_character_does_not_loop_forever() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    // More sessions than a machine has threads.
    let sessions: Vec<_> = join_all((0..32).map(|_| loaded.session(3))).await;
    for status in join_all(
        sessions
            .iter()
            .map(|session| session.sends("text/plain;charset=UTF-8", "1:😀x")),
    )
    .await
    {
        assert_eq!(status, 400);
    }
    loaded.ends_well().await;
}

/// Text payloads of version 3 with a wrong length or type.
const WRONG_TEXTS: [&[u8]; 24] = [
    b":",
    b"1",
    b"1:",
    b"0:",
    b"-1:2",
    b"+1:",
    b"2:2",
    b"5:2",
    b"x:2",
    b"1:22",
    b"1:\xff",
    b"1:\xf0\x9f\x98\x80",
    b"2:\xf0\x9f\x98\x80",
    b"3:4\xf0\x9f\x98\x80x",
    b"2:4\xf0\x9f\x98\x80x1:2",
    b"1:21:",
    b"1:21:5",
    b"99999999999999999999:2",
    b"18446744073709551615:2",
    b"4294967296:2",
    b"1 :2",
    b" 1:2",
    b"\x001\xff2",
    b"{}",
];

/// Binary payloads of version 3 with a wrong length or type.
const WRONG_BINARY: [&[u8]; 16] = [
    b"\x00\x01\xff",
    b"\x00\xff",
    b"\x00\x00\xff2",
    b"\x00\x01\xff2",
    b"\x00\x02\xff2",
    b"\x01\x01\xff\x04",
    b"\x01\x01\xff",
    b"\x01\x00\xff",
    b"\x02\x01\xff2",
    b"\xff",
    b"\x00",
    b"\x00\x09\x09\x09\x09\x09\x09\x09\x09\xff2",
    b"\x00\x09\x09\x09\x09\x09\x09\x09\x09\x09\xff2",
    b"\x00\x0a\xff2",
    b"\x00\x01\xff\xff",
    b"\x01\x03\xff\xff\xff\xff",
];

#[tokio::test]
async fn version_3_payloads_with_wrong_lengths_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for (kind, payloads) in [
        ("text/plain;charset=UTF-8", &WRONG_TEXTS[..]),
        (BINARY, &WRONG_BINARY),
        (BINARY, &WRONG_TEXTS),
        ("text/plain", &WRONG_BINARY),
    ] {
        for payload in payloads {
            let session = loaded.session(3).await;
            let status = session.sends(kind, *payload).await;
            assert!(
                matches!(status, 200 | 400),
                "{}: {status}",
                payload.escape_ascii()
            );
            session.pings().await;
        }
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_client_of_version_3_is_understood() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(3).await;
    // Clients send events once they know that they are connected.
    while !session.hears().await.1.contains(":40") {}
    let event = format!("4217[\"subscribe\",\"{}\",\"é😀\"]", loaded.room);
    // JavaScript counts UTF-16 code units: the last character has two.
    assert_eq!(
        session
            .sends(
                "text/plain;charset=UTF-8",
                format!("1:2{}:{event}1:2", event.encode_utf16().count())
            )
            .await,
        200
    );
    let mut heard = String::new();
    while !heard.contains("4317[{\"success\":true}]") {
        let (status, packets) = session.hears().await;
        assert_eq!(status, 200);
        heard.push_str(&packets);
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn invalid_version_4_payloads_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let long = "4".repeat(100_000);
    let payloads: [&[u8]; 20] = [
        b"",
        b"\x1e",
        b"\x1e\x1e\x1e",
        b"2\x1e",
        b"\x1e2",
        b"0",
        b"5",
        b"6",
        b"7",
        b"9",
        b"x",
        b"\xff",
        b"4\xff",
        b"b",
        b"b=",
        b"b\xff",
        b"42[",
        b"42[]\x1e42[]\x1e42[]",
        b"40\x1e41\x1e40\x1e42[\"x\"]",
        long.as_bytes(),
    ];
    for kind in ["text/plain;charset=UTF-8", BINARY, "application/json", ""] {
        for payload in payloads {
            let session = loaded.session(4).await;
            let status = session.sends(kind, payload).await;
            assert!(
                matches!(status, 200 | 400),
                "{}: {status}",
                payload[..payload.len().min(20)].escape_ascii()
            );
            session.sends(kind, "40").await;
        }
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let long = "4".repeat(100_000);
    for (version, too_large) in [
        (3, format!("100000:{long}")),
        (4, format!("{long}4")),
        (3, "x".repeat(1_000_000)),
        (4, "x".repeat(1_000_000)),
    ] {
        assert_eq!(
            loaded
                .session(version)
                .await
                .sends("text/plain", too_large)
                .await,
            413
        );
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn thousands_of_random_payloads_are_survived() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut random = random();
    let event = format!("42[\"subscribe\",\"{}\"]", loaded.room);
    let valid = [
        (
            3_u8,
            "text/plain",
            format!("1:2{}:{event}2:40", event.len()).into_bytes(),
        ),
        (3, "text/plain", "6:4é😀😀6:4😀\u{301}é".into()),
        (
            3,
            BINARY,
            [b"\x00\x01\xff2\x01\x03\xff\x04ab\x00\x02\xff40".as_slice()].concat(),
        ),
        (
            4,
            "text/plain",
            format!("2\x1e40\x1e{event}\x1ebAAAA\x1e451-[{{\"_placeholder\":true,\"num\":0}}]")
                .into_bytes(),
        ),
    ];
    let attacks: Vec<_> = (0..2_000)
        .map(|_| {
            let (version, kind, payload) = one_of(&mut random, &valid);
            let payload = if random.random_bool(0.1) {
                noise(&mut random, 300)
            } else {
                mutated(&mut random, payload)
            };
            (*version, *kind, payload)
        })
        .collect();
    join_all(attacks.chunks(500).map(async |attacks| {
        for attack in attacks.chunks(4) {
            let sessions = [loaded.session(3).await, loaded.session(4).await];
            for (version, kind, payload) in attack {
                let session = &sessions[usize::from(*version) - 3];
                let status = session.sends(kind, payload.clone()).await;
                assert!(
                    matches!(status, 200 | 400),
                    "{}: {status}",
                    payload.escape_ascii()
                );
            }
        }
    }))
    .await;
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_session_that_stops_polling_takes_little_memory() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(4).await;
    let event = format!("42[\"subscribe\",\"{}\"]", loaded.room);
    let events = vec![event.as_str(); 1_000].join("\x1e");
    session.sends("text/plain", "40").await;
    // Waits for the connection, because hardly anything may be sent before.
    session.hears().await;
    for _ in 0..10 {
        session.sends("text/plain", events.clone()).await;
    }
    let alice: Person = loaded.alice.clone();
    let mut bobs = Socket::of(&loaded.bob, &loaded.room).await;
    let text = "x".repeat(90_000);
    for _ in 0..20 {
        let post = alice.posts(&loaded.room, &text).await.ok()["post"].clone();
        assert_eq!(bobs.hears_post().await, post);
    }
    loaded.ends_well().await;
}
