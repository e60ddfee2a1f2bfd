//! HTTP requests as bytes, and what may be answered to them.

use serde_json::Value;

use crate::support::{loaded_server::LoadedServer, raw::Connection};

impl LoadedServer {
    /// Returns the response to these bytes, after checking that it is well formed. The server must
    /// then wait for more or close the connection, without another response.
    pub async fn answer_to(&self, bytes: impl AsRef<[u8]>) -> (u16, Value) {
        let bytes = bytes.as_ref();
        let mut connection = Connection::open(&self.base).await;
        connection.send(bytes).await;
        let reply = connection
            .reply("GET")
            .await
            .unwrap_or_else(|| panic!("no answer to {}", beginning(bytes)));
        // Not earlier: the server treats a client that has closed its sending side as disconnected.
        connection.finish().await;
        assert!(
            connection.reply("GET").await.is_none(),
            "{}",
            beginning(bytes)
        );
        (reply.status, reply.sound(beginning(bytes)))
    }

    /// Checks that the server executes nothing in these bytes: it sends only refusals, or nothing,
    /// until it closes the connection.
    pub async fn refuses(&self, bytes: impl AsRef<[u8]>) {
        let mut connection = Connection::open(&self.base).await;
        connection.send(bytes.as_ref()).await;
        only_refusals(connection, bytes.as_ref()).await;
    }

    /// Checks the same for a client that stops midway.
    pub async fn refuses_part(&self, bytes: impl AsRef<[u8]>) {
        let mut connection = Connection::open(&self.base).await;
        connection.send(bytes.as_ref()).await;
        connection.finish().await;
        only_refusals(connection, bytes.as_ref()).await;
    }
}

async fn only_refusals(mut connection: Connection, asked: &[u8]) {
    while let Some(reply) = connection.reply("GET").await {
        reply.sound(beginning(asked));
        assert!(reply.status >= 400, "{}: {reply:?}", beginning(asked));
    }
}

pub fn beginning(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}

pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")
}

/// Returns a request that creates a user, with these headers and this body.
pub fn create(headers: &str, body: &str) -> String {
    format!(
        "POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
    )
}

pub const USER: &str = r#"{"firstName":"Mallory","lastName":"Test","type":"consumer"}"#;
