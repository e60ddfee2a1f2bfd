//! Checks websocket handshakes as RFC 6455 requires. The library only checks the key.

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
};

use crate::error::Error;

/// The only version of the websocket protocol.
const VERSION: &str = "13";
/// The length of 16 bytes in base64.
const KEY_LENGTH: usize = 24;

/// Returns the key of a websocket handshake, or the response to an invalid one.
pub fn key(request: &Request) -> Result<HeaderValue, Box<Response>> {
    let headers = request.headers();
    if request.method() != Method::GET
        || request.version() < Version::HTTP_11
        || !lists(headers, &header::CONNECTION, "upgrade")
        || !lists(headers, &header::UPGRADE, "websocket")
    {
        return Err(Box::new(malformed(
            "transport=websocket takes a request that asks for an upgrade to a websocket",
        )));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != VERSION)
    {
        let told = [
            (header::SEC_WEBSOCKET_VERSION, VERSION),
            (header::UPGRADE, "websocket"),
        ];
        let error = Error::Malformed(format!("Sec-WebSocket-Version has to be {VERSION}"));
        return Err(Box::new(
            (StatusCode::UPGRADE_REQUIRED, told, Json(error.body())).into_response(),
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| is_key(key.as_bytes()));
    key.cloned()
        .ok_or_else(|| Box::new(malformed("Sec-WebSocket-Key has to be 16 bytes in base64")))
}

fn malformed(text: &str) -> Response {
    Error::Malformed(text.into()).into_response()
}

/// Whether a comma-separated header contains this element.
fn lists(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    let texts = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|text| text.trim().eq_ignore_ascii_case(element))
}

fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == KEY_LENGTH
        && key
            .strip_suffix(b"==")
            .is_some_and(|digits| digits.iter().all(is_digit))
}
