//! End-to-end tests: real servers on free ports, real databases, real clients. `harness` starts and
//! stops servers, `people` has the REST clients, `wire` is a Socket.IO client, `raw` sends
//! arbitrary bytes. The other modules test one subject each, and `hostile*` test what no client
//! should send.

mod databases;
mod harness;
mod mongod;
mod people;
mod raw;
mod wire;

use rstest_reuse::template;

/// A test that runs on each store.
#[template]
#[rstest::rstest]
fn each_store(#[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind) {}

/// A test that runs on each store, and on each deployment of it where these behave differently.
#[template]
#[rstest::rstest]
fn each_deployment(#[values(Kind::Sqlite, Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {}

/// A test of what only MongoDB supports.
#[template]
#[rstest::rstest]
fn each_mongodb(#[values(Kind::ReplicaSet, Kind::Standalone)] kind: Kind) {}

mod accounts;
mod catch_up;
mod checker;
mod clocks;
mod coming_back;
mod compose;
mod crash;
mod create_user;
mod cut_off;
mod delete;
mod deleted_members;
mod deployments;
mod edits;
mod groups;
mod groups_secure;
mod hostile;
mod hostile_backpressure;
mod hostile_bodies;
mod hostile_frames;
mod hostile_http;
mod hostile_load;
mod hostile_polling;
mod hostile_unproved;
mod idle;
mod large_rooms;
mod leaving;
mod login;
mod long_pages;
mod messages;
mod outages;
mod pending_effects;
mod perimeter;
mod presence;
mod program;
mod reading;
mod real_clients;
mod reconnects;
mod replay;
mod room_list;
mod rooms;
mod search;
mod search_index;
mod secure_access;
mod secure_hostile;
mod secure_sessions;
mod secure_sockets;
mod secure_tokens;
mod sending;
mod settings;
mod sockets;
mod sqlite_files;
mod starting;
mod store;
mod store_costs;
mod store_log;
mod store_members;
mod store_search;
mod store_sessions;
mod subscriptions;
mod takeover;
mod two_servers;
mod unicode;
mod users;
