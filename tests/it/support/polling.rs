//! Sessions of clients that use HTTP polling.

use reqwest::Method;

use crate::support::{
    harness::{PATIENCE, TestServer},
    loaded_server::LoadedServer,
};

/// The session of a polling client.
pub struct Session<'a> {
    pub loaded: &'a LoadedServer,
    pub path: String,
}

pub const BINARY: &str = "application/octet-stream";

impl LoadedServer {
    /// Opens a session with this version of Engine.IO.
    pub async fn session(&self, version: u8) -> Session<'_> {
        let path = format!("/socket.io/?EIO={version}&transport=polling");
        let (status, opening) = self.polls(Method::GET, &path, "text/plain", "").await;
        assert_eq!(status, 200, "{opening}");
        Session {
            loaded: self,
            path: format!("{path}&sid={}", sid_in(&opening)),
        }
    }

    /// Returns the response of the Socket.IO path, which must not be a server error.
    pub async fn polls(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Vec<u8>>,
    ) -> (u16, String) {
        let request = self
            .alice
            .http
            .request(method, format!("{}{path}", self.base))
            .header("content-type", kind)
            .body(body.into());
        let answer = tokio::time::timeout(PATIENCE, request.send())
            .await
            .expect("no answer")
            .unwrap();
        let status = answer.status().as_u16();
        assert!(status < 500, "{path}: {status}");
        (
            status,
            String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned(),
        )
    }
}

impl Session<'_> {
    pub async fn sends(&self, kind: &str, payload: impl Into<Vec<u8>>) -> u16 {
        self.loaded
            .polls(Method::POST, &self.path, kind, payload)
            .await
            .0
    }

    pub async fn hears(&self) -> (u16, String) {
        self.loaded
            .polls(Method::GET, &self.path, "text/plain", "")
            .await
    }

    /// Sends a heartbeat and returns the status, which is 400 when the session does not exist.
    pub async fn pings(&self) -> u16 {
        self.sends(
            "text/plain",
            if self.path.contains("EIO=3") {
                "1:2"
            } else {
                "3"
            },
        )
        .await
    }

    pub fn as_websocket(&self) -> String {
        self.path.replace("polling", "websocket")
    }
}

/// Returns the id of the session in an opening packet.
fn sid_in(opening: &str) -> &str {
    let after = opening.split("\"sid\":\"").nth(1).unwrap();
    after.split('"').next().unwrap()
}

/// Opens a polling session, and returns its path. `query` has at least the version of Engine.IO.
pub async fn polling_session(server: &TestServer, query: &str) -> String {
    let path = format!("/socket.io/?transport=polling&{query}");
    let opening = server
        .http
        .get(format!("{}{path}", server.base))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    format!("{path}&sid={}", sid_in(&opening))
}

pub async fn post_packets(server: &TestServer, session: &str, payload: impl Into<String>) -> u16 {
    server
        .request(Method::POST, session)
        .body(payload.into())
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

pub async fn poll_packets(server: &TestServer, session: &str) -> (u16, String) {
    let answer = server.request(Method::GET, session).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}
