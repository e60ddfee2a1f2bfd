//! Socket.IO.

mod catch_up;
mod groups;
mod leaving;
mod messages;
mod presence;
mod reconnects;
mod sending;
mod subscriptions;
mod typing;
