//! Requests for sockets, looked at before the library sees them: whether their client may open one more, and what it sends when it polls.
//!
//! Two things the library does not do itself: it waits for a payload for ever, and (engineioxide-core 0.2.3) where the length of a packet of
//! Engine.IO 3 ends between the two halves of a surrogate pair and more follows, its decoder runs in circles for ever, and a thread of the
//! runtime with it.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{body, memory::Memory};
use crate::{
    access::authorization,
    address::ClientAddress,
    error::{Error, Result},
    limits::Limits,
    live::{Live, Taken},
};

/// What requests may take.
#[derive(Clone)]
pub struct Bounds {
    /// The largest payload, in bytes.
    pub bytes: usize,
    /// How long a request may take, or its client to send a payload.
    pub time: Duration,
    /// How often a client may open a connection for sockets, and how many it may have.
    pub limits: Arc<Limits>,
    /// The sockets.
    pub live: Arc<dyn Live>,
    /// The memory of requests.
    pub memory: Memory,
}

/// Answers a request for sockets. Lets only payloads through that are whole and, in version 3, made of packets that end where they say.
pub async fn check(bounds: Bounds, request: Request, next: Next) -> Response {
    match checked(request, &bounds).await {
        Ok(request) => carry(&bounds, request, next).await,
        Err(error) => error.into_response(),
    }
}

/// Answers it, and notes what is taken to the client by that. A client gets one websocket in the place of its polling, and no more: they
/// would be connections that nobody counts.
async fn carry(Bounds { live, .. }: &Bounds, request: Request, next: Next) -> Response {
    let Some(sid) = sid(&request).filter(|_| request.method() == Method::GET).map(ToOwned::to_owned) else {
        return next.run(request).await;
    };
    if parameters(&request).any(|pair| pair == "transport=websocket") {
        let taken = request.extensions().get::<Taken>().cloned().unwrap_or_default();
        if !live.upgrades(&sid, &taken) {
            return Error::Malformed("There is no such connection, or it has its websocket already".into()).into_response();
        }
        let response = next.run(request).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            live.upgrade_failed(&sid);
        }
        return response;
    }
    let response = next.run(request).await;
    if response.status().is_success() {
        live.polled(&sid, response.body().size_hint().lower());
    }
    response
}

async fn checked(mut request: Request, bounds: &Bounds) -> Result<Request> {
    // Later only one would be left, and nobody could tell.
    authorization(request.headers())?;
    if is_handshake(&request) {
        let address = ClientAddress::of(request.extensions());
        bounds.limits.connection(address)?;
        // The library keeps the request for as long as the connection is open, whether a socket connects on it, is refused, or has left.
        let place = bounds.limits.socket(address)?;
        request.extensions_mut().insert(place);
    }
    if request.method() != Method::POST {
        return Ok(request);
    }
    let is_framed = is_text_of_version_3(&request);
    let (parts, body) = request.into_parts();
    let payload = tokio::time::timeout(bounds.time, body::read(body, bounds.bytes)).await.map_err(|_| Error::TooSlow)??;
    if is_framed && !str::from_utf8(&payload).is_ok_and(is_well_framed) {
        return Err(Error::Malformed("The payload is not made of packets with their lengths in front".into()));
    }
    Ok(Request::from_parts(parts, Body::from(payload)))
}

/// Whether a new connection is asked for: those that are there have an id.
fn is_handshake(request: &Request) -> bool {
    sid(request).is_none()
}

/// The id of a connection that is there, as the client says.
fn sid(request: &Request) -> Option<&str> {
    parameters(request).find_map(|pair| pair.strip_prefix("sid="))
}

/// The parameters of the query, as the library takes it apart.
fn parameters(request: &Request) -> impl Iterator<Item = &str> {
    request.uri().query().unwrap_or_default().split('&')
}

fn is_text_of_version_3(request: &Request) -> bool {
    let version = parameters(request).find_map(|pair| pair.strip_prefix("EIO="));
    let is_binary = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/octet-stream");
    version.is_some_and(is_3) && !is_binary
}

/// The library reads the version up to the next `=`.
fn is_3(version: &str) -> bool {
    version.split('=').next() == Some("3")
}

/// Whether the payload is a row of packets with their lengths in front, `<length>:<packet>`.
fn is_well_framed(mut payload: &str) -> bool {
    while !payload.is_empty() {
        let packet = payload.split_once(':').and_then(|(length, packets)| without(packets, length.parse().ok()?));
        match packet {
            Some(rest) => payload = rest,
            None => return false,
        }
    }
    true
}

/// The text without this many UTF-16 code units, which are what JavaScript counts, at its start.
fn without(text: &str, units: usize) -> Option<&str> {
    let mut left = units;
    for (at, c) in text.char_indices() {
        if left == 0 {
            return Some(&text[at..]);
        }
        left = left.checked_sub(c.len_utf16())?;
    }
    (left == 0).then_some("")
}

#[cfg(test)]
mod tests {
    use super::is_well_framed;

    #[test]
    fn packets_end_where_javascript_says_they_end() {
        for payload in ["", "1:2", "6:2probe1:2", "2:😀", "4:4😀é3:4:5", "0:1:2"] {
            assert!(is_well_framed(payload), "{payload}");
        }
        for payload in ["1:😀x", "1:😀", "3:4😀x1:2", "2:x", "9:", "x", ":", "1", "-1:x", "1:22", "99999999999999999999:x"] {
            assert!(!is_well_framed(payload), "{payload}");
        }
    }
}
