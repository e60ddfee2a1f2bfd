//! Malformed packets, and well-formed events with invalid contents.

use futures_util::future::join_all;
use rand::{Rng, RngExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    databases::Kind,
    loaded_server::LoadedServer,
    random::{mutated, noise, one_of, random},
    wire::Socket,
};

/// Opens sockets for packets that may or may not close them.
struct Sockets<'a> {
    base: &'a str,
    socket: Socket,
}

impl<'a> Sockets<'a> {
    async fn of(loaded: &'a LoadedServer) -> Self {
        Self {
            base: &loaded.base,
            socket: Socket::connect(&loaded.base).await,
        }
    }

    /// Sends these frames one by one and checks whether the connection survives. Replaces it with a
    /// new one when it has ended.
    async fn survive(&mut self, frames: Vec<Message>) -> bool {
        for frame in frames {
            if !self.socket.tries(frame).await {
                break;
            }
        }
        let goes_on = self.socket.answers().await;
        if !goes_on {
            self.socket = Socket::connect(self.base).await;
        }
        goes_on
    }
}

const EVENTS: [&str; 15] = [
    "identity",
    "subscribe",
    "unsubscribe",
    "send message",
    "sync",
    "mark read",
    "typing",
    "stop typing",
    "refresh token",
    "connect",
    "disconnect",
    "error",
    "new message",
    "__proto__",
    "",
];

/// Arguments of an event, after its name.
const PAYLOADS: [&str; 22] = [
    "",
    "null",
    "true",
    "0",
    "-0",
    "1e308",
    "1e400",
    "99999999999999999999",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "{}",
    "[]",
    r#"{"$gt":""}"#,
    r#"{"_placeholder":true,"num":0}"#,
    r#"{"_placeholder":true,"num":-1}"#,
    r#"{"\u005fplaceholder":true}"#,
    r#"{"__proto__":{},"__proto__":[]}"#,
    "[[[[]]]]",
    "\"a\",\"b\",\"c\"",
    "null,null",
];

const ACK_IDS: [&str; 6] = [
    "",
    "1",
    "007",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999999999999999999",
];

#[tokio::test]
async fn no_payload_of_an_event_ends_the_connection() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut sockets = Sockets::of(&loaded).await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}0{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let wide = "0,".repeat(49_000) + "0";
    let large = [deep, deep_object, wide];
    for event in EVENTS {
        for payload in PAYLOADS
            .iter()
            .copied()
            .chain(large.iter().map(String::as_str))
        {
            let comma = if payload.is_empty() { "" } else { "," };
            for ack in ACK_IDS {
                let packet = format!("42{ack}[\"{event}\"{comma}{payload}]");
                assert!(
                    sockets.survive(vec![Message::text(packet)]).await,
                    "{event} {payload:.40} {ack}"
                );
            }
            // The same with binary data attached, with and without an acknowledgement id.
            let packet = format!("451-1[\"{event}\"{comma}{payload}]");
            assert!(
                sockets
                    .survive(vec![Message::text(packet), Message::binary(&b"\xff\0"[..])])
                    .await,
                "{event} {payload:.40}, binary"
            );
        }
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn no_unusual_packet_ends_the_connection() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut sockets = Sockets::of(&loaded).await;
    for packet in [
        "420[\"identity\",5]",
        "450-[\"identity\",{\"_placeholder\":true,\"num\":0}]",
        "4300[]",
        "4399999999[1,2]",
        "40/nowhere,",
        "40",
    ] {
        assert!(
            sockets.survive(vec![Message::text(packet)]).await,
            "{packet}"
        );
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_socket_stays_in_its_room_after_every_refusal() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut socket = Socket::of(&loaded.bob, &loaded.room).await;
    for event in EVENTS {
        for payload in [
            json!([]),
            json!([{ "$gt": "" }]),
            json!([["a"]]),
            json!(["\u{0}"]),
            json!([loaded.room, { "$ne": null }]),
        ] {
            // Arguments after the room are ignored, and `subscribe` without a room subscribes to
            // all rooms of the user.
            let is_right = match event {
                "unsubscribe" => true,
                "subscribe" => payload == json!([]),
                "typing" | "stop typing" => payload[0] == *loaded.room,
                _ => false,
            };
            if !is_right {
                socket.is_refused(event, payload).await;
            }
        }
    }
    let post = loaded.alice.posts(&loaded.room, "still here").await.ok()["post"].clone();
    assert_eq!(socket.hears_post().await, post);
    loaded.ends_well().await;
}

/// Packets that are malformed, or that a client may not send.
const BROKEN: [&str; 60] = [
    "",
    " ",
    "0",
    "0{}",
    "1",
    "2",
    "2probe",
    "3",
    "3probe",
    "5",
    "6",
    "7",
    "8",
    "9",
    "a",
    "b",
    "b4",
    "bAAAA",
    "b=",
    "b4====",
    "é",
    "4",
    "4é",
    "41",
    "41/nowhere,",
    "42",
    "42[",
    "42[]",
    "42{}",
    "42null",
    "42[null]",
    "42[5,\"x\"]",
    "42[[\"identity\"]]",
    "42[{\"a\":1}]",
    "42\"identity\"",
    "42-1[\"identity\"]",
    "42/,[\"identity\"]",
    "42/nowhere,[\"identity\"]",
    "42/é,1[\"é\"]",
    "42/",
    "43",
    "43[]",
    "43-1[]",
    "431",
    "431x",
    "44",
    "44{\"message\":\"x\"}",
    "45",
    "45-",
    "45-[\"x\"]",
    "451[\"x\"]",
    "45999999999999-[\"x\"]",
    "4599999999999999999999999-[\"x\"]",
    "451-",
    "46",
    "461-1[{\"_placeholder\":true,\"num\":0}]",
    "461-[]",
    "47",
    "4\u{1e}4",
    "42[\"a\\u0062\"]",
];

#[tokio::test]
async fn a_broken_packet_ends_at_most_its_own_connection() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut witness = Socket::of(&loaded.bob, &loaded.room).await;
    let mut sockets = Sockets::of(&loaded).await;
    for packet in BROKEN {
        sockets.survive(vec![Message::text(packet)]).await;
        sockets
            .survive(vec![Message::text(packet), Message::binary(&b"x"[..])])
            .await;
        sockets
            .survive(vec![Message::binary(packet.as_bytes().to_vec())])
            .await;
        sockets.survive(vec![Message::text(packet); 3]).await;
    }
    // Attachments that are announced but not sent, or sent twice.
    let announced = || {
        Message::text(
            r#"452-["identity",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
        )
    };
    let data = || Message::binary(&b"x"[..]);
    for frames in [
        vec![announced()],
        vec![announced(), data()],
        vec![announced(), announced()],
        vec![announced(), data(), data(), data()],
    ] {
        sockets.survive(frames).await;
    }
    assert!(witness.answers().await);
    loaded.ends_well().await;
}

/// Returns a packet like those that clients send, mostly with errors.
fn random_frame(random: &mut impl Rng, packets: &[Vec<u8>]) -> Message {
    let bytes = match random.random_range(0..10) {
        0 => noise(random, 200),
        1 => return Message::text(*one_of(random, &BROKEN)),
        _ => {
            let packet = one_of(random, packets).clone();
            mutated(random, &packet)
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) if random.random_bool(0.9) => Message::text(text),
        Ok(text) => Message::binary(text.into_bytes()),
        Err(bytes) => Message::binary(bytes.into_bytes()),
    }
}

#[tokio::test]
async fn thousands_of_random_packets_end_at_most_their_own_connections() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut witness = Socket::of(&loaded.bob, &loaded.room).await;
    let mut random = random();
    let packets = [
        format!("42[\"subscribe\",\"{}\",\"{}\"]", loaded.room, loaded.bob.id),
        format!("4217[\"identity\",\"{}\"]", loaded.alice.id),
        format!("42/,3[\"unsubscribe\",\"{}\"]", loaded.room),
        "40{\"token\":\"x\"}".into(),
        "40/nowhere,{}".into(),
        "451-4[\"subscribe\",{\"_placeholder\":true,\"num\":0}]".into(),
        "431[{\"success\":true}]".into(),
        format!("425{}", json!(["sync", { "rooms": { &loaded.room: 1 } }])),
        format!("426{}", json!(["send message", { "chatRoomId": loaded.room, "messageText": "x", "clientMessageId": "x" }])),
        format!("427{}", json!(["mark read", { "chatRoomId": loaded.room, "upToSeq": 1 }])),
        format!("42{}", json!(["typing", loaded.room])),
    ]
    .map(String::into_bytes);
    let volleys: Vec<Vec<Vec<Message>>> = (0..4)
        .map(|_| {
            (0..250)
                .map(|_| {
                    (0..random.random_range(1..=4))
                        .map(|_| random_frame(&mut random, &packets))
                        .collect()
                })
                .collect()
        })
        .collect();
    join_all(volleys.into_iter().map(async |volleys| {
        let mut sockets = Sockets::of(&loaded).await;
        for frames in volleys {
            sockets.survive(frames).await;
        }
    }))
    .await;
    assert!(witness.answers().await);
    loaded.ends_well().await;
}
