//! Malformed websocket frames.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    databases::Kind,
    harness::PATIENCE,
    loaded_server::LoadedServer,
    random::one_of,
    raw::{BINARY, CLOSE, Connection, PING, TEXT, WEBSOCKET, WEBSOCKET_3, frame},
    wire::Socket,
};

/// Returns a frame with this length in its header and without the payload.
fn claims(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &[0; 4], b"42[]"].concat()
}

#[tokio::test]
async fn a_broken_frame_ends_only_its_own_connection() {
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
async fn unusual_but_valid_frames_are_accepted() {
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
async fn a_packet_over_the_configured_size_is_refused() {
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

#[tokio::test]
async fn ten_thousand_events_at_once_take_little_memory() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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

#[tokio::test]
async fn floods_of_short_connections_leave_nothing_behind() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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
