//! End-to-end tests: real servers on free ports, real databases, real clients. `support` has what
//! they share, the other modules one subject each.
//!
//! Tests of the store, and of what only MongoDB does, run on every deployment. Tests over HTTP and
//! sockets run on SQLite, except for some that use every endpoint and event once on MongoDB as well.
//! Tests that take more than about three seconds are ignored as slow; CONTRIBUTING.md has the
//! commands.

mod support;

use rstest_reuse::template;

/// A test that runs on each store.
#[template]
#[rstest::rstest]
fn each_store(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {}

/// A test that runs on each store, and is slow on MongoDB.
#[template]
#[rstest::rstest]
#[case::sqlite(Kind::Sqlite)]
#[ignore = "slow"]
#[case::replica_set(Kind::ReplicaSet)]
fn each_store_slow_on_mongodb(#[case] kind: Kind) {}

/// A test that runs on each store, and on each deployment of it where these behave differently.
#[template]
#[rstest::rstest]
fn each_deployment(#[values(Kind::Sqlite, Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {}

/// A test that runs on each store and deployment, and is slow on MongoDB.
#[template]
#[rstest::rstest]
#[case::sqlite(Kind::Sqlite)]
#[ignore = "slow"]
#[case::replica_set(Kind::ReplicaSet)]
#[ignore = "slow"]
#[case::standalone(Kind::Standalone)]
fn each_deployment_slow_on_mongodb(#[case] kind: Kind) {}

/// A test of what only MongoDB supports.
#[template]
#[rstest::rstest]
fn each_mongodb(#[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {}

mod clients;
mod documents;
mod hostile;
mod http;
mod measured;
mod mongodb;
mod program;
mod secure;
mod sockets;
mod store;
