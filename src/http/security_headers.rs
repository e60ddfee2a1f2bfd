//! What answers carry in secure mode, so that browsers make nothing of them but what they are: data for those who asked.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};

/// Never guess a type, never keep an answer, never show one as a page or in one, never tell others the address of one.
const SAID: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// What the layer for CORS says to every page, whether it may call or not.
const ALLOWED: [HeaderName; 5] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// The same answer with what is to be said in secure mode. Pages that may not call are told nothing about who may do what.
pub fn harden(mut response: Response) -> Response {
    // The switch to a websocket is no answer that anybody would show or keep.
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().extend(SAID);
    }
    if !response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        for name in &ALLOWED {
            response.headers_mut().remove(name);
        }
    }
    response
}
