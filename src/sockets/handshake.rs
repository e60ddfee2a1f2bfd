//! What a socket keeps of the request that opened its connection.
//!
//! The layer keeps the request for as long as the socket lives, and every header and the URI point into the buffer that the connection
//! was read into: one cookie holds on to all of it. So the request goes on with copies, and only of what anybody will ever look at.
//!
//! What comes on top is the [`ConnectionSlot`]: sockets that come one after the other on a connection have this request in common, and their id.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
};
use socketioxide::extract::SocketRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// How long a socket waits until nothing is left of the one before it.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// The headers that the transports need, and those that say who connects.
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

/// The place for a socket on a connection. A client may leave and connect again on the same connection, and the next socket then has the id
/// of the former one. Events of that may still be under way, and the library knows rooms by ids only: what they did to their own socket,
/// they would do to the next.
#[derive(Clone)]
struct ConnectionSlot(Arc<Semaphore>);

/// Kept by the socket itself, so that the seat is free when nobody has that socket in hand any more: no event, and not the library.
#[derive(Clone)]
struct SlotGuard(#[expect(dead_code, reason = "dropping it is what it is for")] Arc<OwnedSemaphorePermit>);

/// Gives a socket the seat on its connection, as soon as nothing is left of the one before it.
pub async fn take_slot(socket: &SocketRef) -> Result<()> {
    const TAKEN: Error = Error::BadEvent("The former socket of this connection is not through yet");
    let ConnectionSlot(slot) = socket.req_parts().extensions.get::<ConnectionSlot>().cloned().ok_or(TAKEN)?;
    let guard = tokio::time::timeout(SLOT_TIMEOUT, slot.acquire_owned()).await.map_err(|_| TAKEN)?.map_err(|_| TAKEN)?;
    socket.extensions.insert(SlotGuard(Arc::new(guard)));
    Ok(())
}

/// The request that opens a connection, with copies of what is needed of it.
pub fn compact_request(mut request: Request) -> Request {
    request.extensions_mut().insert(ConnectionSlot(Arc::new(Semaphore::new(1))));
    *request.headers_mut() = copies(request.headers());
    if let Ok(uri) = request.uri().to_string().parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}

/// How many bytes of a request the copies take.
pub fn kept_bytes(request: &Request) -> usize {
    let headers = KEPT.iter().filter_map(|name| request.headers().get(name));
    request.uri().path().len() + request.uri().query().map_or(0, str::len) + headers.map(HeaderValue::len).sum::<usize>()
}

fn copies(headers: &HeaderMap) -> HeaderMap {
    let present = KEPT.iter().filter_map(|name| Some((name.clone(), headers.get(name)?)));
    present.filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))).collect()
}
