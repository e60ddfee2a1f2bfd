//! A keep-alive HTTP/1.1 connection with minimal overhead, because the load shares its cores with
//! the servers.
//!
//! Requests are byte strings that are built once. Only the status and the length of a response are
//! parsed.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

/// A connection that sends one request at a time.
pub struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(16 * 1024),
        })
    }

    /// Sends a request and returns the body of the response. Errors: any status but 200.
    pub async fn exchange(&mut self, request: &[u8]) -> Outcome<&[u8]> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        let head = self.read_head().await?;
        let end = head + content_length(&self.answer[..head])?;
        while self.answer.len() < end {
            self.read_more().await?;
        }
        if !self.answer.starts_with(b"HTTP/1.1 200") {
            return Err(format!("refused: {}", String::from_utf8_lossy(&self.answer)).into());
        }
        Ok(&self.answer[head..end])
    }

    /// Sends a request and returns the parsed body of the response. Errors: any status but 200.
    pub async fn ask(&mut self, request: &[u8]) -> Outcome<Value> {
        Ok(serde_json::from_slice(self.exchange(request).await?)?)
    }

    /// Reads until the head is complete. Returns the length of the head.
    async fn read_head(&mut self) -> Outcome<usize> {
        loop {
            self.read_more().await?;
            if let Some(at) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok(at + 4);
            }
        }
    }

    async fn read_more(&mut self) -> Outcome<()> {
        match self.stream.read_buf(&mut self.answer).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }
}

fn content_length(head: &[u8]) -> Outcome<usize> {
    const NAME: &[u8] = b"content-length:";
    let value = head
        .split(|&byte| byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
        .map(|line| &line[NAME.len()..])
        .ok_or("an answer without Content-Length")?;
    Ok(str::from_utf8(value)?.trim().parse()?)
}

/// Returns the bytes of a request; an empty token means no `Authorization` header.
pub fn request(method: &str, path: &str, token: &str, body: Option<&Value>) -> Vec<u8> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut head = vec![
        format!("{method} {path} HTTP/1.1"),
        "Host: 127.0.0.1".to_owned(),
        "Accept: */*".to_owned(),
    ];
    if !token.is_empty() {
        head.push(format!("Authorization: Bearer {token}"));
    }
    if !body.is_empty() {
        head.push("Content-Type: application/json".to_owned());
    }
    if method != "GET" {
        head.push(format!("Content-Length: {}", body.len()));
    }
    format!("{}\r\n\r\n{body}", head.join("\r\n")).into_bytes()
}
