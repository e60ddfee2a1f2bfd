//! Through the front door: real servers on free ports, real databases, real clients. `harness` starts and stops servers, `people` are the
//! clients with roles, `wire` speaks Socket.IO; the rest is a file per noun.

mod harness;
mod people;
mod wire;

mod crash;
mod delete;
mod login;
mod messages;
mod program;
mod real_clients;
mod replay;
mod rooms;
mod sockets;
mod store;
mod users;
