//! What no client should send.

mod backpressure;
mod bodies;
mod frames;
mod http;
mod packets;
mod polling;
mod polling_sessions;
mod random_requests;
mod refused_packets;
mod texts;
mod unusual_requests;
