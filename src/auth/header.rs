//! The `Authorization` header.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::error::{Error, Result};

/// Returns the `Authorization` header, if there is one. Errors: [`Error::TwoTokens`] if there are
/// several, because a proxy in front of the server may have checked another one.
pub fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>> {
    let mut found = headers.get_all(header::AUTHORIZATION).iter();
    match (found.next(), found.next()) {
        (header, None) => Ok(header),
        _ => Err(Error::TwoTokens),
    }
}

/// Returns the part between the first and the second space of the `Authorization` header. The
/// scheme is ignored.
pub fn token_in(headers: &HeaderMap) -> Result<String> {
    let header = authorization(headers)?
        .filter(|value| !value.is_empty())
        .ok_or(Error::NoToken)?;
    let header = String::from_utf8_lossy(header.as_bytes());
    Ok(header.split(' ').nth(1).unwrap_or_default().to_owned())
}
