//! A minimal client of Socket.IO 3 and 4 over websockets: the tests control exactly what is sent.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::support::{harness::PATIENCE, person::Person};

/// A connected socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    acks: u64,
    /// Events that arrived while the client waited for something else.
    heard: Vec<Value>,
    /// Whether to keep presence events, too.
    pub hears_presence: bool,
}

/// How a client presents its token when it connects.
pub enum Shown<'a> {
    Nowhere,
    /// In the `auth` of socket.io 3 and 4 clients, which may be any JSON.
    Auth(Value),
    /// In the query, with this version of Engine.IO.
    Query(u8, &'a str),
    /// In the `Authorization` header.
    Header(&'a str),
}

impl Socket {
    pub async fn connect(base: &str) -> Self {
        Self::with(base, &Shown::Nowhere).await.unwrap()
    }

    /// Connects with a token, or with anything in its place. Returns the message of `connect_error`
    /// if the server refuses.
    pub async fn with(base: &str, shown: &Shown<'_>) -> Result<Self, String> {
        let (version, query) = match shown {
            Shown::Query(version, token) => (*version, format!("&token={token}")),
            _ => (4, String::new()),
        };
        let url = format!(
            "{}/socket.io/?EIO={version}&transport=websocket{query}",
            base.replacen("http", "ws", 1)
        );
        let mut request = url.into_client_request().unwrap();
        if let Shown::Header(value) = shown {
            request
                .headers_mut()
                .insert("authorization", value.parse().unwrap());
        }
        // Without Nagle's algorithm, which would delay every second small packet until the server
        // sends something.
        let (stream, _) = connect_async_with_config(request, None, true)
            .await
            .unwrap();
        let mut socket = Self {
            stream,
            acks: 0,
            heard: Vec::new(),
            hears_presence: false,
        };
        assert!(socket.receive().await.unwrap().starts_with("0{"));
        match shown {
            Shown::Auth(auth) => socket.send(&format!("40{auth}")).await,
            // Clients of socket.io 2 are connected without a packet.
            _ if version == 3 => {}
            _ => socket.send("40").await,
        }
        let answer = socket.receive().await.unwrap();
        if let Some(error) = answer.strip_prefix("44") {
            return Err(serde_json::from_str::<Value>(error).unwrap()["message"]
                .as_str()
                .unwrap()
                .to_owned());
        }
        assert!(answer.starts_with("40"), "{answer}");
        Ok(socket)
    }

    /// Connects with this user's token.
    pub async fn signed_in(person: &Person) -> Self {
        Self::with(&person.base, &Shown::Auth(json!({ "token": person.token })))
            .await
            .unwrap()
    }

    /// Connects with this user's token and subscribes to this room.
    pub async fn signed_in_to(person: &Person, room: &str) -> Self {
        let mut socket = Self::signed_in(person).await;
        socket.succeeds("subscribe", json!([room])).await;
        socket
    }

    /// Waits until the server closes the socket. Returns the events received until then.
    pub async fn ends(mut self) -> Vec<Value> {
        while let Some(packet) = self.receive().await.filter(|packet| packet != "41") {
            self.keep(&packet);
        }
        self.heard
    }

    /// Connects and identifies as this user, without a subscription.
    pub async fn by(person: &Person) -> Self {
        let mut socket = Self::connect(&person.base).await;
        socket.succeeds("identity", json!([person.id])).await;
        socket
    }

    /// Connects, identifies as this user and subscribes to this room.
    pub async fn of(person: &Person, room: &str) -> Self {
        let mut socket = Self::by(person).await;
        socket.succeeds("subscribe", json!([room])).await;
        socket
    }

    /// Sends this frame, which may hold anything. Returns false when the connection has ended.
    pub async fn tries(&mut self, frame: Message) -> bool {
        tokio::time::timeout(PATIENCE, self.stream.send(frame))
            .await
            .expect("the server neither reads nor closes")
            .is_ok()
    }

    /// Returns whether the server still answers events on this connection, after any other packets.
    pub async fn answers(&mut self) -> bool {
        self.acks += 1;
        let id = 1_000_000 + self.acks;
        if !self
            .tries(Message::text(format!("42{id}[\"unsubscribe\",\"\"]")))
            .await
        {
            return false;
        }
        let answer = format!("43{id}[");
        while let Some(packet) = self.receive().await {
            if packet.starts_with(&answer) {
                return true;
            }
        }
        false
    }

    pub async fn send(&mut self, packet: &str) {
        self.stream.send(Message::text(packet)).await.unwrap();
    }

    /// Returns the next packet, or `None` when the server closed the connection. Answers pings.
    pub async fn receive(&mut self) -> Option<String> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.stream.next())
                .await
                .expect("nothing came");
            match frame? {
                Ok(Message::Text(text)) if text == "2" => _ = self.tries(Message::text("3")).await,
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends an event and waits for its acknowledgement.
    pub async fn asks(&mut self, event: &str, arguments: Value) -> Value {
        self.acks += 1;
        let id = self.acks;
        let mut packet = vec![json!(event)];
        packet.extend(arguments.as_array().unwrap().iter().cloned());
        self.send(&format!("42{id}{}", Value::from(packet))).await;
        let prefix = format!("43{id}");
        loop {
            let packet = self
                .receive()
                .await
                .expect("the connection ended before the acknowledgement");
            match packet.strip_prefix(&prefix) {
                Some(answer) => return serde_json::from_str::<Value>(answer).unwrap()[0].take(),
                None => self.keep(&packet),
            }
        }
    }

    #[track_caller]
    pub fn succeeds(&mut self, event: &str, arguments: Value) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let event = event.to_owned();
        async move {
            let answer = self.asks(&event, arguments).await;
            assert_eq!(answer, json!({ "success": true }), "at {caller}");
        }
    }

    /// Sends an event that must be refused, and returns the message of the acknowledgement.
    pub async fn is_refused(&mut self, event: &str, arguments: Value) -> String {
        let answer = self.asks(event, arguments.clone()).await;
        assert_eq!(answer["success"], false, "{event} {arguments}: {answer}");
        answer["message"].as_str().unwrap().to_owned()
    }

    /// Returns the next event, as an array with its name first.
    pub async fn hears(&mut self) -> Value {
        while self.heard.is_empty() {
            let packet = self
                .receive()
                .await
                .expect("the connection ended before the event");
            self.keep(&packet);
        }
        self.heard.remove(0)
    }

    /// Returns the post of the next event, which must be `new message`.
    pub async fn hears_post(&mut self) -> Value {
        let mut event = self.hears().await;
        assert_eq!(event[0], "new message");
        event[1]["message"].take()
    }

    /// Returns the payload of the next event, which must have this name.
    pub async fn hears_of(&mut self, name: &str) -> Value {
        let mut event = self.hears().await;
        assert_eq!(event[0], name, "{event}");
        event[1].take()
    }

    /// Returns the events that have been sent so far and not been read.
    pub async fn has_heard(&mut self) -> Vec<Value> {
        self.is_refused("unsubscribe", json!([""])).await;
        std::mem::take(&mut self.heard)
    }

    /// Returns the events that have been sent so far and not been read, or `None` when the server
    /// has closed the socket.
    pub async fn hears_still(&mut self) -> Option<Vec<Value>> {
        self.acks += 1;
        let id = self.acks;
        if !self
            .tries(Message::text(format!("42{id}[\"unsubscribe\",\"\"]")))
            .await
        {
            return None;
        }
        let answer = format!("43{id}[");
        while let Some(packet) = self.receive().await.filter(|packet| packet != "41") {
            if packet.starts_with(&answer) {
                return Some(std::mem::take(&mut self.heard));
            }
            self.keep(&packet);
        }
        None
    }

    /// Checks that no unread event has been sent so far.
    pub async fn hears_nothing_more(&mut self) {
        assert_eq!(self.has_heard().await, Vec::<Value>::new());
    }

    fn keep(&mut self, packet: &str) {
        let event = packet
            .strip_prefix("42")
            .unwrap_or_else(|| panic!("neither event nor acknowledgement: {packet}"));
        let event: Value = serde_json::from_str(event).unwrap();
        if self.hears_presence || (event[0] != "user online" && event[0] != "user offline") {
            self.heard.push(event);
        }
    }
}

pub async fn with_presence(person: &Person, room: &str) -> Socket {
    let mut socket = Socket::of(person, room).await;
    socket.hears_presence = true;
    socket
}
