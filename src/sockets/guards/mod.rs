//! Everything that exists because of a limit of socketioxide 0.18, engineioxide 0.17 or hyper 1. Each
//! guard can go when the library does what the last column says.
//!
//! | guard | gap | can go when |
//! |---|---|---|
//! | [`connection_guard`], [`input_limits`] | A connection without a connected socket may send as much as any other, and stays open after a refused CONNECT. | there are limits in bytes, packets and time for unauthenticated connections |
//! | [`frame_filter`], [`packets`], [`payloads`] | Attachments are kept until the last one has arrived (socketioxide PR 775 bounds them, at 10,000 and 10 MB), a CONNECT to an unknown namespace is echoed, and the decoder of Engine.IO 3 payloads can loop forever. | binary events can be turned off, unknown namespaces are refused without an echo, and the decoder is fixed |
//! | [`transport`] | The server cannot close a polling session, and the stream of a websocket cannot be wrapped. | `SocketIo` can close a session by its id, and a websocket can be handed over as a stream after an upgrade of the caller's |
//! | [`handshake`] | The layer keeps the whole first request, and a second socket on a connection gets the id of the first. | it keeps only what is asked for, and ids are unique |
//! | [`event_queue`] | Handlers of a socket run concurrently, so events overtake each other, and nothing bounds them. | handlers can run in the order of their events |
//! | [`slow_clients`] | A broadcast does not say which sockets had no room in their buffers. | `BroadcastError` names the sockets |
//! | [`outbound_budget`] | Buffers are bounded in packets, not in bytes. | there is a limit in bytes |
//! | [`orphans`] | None known; a safety check for sockets that are in no room of their session. It logs an error when it finds one. | it is no longer wanted |

pub(super) mod connection_guard;
pub(super) mod event_queue;
mod frame_filter;
mod frames;
pub(super) mod handshake;
mod input_limits;
pub(super) mod orphans;
mod outbound_budget;
mod packets;
mod payloads;
pub(super) mod slow_clients;
mod transport;

pub use connection_guard::Guard;
pub use handshake::kept_bytes;
pub use input_limits::Violation;
pub use outbound_budget::BytesWritten;
pub use payloads::{Framing, screen};
pub use transport::Transport;
