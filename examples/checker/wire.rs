//! A client of Socket.IO (Engine.IO 4, websocket), as small as the protocol allows. Whatever goes wrong is the end of the connection, which is
//! what clients of the checker are made for.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite::Message};

/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected socket. Dropped, its connection ends without a farewell.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u64,
}

/// What the server sends.
pub enum Packet {
    Event(String, Value),
    /// The answer to the question with this number.
    Answer(u64, Value),
}

impl Socket {
    /// Connects, with a token where the server asks for one.
    pub async fn connect(base: &str, token: Option<&str>) -> Option<Self> {
        timeout(PATIENCE, Self::open(base, token)).await.ok().flatten()
    }

    async fn open(base: &str, token: Option<&str>) -> Option<Self> {
        let url = format!("{}/socket.io/?EIO=4&transport=websocket", base.replacen("http", "ws", 1));
        let (stream, _) = connect_async_with_config(url, None, true).await.ok()?;
        let mut socket = Self { stream, asked: 0 };
        let auth = token.map(|token| json!({ "token": token }).to_string()).unwrap_or_default();
        socket.text().await.filter(|packet| packet.starts_with('0'))?;
        socket.stream.send(Message::text(format!("40{auth}"))).await.ok()?;
        socket.text().await.filter(|packet| packet.starts_with("40"))?;
        Some(socket)
    }

    /// Sends an event and answers the number by which its answer will be known.
    pub async fn ask(&mut self, event: &str, arguments: &[Value]) -> Option<u64> {
        self.asked += 1;
        let mut packet = vec![json!(event)];
        packet.extend_from_slice(arguments);
        let frame = Message::text(format!("42{}{}", self.asked, Value::from(packet)));
        timeout(PATIENCE, self.stream.send(frame)).await.ok()?.ok()?;
        Some(self.asked)
    }

    /// The next packet; none when the connection has ended.
    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            let packet = self.text().await?;
            let rest = packet.strip_prefix('4')?;
            match rest.split_at_checked(1)? {
                ("2", event) => {
                    let mut event: Value = serde_json::from_str(event).ok()?;
                    return Some(Packet::Event(event[0].as_str()?.to_owned(), event[1].take()));
                }
                ("3", answer) => {
                    let (number, answer) = answer.split_at(answer.find('[')?);
                    return Some(Packet::Answer(number.parse().ok()?, serde_json::from_str::<Value>(answer).ok()?[0].take()));
                }
                // The server says that the socket is disconnected.
                ("1" | "4", _) => return None,
                _ => {}
            }
        }
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            match self.stream.next().await?.ok()? {
                Message::Text(ping) if ping == "2" => self.stream.send(Message::text("3")).await.ok()?,
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}
