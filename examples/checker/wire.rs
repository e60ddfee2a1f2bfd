//! A minimal Socket.IO client (Engine.IO 4, websocket). Every error ends the connection, which the
//! clients of the checker handle anyway.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message,
};

/// How long connecting, or sending a packet, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected socket. Dropping it ends the connection without a disconnect packet.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u64,
}

/// A packet from the server.
pub enum Packet {
    Event(String, Value),
    /// The acknowledgement of the event with this number.
    Answer(u64, Value),
}

impl Socket {
    /// Connects, with a token if the server requires one.
    pub async fn connect(base: &str, token: Option<&str>) -> Option<Self> {
        timeout(PATIENCE, Self::open(base, token))
            .await
            .ok()
            .flatten()
    }

    async fn open(base: &str, token: Option<&str>) -> Option<Self> {
        let url = format!(
            "{}/socket.io/?EIO=4&transport=websocket",
            base.replacen("http", "ws", 1)
        );
        let (stream, _) = connect_async_with_config(url, None, true).await.ok()?;
        let mut socket = Self { stream, asked: 0 };
        let auth = token
            .map(|token| json!({ "token": token }).to_string())
            .unwrap_or_default();
        socket
            .text()
            .await
            .filter(|packet| packet.starts_with('0'))?;
        socket
            .stream
            .send(Message::text(format!("40{auth}")))
            .await
            .ok()?;
        socket
            .text()
            .await
            .filter(|packet| packet.starts_with("40"))?;
        Some(socket)
    }

    /// Sends an event. Returns the number that its acknowledgement will have.
    pub async fn ask(&mut self, event: &str, arguments: &[Value]) -> Option<u64> {
        self.asked += 1;
        let mut packet = vec![json!(event)];
        packet.extend_from_slice(arguments);
        let frame = Message::text(format!("42{}{}", self.asked, Value::from(packet)));
        timeout(PATIENCE, self.stream.send(frame))
            .await
            .ok()?
            .ok()?;
        Some(self.asked)
    }

    /// Returns the next packet, or `None` when the connection has ended.
    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            let packet = self.text().await?;
            let rest = packet.strip_prefix('4')?;
            match rest.split_at_checked(1)? {
                ("2", event) => {
                    let mut event: Value = serde_json::from_str(event).ok()?;
                    return Some(Packet::Event(
                        event[0].as_str()?.to_owned(),
                        event[1].take(),
                    ));
                }
                ("3", answer) => {
                    let (number, answer) = answer.split_at(answer.find('[')?);
                    return Some(Packet::Answer(
                        number.parse().ok()?,
                        serde_json::from_str::<Value>(answer).ok()?[0].take(),
                    ));
                }
                // The server has disconnected the socket or refused the connection.
                ("1" | "4", _) => return None,
                _ => {}
            }
        }
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            match self.stream.next().await?.ok()? {
                Message::Text(ping) if ping == "2" => {
                    self.stream.send(Message::text("3")).await.ok()?;
                }
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}
