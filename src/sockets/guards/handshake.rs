//! The parts of a connection's first request that its sockets keep.
//!
//! The layer keeps the request for the lifetime of the socket. Every header and the URI reference
//! the buffer that the connection was read into, so a single cookie would keep the whole buffer in
//! memory. The request is therefore reduced to copies of the parts that are used.
//!
//! It also carries the [`ConnectionSlot`]: consecutive sockets on a connection share this request
//! and their id.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
};
use socketioxide::extract::SocketRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// How long a new socket waits until the previous one is completely dropped.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// The headers that the transports need, and those that identify the client.
const KEPT: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    header::ORIGIN,
    header::USER_AGENT,
];

/// The slot for the one socket of a connection. A client may disconnect and reconnect its socket on
/// the same connection, and the new socket has the same id. Events of the old socket may still be
/// running, and socketioxide identifies the sockets in a room only by id, so these events would
/// affect the new socket.
#[derive(Clone)]
struct ConnectionSlot(Arc<Semaphore>);

/// Stored in the socket, so that the slot becomes free when no event and no code of socketioxide
/// holds the socket any more.
#[derive(Clone)]
struct SlotGuard(
    #[expect(dead_code, reason = "dropping it is what it is for")] Arc<OwnedSemaphorePermit>,
);

/// Acquires the slot of a connection for a socket, as soon as the previous socket is dropped.
///
/// Errors: [`Error::SocketSlotTaken`] after [`SLOT_TIMEOUT`].
pub async fn take_slot(socket: &SocketRef) -> Result<()> {
    let ConnectionSlot(slot) = socket
        .req_parts()
        .extensions
        .get::<ConnectionSlot>()
        .cloned()
        .ok_or(Error::SocketSlotTaken)?;
    let guard = tokio::time::timeout(SLOT_TIMEOUT, slot.acquire_owned())
        .await
        .map_err(|_| Error::SocketSlotTaken)?
        .map_err(|_| Error::SocketSlotTaken)?;
    socket.extensions.insert(SlotGuard(Arc::new(guard)));
    Ok(())
}

/// Returns the request that opens a connection, with copies of the parts that are used.
pub fn compact_request(mut request: Request) -> Request {
    request
        .extensions_mut()
        .insert(ConnectionSlot(Arc::new(Semaphore::new(1))));
    *request.headers_mut() = copies(request.headers());
    if let Ok(uri) = request.uri().to_string().parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}

/// Returns how many bytes of a request are copied.
pub fn kept_bytes(request: &Request) -> usize {
    let headers = KEPT.iter().filter_map(|name| request.headers().get(name));
    request.uri().path().len()
        + request.uri().query().map_or(0, str::len)
        + headers.map(HeaderValue::len).sum::<usize>()
}

fn copies(headers: &HeaderMap) -> HeaderMap {
    let present = KEPT
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?)));
    present
        .filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?)))
        .collect()
}
