//! Two servers on one database.

use std::time::Instant;

use crate::support::{
    databases::{Database, Kind},
    harness::{PATIENCE, TestServer},
    person::Person,
};

pub async fn two_servers(kind: Kind, settings: &[(&str, &str)]) -> [TestServer; 2] {
    let database = Database::new(kind).await;
    let second = Box::pin(TestServer::on(database.again(), settings));
    let (first, second) = tokio::join!(Box::pin(TestServer::on(database, settings)), second);
    [first, second]
}

/// Starts two servers, with a user who is known to both.
pub async fn two_servers_and_alice(kind: Kind) -> ([TestServer; 2], [Person; 2]) {
    let servers = two_servers(kind, &[]).await;
    let alice = servers[0].person("Alice").await;
    let at_second = alice.at(&servers[1]);
    (servers, [alice, at_second])
}

/// Retries until the condition holds.
pub async fn until(otherwise: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "{otherwise}");
    }
}
