//! What the tests share: servers, databases, users, sockets, and bytes that no client would send.

pub mod answer;
pub mod commands;
pub mod conversation;
pub mod costs;
pub mod databases;
pub mod entries;
pub mod harness;
pub mod http_bytes;
pub mod limits;
pub mod loaded_server;
pub mod mongod;
pub mod node;
pub mod original;
pub mod pages;
pub mod pending_effects;
pub mod people;
pub mod person;
pub mod polling;
pub mod program;
pub mod random;
pub mod raw;
pub mod search;
pub mod sessions;
pub mod store;
pub mod two_servers;
pub mod wire;
