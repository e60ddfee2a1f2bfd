//! What a socket keeps of the request that opened it.
//!
//! The layer keeps the request for as long as the socket lives, and every header and the URI point into the buffer that the connection
//! was read into: one cookie holds on to all of it. So the request goes on with copies, and only of what anybody will ever look at.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
};

use super::PATH;

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

/// Lets requests for sockets go on with copies of what they need; other requests pass as they are.
pub fn slim(mut request: Request) -> Request {
    if request.uri().path().starts_with(PATH) {
        *request.headers_mut() = copies(request.headers());
        if let Ok(uri) = request.uri().to_string().parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    request
}

fn copies(headers: &HeaderMap) -> HeaderMap {
    let present = KEPT.iter().filter_map(|name| Some((name.clone(), headers.get(name)?)));
    present.filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))).collect()
}
