//! A connection for what no HTTP client would send: it sends arbitrary bytes and parses what it
//! receives as HTTP responses or websocket frames.

use std::{
    fmt::Debug,
    io,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::harness::PATIENCE;

pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub async fn open(base: &str) -> Self {
        Self::open_from(Ipv4Addr::LOCALHOST, base).await
    }

    /// Opens a connection from this local address.
    pub async fn open_from(address: Ipv4Addr, base: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        let stream = socket
            .connect(base.strip_prefix("http://").unwrap().parse().unwrap())
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Opens a websocket at this path and query.
    pub async fn websocket(base: &str, path: &str) -> Self {
        Self::websocket_from(Ipv4Addr::LOCALHOST, base, path).await
    }

    /// Opens a websocket from this local address.
    pub async fn websocket_from(address: Ipv4Addr, base: &str, path: &str) -> Self {
        let mut connection = Self::open_from(address, base).await;
        connection.asks_for_websocket(path).await;
        assert_eq!(
            connection
                .reply("GET")
                .await
                .expect("no answer to an upgrade")
                .status,
            101
        );
        connection
    }

    /// Sends a websocket upgrade request.
    pub async fn asks_for_websocket(&mut self, path: &str) {
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n\r\n").as_bytes())
            .await;
    }

    /// Sends these bytes. Returns false when the server no longer accepts any.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.stream.get_mut().write_all(bytes))
            .await
            .expect("the server neither reads nor closes")
            .is_ok()
    }

    /// Returns whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        !matches!(self.stream.get_ref().try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes the sending side.
    pub async fn finish(&mut self) {
        // The server may have closed the connection already.
        let _ = self.stream.get_mut().shutdown().await;
    }

    /// Returns the next response to a request with this method, or `None` when the connection ended
    /// instead.
    pub async fn reply(&mut self, method: &str) -> Option<Reply> {
        timeout(PATIENCE, self.read_reply(method == "HEAD"))
            .await
            .expect("neither an answer nor the end of the connection")
            .ok()
    }

    async fn read_reply(&mut self, to_head: bool) -> io::Result<Reply> {
        loop {
            let head = self.read_head().await?;
            let status = head
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok())
                .unwrap_or_else(|| panic!("no answer: {head:?}"));
            let mut reply = Reply {
                status,
                head,
                body: Vec::new(),
            };
            match status {
                100 => continue,
                101 => {}
                _ if to_head => {}
                _ => reply.body = self.read_body(&reply).await?,
            }
            return Ok(reply);
        }
    }

    /// Reads up to the empty line and converts the head to lower case.
    async fn read_head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(String::from_utf8(head).unwrap().to_ascii_lowercase())
    }

    async fn read_body(&mut self, reply: &Reply) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if let Some(length) = reply.header("content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.stream.read_exact(&mut body).await?;
        } else if reply.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.stream.read_line(&mut size).await?;
                let start = body.len();
                body.resize(start + usize::from_str_radix(size.trim(), 16).unwrap(), 0);
                self.stream.read_exact(&mut body[start..]).await?;
                self.stream.read_exact(&mut [0; 2]).await?;
                if body.len() == start {
                    break;
                }
            }
        } else {
            self.stream.read_to_end(&mut body).await?;
        }
        Ok(body)
    }

    /// Returns the first byte and the payload of the next websocket frame, or `None` when the
    /// connection ended.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(PATIENCE, self.read_frame())
            .await
            .expect("neither a frame nor the end of the connection")
            .ok()
    }

    /// Waits for a frame whose payload begins with this text. Skips other frames.
    pub async fn hears(&mut self, beginning: &str) {
        while !self
            .frame()
            .await
            .expect("the connection goes on")
            .1
            .starts_with(beginning.as_bytes())
        {}
    }

    async fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => usize::from(self.stream.read_u16().await?),
            127 => usize::try_from(self.stream.read_u64().await?).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok((first, payload))
    }
}

/// Returns a masked frame, as clients have to send it. `first` holds FIN, the reserved bits and the
/// opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..0x1_0000 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0xff);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// A response as it was received.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// The status line and headers, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Checks that this is a response that the API may give to any request: no server error, and
    /// JSON with a matching `success`. Returns the body.
    #[track_caller]
    pub fn sound(&self, asked: impl Debug) -> Value {
        assert!(self.status < 500, "{asked:?}: {self:?}");
        if self.header("x-request-id").is_none() {
            // Bytes that are not HTTP do not reach the application: hyper answers them without a
            // body and closes the connection.
            assert!(
                matches!(self.status, 400 | 414 | 431) && self.body.is_empty(),
                "{asked:?}: {self:?}"
            );
            return Value::Null;
        }
        let body: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{asked:?}: no JSON: {self:?}"));
        assert_eq!(body["success"], self.status == 200, "{asked:?}: {body}");
        body
    }
}

pub const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";
pub const WEBSOCKET_3: &str = "/socket.io/?EIO=3&transport=websocket";
/// The first byte of unfragmented frames: text, binary, close and ping.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;

pub fn text(packet: &str) -> Vec<u8> {
    frame(TEXT, packet.as_bytes())
}

/// Waits until the server closes the connection. Returns the payloads received until then.
pub async fn ends(connection: &mut Connection) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some((_, payload)) = connection.frame().await {
        heard.push(String::from_utf8_lossy(&payload).into_owned());
    }
    heard
}
