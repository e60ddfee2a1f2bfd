//! Through the front door: real servers on free ports, real databases, real clients. `harness` starts and stops servers, `people` are the
//! clients with roles, `wire` speaks Socket.IO, `raw` sends any bytes; the rest is a file per noun, and `hostile*` is what nobody ought to send.

mod harness;
mod people;
mod raw;
mod wire;

mod crash;
mod delete;
mod hostile;
mod hostile_bodies;
mod hostile_frames;
mod hostile_http;
mod hostile_polling;
mod hostile_siege;
mod login;
mod messages;
mod program;
mod real_clients;
mod replay;
mod rooms;
mod sockets;
mod store;
mod users;
