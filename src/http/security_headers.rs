//! Security headers of responses in secure mode, so that browsers treat responses only as data for
//! the client that requested them.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};

/// No content sniffing, no caching, no display as a page or inside one, no referrer.
const SAID: [(HeaderName, HeaderValue); 4] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
];

/// Headers that the CORS layer adds to every response, whether or not the origin is allowed.
const ALLOWED: [HeaderName; 5] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Adds the security headers of secure mode, and removes the CORS headers from responses to origins
/// that are not allowed.
pub fn harden(mut response: Response) -> Response {
    // The response that switches to a websocket is neither displayed nor cached.
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().extend(SAID);
    }
    if !response
        .headers()
        .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
    {
        for name in &ALLOWED {
            response.headers_mut().remove(name);
        }
    }
    response
}
