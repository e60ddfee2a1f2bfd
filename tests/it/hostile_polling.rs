//! HTTP polling: malformed queries and payloads, and requests in the wrong order.
//!
//! Tests of sessions and payloads alone run on one store, because the server does not use the
//! database for them beyond looking up a room.

use futures_util::future::join_all;
use rand::RngExt;
use reqwest::Method;
use rstest_reuse::apply;

use crate::{
    databases::Kind,
    each_store,
    harness::PATIENCE,
    hostile_frames::{TEXT, WEBSOCKET},
    hostile_load::{LoadedServer, mutated, noise, one_of, random},
    people::Person,
    raw::{Connection, frame},
    wire::Socket,
};

/// The session of a polling client.
pub struct Session<'a> {
    loaded: &'a LoadedServer,
    path: String,
}

const BINARY: &str = "application/octet-stream";

impl LoadedServer {
    /// Opens a session with this version of Engine.IO.
    pub async fn session(&self, version: u8) -> Session<'_> {
        let path = format!("/socket.io/?EIO={version}&transport=polling");
        let (status, opening) = self.polls(Method::GET, &path, "text/plain", "").await;
        assert_eq!(status, 200, "{opening}");
        let sid = opening
            .split("\"sid\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        Session {
            loaded: self,
            path: format!("{path}&sid={sid}"),
        }
    }

    /// Returns the response of the Socket.IO path, which must not be a server error.
    async fn polls(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Vec<u8>>,
    ) -> (u16, String) {
        let request = self
            .alice
            .http
            .request(method, format!("{}{path}", self.base))
            .header("content-type", kind)
            .body(body.into());
        let answer = tokio::time::timeout(PATIENCE, request.send())
            .await
            .expect("no answer")
            .unwrap();
        let status = answer.status().as_u16();
        assert!(status < 500, "{path}: {status}");
        (
            status,
            String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned(),
        )
    }
}

impl Session<'_> {
    pub async fn sends(&self, kind: &str, payload: impl Into<Vec<u8>>) -> u16 {
        self.loaded
            .polls(Method::POST, &self.path, kind, payload)
            .await
            .0
    }

    pub async fn hears(&self) -> (u16, String) {
        self.loaded
            .polls(Method::GET, &self.path, "text/plain", "")
            .await
    }

    /// Sends a heartbeat and returns the status, which is 400 when the session does not exist.
    async fn pings(&self) -> u16 {
        self.sends(
            "text/plain",
            if self.path.contains("EIO=3") {
                "1:2"
            } else {
                "3"
            },
        )
        .await
    }

    pub fn as_websocket(&self) -> String {
        self.path.replace("polling", "websocket")
    }
}

#[tokio::test]
async fn a_payload_whose_length_splits_a_character_does_not_keep_the_server_busy_for_ever() {
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

#[tokio::test]
async fn payloads_of_version_3_that_lie_about_their_lengths_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let texts: [&[u8]; 24] = [
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
    let binary: [&[u8]; 16] = [
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
    for (kind, payloads) in [
        ("text/plain;charset=UTF-8", &texts[..]),
        (BINARY, &binary),
        (BINARY, &texts),
        ("text/plain", &binary),
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

#[apply(each_store)]
#[tokio::test]
async fn a_client_of_version_3_is_understood(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
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
async fn rubbish_payloads_of_version_4_are_refused() {
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
async fn requests_that_belong_to_no_session_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(4).await;
    let sid = session.path.rsplit('=').next().unwrap();
    let mut queries: Vec<String> = [
        "",
        "?",
        "?EIO=4",
        "?transport=polling",
        "?EIO=&transport=",
        "?EIO&transport",
        "?EIO=99&transport=polling",
        "?EIO=-4&transport=polling",
        "?EIO=4&transport=carrier-pigeon",
        "?EIO=4&transport=polling&sid=",
        "?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAHs",
        "?EIO=4&transport=polling&sid=%00",
        "?EIO=4&transport=websocket",
        "?EIO=3&transport=websocket&sid=x",
        "?EIO=2&transport=polling",
        "?EIO=4;transport=polling",
        "?eio=4&TRANSPORT=polling",
        "/nowhere?x",
        "/?EIO=4&transport=polling&sid=../../users",
    ]
    .map(str::to_owned)
    .into();
    queries.push(format!("?EIO=4&transport=carrier-pigeon&sid={sid}"));
    queries.push(format!("?EIO=4&transport=websocket&sid={sid}"));
    queries.push(format!("?EIO=99&transport=polling&sid={sid}"));
    queries.push(format!(
        "?EIO=4&transport=polling&sid={}",
        sid.repeat(3_000)
    ));
    for query in &queries {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "BREW"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (status, answer) = loaded
                .polls(
                    method.clone(),
                    &format!("/socket.io{query}"),
                    "text/plain",
                    "1:2",
                )
                .await;
            assert_eq!(status, 400, "{method} {query:.100}: {answer}");
        }
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD] {
        assert_eq!(
            loaded
                .polls(method, &session.path, "text/plain", "2")
                .await
                .0,
            400
        );
    }
    // A path that only begins like the Socket.IO path.
    assert_eq!(
        loaded
            .polls(
                Method::GET,
                "/socket.iox/?EIO=4&transport=polling",
                "text/plain",
                ""
            )
            .await
            .0,
        404
    );
    assert_eq!(
        session.sends("text/plain", "40").await,
        200,
        "the session is as it was"
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn two_polls_at_once_end_the_session() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for version in [3, 4] {
        let session = loaded.session(version).await;
        // One poll takes the queued packets, so that the next poll waits.
        let (first, second, third) =
            tokio::join!(session.hears(), session.hears(), session.hears());
        let mut statuses = [first.0, second.0, third.0];
        statuses.sort_unstable();
        assert!(statuses.ends_with(&[400]), "{statuses:?}");
        assert_eq!(session.pings().await, 400);
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn an_upgrade_in_the_wrong_order_ends_its_session_and_nothing_else() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let text = |packets: &[&str]| {
        packets
            .iter()
            .flat_map(|packet| frame(TEXT, packet.as_bytes()))
            .collect::<Vec<_>>()
    };
    let orders = [
        text(&["5"]),
        text(&["2"]),
        text(&["3probe"]),
        text(&["40"]),
        text(&[""]),
        text(&["é"]),
        text(&["2probe", "2probe"]),
        text(&["2probe", "40"]),
        text(&["2probe", "5", "5"]),
        text(&["2probe", "5", "2probe"]),
        frame(0x82, b"2probe"),
        frame(0x88, b""),
        frame(TEXT, "x".repeat(100_001).as_bytes()),
        [text(&["2probe"]), frame(0x88, b"")].concat(),
        [text(&["2probe"]), frame(0x82, b"5")].concat(),
        Vec::new(),
    ];
    for version in [3, 4] {
        for order in &orders {
            let session = loaded.session(version).await;
            let mut websocket = Connection::websocket(&loaded.base, &session.as_websocket()).await;
            websocket.send(order).await;
            websocket.finish().await;
            while websocket.frame().await.is_some() {}
            // The connection closes a moment before the session ends.
            let gone = async { while session.pings().await == 200 {} };
            tokio::time::timeout(PATIENCE, gone)
                .await
                .unwrap_or_else(|_| panic!("the session goes on after {}", order.escape_ascii()));
        }
    }
    let nobodys = format!("{WEBSOCKET}&sid=AAAAAAAAAAAAAAHs");
    let mut connection = Connection::open(&loaded.base).await;
    connection.asks_for_websocket(&nobodys).await;
    assert_eq!(connection.reply("GET").await.unwrap().status, 400);
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_second_websocket_for_a_session_is_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(4).await;
    let mut websocket = Connection::websocket(&loaded.base, &session.as_websocket()).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let refused = async || {
        let mut second = Connection::open(&loaded.base).await;
        second
            .send(
                format!(
                    "GET {} HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n\r\n",
                    session.as_websocket()
                )
                .as_bytes(),
            )
            .await;
        assert_eq!(second.reply("GET").await.unwrap().status, 400);
    };
    // While the first websocket is silent, when the upgrade is complete, and many at once.
    refused().await;
    websocket
        .send(
            &[
                frame(TEXT, b"2probe"),
                frame(TEXT, b"5"),
                frame(TEXT, b"40"),
            ]
            .concat(),
        )
        .await;
    websocket.hears("3probe").await;
    websocket.hears("40{").await;
    join_all((0..20).map(|_| refused())).await;
    assert_eq!(session.hears().await.0, 400);
    assert_eq!(session.sends("text/plain", "41").await, 400);
    websocket.send(&frame(TEXT, b"421[\"identity\",5]")).await;
    websocket.hears("431[").await;
    loaded.ends_well().await;
}

#[tokio::test]
async fn what_looks_like_an_upgrade_and_is_none_is_survived() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for head in [
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-key: x\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.0\r\nsec-websocket-key: x\r\nupgrade: websocket\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-key: \x7f\u{ff}\r\nupgrade: tls\r\nconnection: upgrade\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-version: 99\r\nsec-websocket-key: x\r\nupgrade: x\r\n\r\n",
        "POST /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-key: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let mut connection = Connection::open(&loaded.base).await;
        connection.send(head.as_bytes()).await;
        connection.finish().await;
        if let Some(reply) = connection.reply("GET").await {
            assert!(reply.status < 500, "{head}: {reply:?}");
        }
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

#[apply(each_store)]
#[tokio::test]
async fn a_session_that_no_longer_polls_takes_little_however_much_is_sent_to_it(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
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
