//! Websockets: malformed frames, malformed packets, and well-formed events with invalid contents.
//!
//! Tests of frames and packets alone run on one store, because the server does not use the database
//! for them beyond looking up a room.

use futures_util::future::join_all;
use rand::{Rng, RngExt};
use rstest_reuse::apply;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    databases::Kind,
    each_store,
    harness::PATIENCE,
    hostile_load::{LoadedServer, mutated, noise, one_of, random},
    raw::{Connection, frame},
    wire::Socket,
};

pub const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";
pub const WEBSOCKET_3: &str = "/socket.io/?EIO=3&transport=websocket";
/// The first byte of unfragmented frames: text, binary, close and ping.
pub const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// Returns a frame with this length in its header and without the payload.
fn claims(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &[0; 4], b"42[]"].concat()
}

#[tokio::test]
async fn a_broken_frame_ends_its_connection_and_nothing_else() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut broken: Vec<Vec<u8>> = vec![
        b"\x81\x0242".to_vec(),
        claims(TEXT, 1 << 63),
        claims(BINARY, u64::MAX),
        claims(TEXT, 1 << 40),
        claims(BINARY, 100_001),
        frame(TEXT, b"42\xff"),
        frame(TEXT, b"\xed\xa0\x80"),
        frame(PING, &[0; 126]),
        frame(0x09, b"half a ping"),
        frame(0x80, b"what does this continue?"),
        [frame(0x01, b"42["), frame(TEXT, b"40")].concat(),
        [frame(0x01, b"42["), frame(0x80, b"\xff")].concat(),
        // A message larger than the largest packet, in small fragments.
        [frame(0x01, b"42["), frame(0x00, &[b' '; 1_000]).repeat(101)].concat(),
        frame(CLOSE, b"x"),
        frame(CLOSE, b"\x03\xe8\xff\xfe"),
        frame(CLOSE, &[0; 126]),
        frame(CLOSE, b""),
    ];
    broken.extend([0x40, 0x20, 0x10, 0x70].map(|reserved| frame(TEXT | reserved, b"40")));
    broken.extend(
        (0x03..=0x07)
            .chain(0x0b..=0x0f)
            .map(|opcode| frame(0x80 | opcode, b"40")),
    );
    broken.extend(
        [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]
            .map(|code| frame(CLOSE, &code.to_be_bytes())),
    );
    broken.extend([&b""[..], b"\x04", b"4\xff"].map(|data| frame(BINARY, data)));
    join_all(
        broken
            .iter()
            .flat_map(|bytes| [(WEBSOCKET, bytes), (WEBSOCKET_3, bytes)])
            .map(async |(path, bytes)| {
                let mut connection = Connection::websocket(&loaded.base, path).await;
                connection.send(&frame(TEXT, b"40")).await;
                connection.send(bytes).await;
                // The server must close the connection while this side keeps reading.
                while connection.frame().await.is_some() {}
            }),
    )
    .await;
    loaded.ends_well().await;
}

#[tokio::test]
async fn unusual_frames_are_as_good_as_others() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut connection = Connection::websocket(&loaded.base, WEBSOCKET).await;
    connection.send(&frame(TEXT, b"40")).await;
    connection.hears("40{").await;
    let mut bytes = frame(0x8a, b"an answer to no ping");
    let event = json!(["subscribe", loaded.room, "😀"]).to_string();
    // A fragment for each byte, with pings between the fragments.
    bytes.extend(frame(0x01, b"421"));
    for byte in event.as_bytes() {
        bytes.extend([frame(0x00, &[*byte]), frame(PING, b"?")].concat());
    }
    bytes.extend(frame(0x00, b"").repeat(1_000));
    bytes.extend(frame(0x80, b""));
    // A length of nine, encoded in eight bytes.
    bytes.extend(
        [
            &[TEXT, 0xff, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0],
            &b"422[\"x\"]\n"[..],
        ]
        .concat(),
    );
    assert!(connection.send(&bytes).await);
    let mut heard = Vec::new();
    while !heard
        .iter()
        .any(|packet: &String| packet.starts_with("432"))
    {
        let (first, payload) = connection.frame().await.expect("the connection goes on");
        if first == TEXT {
            heard.push(String::from_utf8(payload).unwrap());
        }
    }
    assert!(
        heard.contains(&r#"431[{"success":true}]"#.to_owned()),
        "{heard:?}"
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_packet_may_be_as_large_as_the_setting_says_and_no_larger() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let event = |size: usize| {
        let frame = r#"427["identity",""]"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(size - frame.len())))
    };
    let mut socket = Socket::connect(&loaded.base).await;
    assert!(socket.tries(Message::text(event(100_000))).await);
    assert!(socket.receive().await.unwrap().starts_with("437["));
    socket.tries(Message::text(event(100_001))).await;
    assert!(!socket.answers().await);
    let mut socket = Socket::connect(&loaded.base).await;
    socket.tries(Message::binary(vec![0; 100_001])).await;
    assert!(!socket.answers().await);
    loaded.ends_well().await;
}

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

#[apply(each_store)]
#[tokio::test]
async fn no_payload_of_an_event_ends_the_connection(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let mut sockets = Sockets::of(&loaded).await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}0{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let wide = "0,".repeat(49_000) + "0";
    let payloads = [
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
        &deep,
        &deep_object,
        &wide,
    ];
    for event in EVENTS {
        for payload in payloads {
            let comma = if payload.is_empty() { "" } else { "," };
            for ack in [
                "",
                "1",
                "007",
                "9223372036854775807",
                "9223372036854775808",
                "99999999999999999999999999",
            ] {
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

#[apply(each_store)]
#[tokio::test]
async fn a_socket_goes_on_in_its_room_after_every_refusal(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn ten_thousand_events_at_once_take_little_memory_and_end_nothing(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let mut socket = Socket::connect(&loaded.base).await;
    for n in 0..10_000 {
        let event = json!([
            one_of(&mut rand::rng(), &["subscribe", "unsubscribe"]),
            loaded.room
        ]);
        assert!(socket.tries(Message::text(format!("42{n}{event}"))).await);
    }
    // Many events were refused, and acknowledgements were dropped when the queue was full, so the
    // client retries until a subscription succeeds.
    for n in 10_000.. {
        assert!(
            socket
                .tries(Message::text(format!(
                    "42{n}{}",
                    json!(["subscribe", loaded.room])
                )))
                .await
        );
        let subscribed = async {
            while socket.receive().await.expect("the connection goes on")
                != format!("43{n}[{{\"success\":true}}]")
            {}
        };
        if tokio::time::timeout(PATIENCE / 20, subscribed)
            .await
            .is_ok()
        {
            break;
        }
    }
    loaded.alice.posts(&loaded.room, "heard").await.ok();
    while !socket
        .receive()
        .await
        .expect("the connection goes on")
        .starts_with("42[\"new message\"")
    {}
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn clients_that_come_and_go_in_floods_leave_nothing_behind(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let greeting = [
        frame(TEXT, b"40"),
        frame(
            TEXT,
            format!("42{}", json!(["identity", loaded.bob.id])).as_bytes(),
        ),
        frame(
            TEXT,
            format!("42{}", json!(["subscribe", loaded.room, loaded.bob.id])).as_bytes(),
        ),
    ]
    .concat();
    for _ in 0..10 {
        join_all((0..50).map(async |n| {
            let mut connection = Connection::websocket(&loaded.base, WEBSOCKET).await;
            connection
                .send(&greeting[..greeting.len() * (n % 5) / 4])
                .await;
            if n % 2 == 0 {
                connection
                    .send(&frame(CLOSE, &1000_u16.to_be_bytes()))
                    .await;
            }
        }))
        .await;
        loaded
            .alice
            .posts(&loaded.room, "anybody there?")
            .await
            .ok();
    }
    let mut bobs = Socket::of(&loaded.bob, &loaded.room).await;
    let post = loaded.alice.posts(&loaded.room, "one").await.ok()["post"].clone();
    assert_eq!(
        bobs.hears().await,
        Value::from(vec![json!("new message"), json!({ "message": post })])
    );
    loaded.ends_well().await;
}
