//! Clients that request more than they read: the server queues no more than a few responses for
//! each of them.

use std::time::Instant;

use rstest::rstest;
use serde_json::json;

use crate::support::{
    databases::Kind,
    harness::PATIENCE,
    loaded_server::LoadedServer,
    polling::Session,
    raw::{Connection, TEXT, WEBSOCKET, frame},
};

/// How a client is connected.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Websocket,
    /// Starts with polling and upgrades to a websocket.
    Upgraded,
    Polling,
}

/// A connected socket of Bob.
enum Client<'a> {
    Websocket(Connection),
    Polling(Session<'a>),
}

impl<'a> Client<'a> {
    async fn connect(loaded: &'a LoadedServer, transport: Transport) -> Self {
        let mut client = match transport {
            Transport::Websocket => {
                Self::Websocket(Connection::websocket(&loaded.base, WEBSOCKET).await)
            }
            Transport::Polling => Self::Polling(loaded.session(4).await),
            Transport::Upgraded => {
                let session = loaded.session(4).await;
                let mut websocket =
                    Connection::websocket(&loaded.base, &session.as_websocket()).await;
                websocket.send(&frame(TEXT, b"2probe")).await;
                websocket.hears("3probe").await;
                websocket.send(&frame(TEXT, b"5")).await;
                Self::Websocket(websocket)
            }
        };
        client.asks("40".into(), "40{").await;
        client
            .asks(format!("420{}", json!(["identity", loaded.bob.id])), "430[")
            .await;
        client
    }

    /// Sends a packet and reads up to the packet that begins with `answer`. Returns the length of
    /// that packet.
    async fn asks(&mut self, packet: String, answer: &str) -> usize {
        self.sends(&[packet]).await;
        loop {
            let packets = self.reads().await.expect("it goes on");
            if let Some(packet) = packets.iter().find(|packet| packet.starts_with(answer)) {
                return packet.len();
            }
        }
    }

    async fn sends(&mut self, packets: &[String]) {
        match self {
            Self::Websocket(connection) => {
                let frames: Vec<_> = packets
                    .iter()
                    .flat_map(|packet| frame(TEXT, packet.as_bytes()))
                    .collect();
                connection.send(&frames).await;
            }
            Self::Polling(session) => {
                assert_eq!(session.sends("text/plain", packets.join("\x1e")).await, 200);
            }
        }
    }

    /// Returns the next packets, or `None` when the connection has ended.
    async fn reads(&mut self) -> Option<Vec<String>> {
        match self {
            Self::Websocket(connection) => Some(vec![
                String::from_utf8(connection.frame().await?.1).unwrap(),
            ]),
            Self::Polling(session) => {
                let (status, payload) = session.hears().await;
                (status == 200).then(|| payload.split('\x1e').map(ToOwned::to_owned).collect())
            }
        }
    }
}

/// Starts a server with a room that holds more than one response can.
async fn loaded() -> LoadedServer {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let text = "x".repeat(90_000);
    for _ in 0..50 {
        loaded.alice.posts(&loaded.room, &text).await.ok();
    }
    loaded
}

fn sync(loaded: &LoadedServer, id: u32) -> String {
    format!(
        "42{id}{}",
        json!(["sync", { "rooms": { &loaded.room: 0 } }])
    )
}

#[rstest]
#[ignore = "slow"]
#[tokio::test]
async fn a_client_that_never_reads_is_disconnected(
    #[values(Transport::Websocket, Transport::Upgraded, Transport::Polling)] transport: Transport,
) {
    let loaded = loaded().await;
    let mut client = Client::connect(&loaded, transport).await;
    client
        .sends(&(1..=300).map(|id| sync(&loaded, id)).collect::<Vec<_>>())
        .await;
    let deadline = Instant::now() + PATIENCE;
    while loaded.alice.sees(&loaded.room).await[1]["online"] == true {
        assert!(Instant::now() < deadline, "it goes on");
    }
    let mut waiting = 0;
    while let Some(packets) = client.reads().await {
        waiting += packets.iter().map(String::len).sum::<usize>();
        if packets.iter().any(|packet| packet == "41") {
            break;
        }
    }
    assert!(
        (16_000_000..32_000_000).contains(&waiting),
        "{waiting} bytes"
    );
    drop(client);
    loaded.ends_well().await;
}

#[rstest]
#[tokio::test]
async fn a_burst_of_requests_is_answered_completely(
    #[values(Transport::Websocket, Transport::Upgraded, Transport::Polling)] transport: Transport,
) {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut client = Client::connect(&loaded, transport).await;
    client
        .sends(
            &(1..=3_000)
                .map(|id| format!("42{id}[\"unsubscribe\",\"\"]"))
                .collect::<Vec<_>>(),
        )
        .await;
    let mut answered = Vec::new();
    while answered.len() < 3_000 {
        let packets = client.reads().await.expect("it goes on");
        let answers = packets.iter().filter_map(|packet| {
            packet
                .strip_prefix("43")?
                .split_once('[')?
                .0
                .parse::<u32>()
                .ok()
        });
        answered.extend(answers);
    }
    assert!(
        answered.is_sorted(),
        "the answers come in the order of the questions"
    );
    drop(client);
    loaded.ends_well().await;
}

#[rstest]
#[tokio::test]
async fn a_client_that_reads_gets_every_response(
    #[values(Transport::Websocket, Transport::Upgraded, Transport::Polling)] transport: Transport,
) {
    let loaded = loaded().await;
    let mut client = Client::connect(&loaded, transport).await;
    for id in 1..=5 {
        let length = client.asks(sync(&loaded, id), &format!("43{id}[")).await;
        assert!(length > 4_000_000, "{length}");
    }
    drop(client);
    loaded.ends_well().await;
}
