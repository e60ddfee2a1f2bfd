//! A minimal Socket.IO client over a websocket for load generation: Engine.IO 4, Socket.IO 5, RFC
//! 6455.
//!
//! A thousand of these receive a hundred thousand events per second on a core that they share with
//! the server, so events are recognised by their first bytes and not parsed, and a waiting socket
//! holds no buffer.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Outcome;

/// The handshake of a browser: its size is part of the cost of a connection for the server.
const HANDSHAKE: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n\
    Host: 127.0.0.1:3000\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/138.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://127.0.0.1:3000\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: _ga=GA1.1.1054716364.1718035200; theme=dark; session=0197a3b2c4d57e6f8a9b0c1d2e3f4a5b6c7d8e9f\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// How long an event may remain unacknowledged before it is sent again.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 10;

/// The response to a ping, `3`, as a masked text frame.
const PONG: &[u8] = &[0x81, 0x81, 0, 0, 0, 0, b'3'];

thread_local! {
    /// The read buffer of all sockets; a socket itself keeps only the bytes of an unfinished frame.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// A connected socket in the namespace `/`.
pub struct Socket {
    stream: TcpStream,
    unfinished: Vec<u8>,
    /// The number of events that were not acknowledged and sent again. A server should handle
    /// events as soon as it has confirmed the connection.
    pub unheard: u32,
}

impl Socket {
    /// Connects and performs the handshakes: HTTP, then Engine.IO, then Socket.IO.
    pub async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut socket = Self {
            stream,
            unfinished: Vec::new(),
            unheard: 0,
        };
        socket.stream.write_all(HANDSHAKE.as_bytes()).await?;
        socket.read_head().await?;
        socket.expect(b"0{").await?;
        socket.send("40").await?;
        socket.expect(b"40{").await?;
        Ok(socket)
    }

    /// Sends an event with one string, and waits for its acknowledgement. Sends it again if none
    /// arrives.
    pub async fn emit(&mut self, event: &str, argument: &str) -> Outcome<()> {
        for _ in 0..TRIES {
            self.send(&format!("420[\"{event}\",\"{argument}\"]"))
                .await?;
            if let Ok(answer) = timeout(PATIENCE, self.expect(b"430[")).await {
                return accepted(&answer?);
            }
            self.unheard += 1;
        }
        Err(format!("{event} went unheard {TRIES} times").into())
    }

    /// Sends an event with one JSON argument, and returns its acknowledgement. Errors: an
    /// acknowledgement without success.
    pub async fn ask(&mut self, event: &str, argument: &str) -> Outcome<Value> {
        self.send(&format!("420[\"{event}\",{argument}]")).await?;
        let answer = self.expect(b"430[").await?;
        let mut answer: Value = serde_json::from_slice(&answer[3..])?;
        let answer = answer[0].take();
        if answer["success"] == true {
            Ok(answer)
        } else {
            Err(format!("{event} was refused: {answer}").into())
        }
    }

    /// Passes every event to `on_event` as received, until the server closes the connection.
    pub async fn listen(mut self, mut on_event: impl FnMut(&[u8])) -> Outcome<()> {
        loop {
            self.receive(|packet| {
                if packet.starts_with(b"42") {
                    on_event(packet);
                }
            })
            .await?;
        }
    }

    /// Reads the HTTP head byte by byte, to avoid reading into the frames that follow.
    async fn read_head(&mut self) -> Outcome<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(format!("no websocket: {}", String::from_utf8_lossy(&head)).into());
        }
        Ok(())
    }

    /// Returns the first packet that starts with `prefix`.
    async fn expect(&mut self, prefix: &[u8]) -> Outcome<Vec<u8>> {
        let mut found = None;
        loop {
            self.receive(|packet| {
                if found.is_none() && packet.starts_with(prefix) {
                    found = Some(packet.to_vec());
                }
            })
            .await?;
            if let Some(packet) = found {
                return Ok(packet);
            }
        }
    }

    /// Sends a text frame of less than 64 KiB. The protocol requires a mask; a mask of zeros leaves
    /// the payload unchanged.
    async fn send(&mut self, packet: &str) -> Outcome<()> {
        let length = u16::try_from(packet.len())?;
        let mut frame = match u8::try_from(length) {
            Ok(length @ ..126) => vec![0x81, 0x80 | length],
            _ => [&[0x81, 0xfe][..], &length.to_be_bytes()].concat(),
        };
        frame.extend([0; 4]);
        frame.extend_from_slice(packet.as_bytes());
        self.stream.write_all(&frame).await?;
        Ok(())
    }

    /// Waits for bytes, and passes the payload of every completed frame to `on_packet`. Answers
    /// pings.
    async fn receive(&mut self, mut on_packet: impl FnMut(&[u8])) -> Outcome<()> {
        self.stream.readable().await?;
        let mut pinged = false;
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let length = self.stream.try_read(scratch)?;
            take_frames(&mut self.unfinished, &scratch[..length], &mut |packet| {
                pinged |= packet == b"2";
                on_packet(packet);
            });
            io::Result::Ok(length)
        });
        match read {
            Ok(0) => return Err("the server closed the socket".into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            _ => {}
        }
        if pinged {
            self.stream.write_all(PONG).await?;
        }
        Ok(())
    }
}

/// Checks whether an acknowledgement reports a failure; Causerie's do, the baseline's never does.
fn accepted(acknowledgement: &[u8]) -> Outcome<()> {
    let acknowledgement = str::from_utf8(acknowledgement)?;
    if acknowledgement.contains("\"success\":false") {
        return Err(format!("an event was refused: {acknowledgement}").into());
    }
    Ok(())
}

/// Passes on the frames that are completed by `bytes`; the rest is kept in `unfinished`.
fn take_frames(unfinished: &mut Vec<u8>, bytes: &[u8], on_packet: &mut impl FnMut(&[u8])) {
    if unfinished.is_empty() {
        let taken = split_frames(bytes, on_packet);
        unfinished.extend_from_slice(&bytes[taken..]);
    } else {
        unfinished.extend_from_slice(bytes);
        let taken = split_frames(unfinished, on_packet);
        unfinished.drain(..taken);
    }
}

/// Passes on the complete frames at the start of `bytes`. Returns their total length.
fn split_frames(bytes: &[u8], on_packet: &mut impl FnMut(&[u8])) -> usize {
    let mut at = 0;
    while let Some((header, length)) = frame(&bytes[at..]) {
        let start = at + header;
        let Some(payload) = bytes.get(start..start + length) else {
            break;
        };
        on_packet(payload);
        at = start + length;
    }
    at
}

/// Returns the lengths of the header and the payload of the first frame. Frames from a server are
/// not masked.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        126 => {
            let length = bytes.get(2..4)?.try_into().expect("two bytes");
            Some((4, usize::from(u16::from_be_bytes(length))))
        }
        127 => {
            let length = bytes.get(2..10)?.try_into().expect("eight bytes");
            Some((10, usize::try_from(u64::from_be_bytes(length)).ok()?))
        }
        length => Some((2, usize::from(length))),
    }
}
