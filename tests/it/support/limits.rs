//! Servers in secure mode with the default limits.

use causerie::model::UserType;
use serde_json::{Value, json};

use crate::support::{databases::Kind, harness::TestServer};

const PASSWORD: &str = "tall green kettle";

/// Starts a server in secure mode with these settings.
pub async fn secure_server(kind: Kind, settings: &[(&str, &str)]) -> TestServer {
    let mut all = vec![("CAUSERIE_ACCESS", "secure")];
    all.extend(settings);
    TestServer::with(kind, &all).await
}

pub fn registration(username: &str) -> Value {
    let kind = UserType::Consumer.as_str();
    json!({ "firstName": username, "lastName": "Test", "type": kind, "username": username, "password": PASSWORD })
}

pub fn login(username: &str) -> Value {
    json!({ "username": username, "password": PASSWORD })
}
