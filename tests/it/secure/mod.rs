//! Secure mode: authentication, access control, sessions and limits.

mod browsers;
mod connections;
mod costs;
mod groups;
mod history;
mod injection;
mod limits;
mod refresh_tokens;
mod rooms;
mod secrets;
mod sessions;
mod socket_lifetimes;
mod sockets;
mod tokens;
mod unauthenticated;
mod users;
