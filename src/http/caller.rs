//! Who calls: the token of a request, verified, and the user that it speaks for.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, header, request::Parts},
};

use super::Shared;
use crate::{
    access::Caller,
    error::{Error, Result},
    model::User,
};

/// The user whose token came with the request. A handler that takes it runs for nobody else.
pub struct Authenticated(pub Arc<User>);

impl Authenticated {
    /// The same, as access control asks for it.
    pub fn caller(&self) -> Caller {
        Caller::User(Arc::clone(&self.0))
    }
}

impl FromRequestParts<Shared> for Authenticated {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let user = app.tokens.verify(&token(&parts.headers)?, app.clock.now())?;
        app.store.user(user).await?.map(Self).ok_or(Error::CallerGone)
    }
}

/// The `Authorization` header, if there is one. Of two somebody in front of us may have looked at the other.
pub fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>> {
    let mut found = headers.get_all(header::AUTHORIZATION).iter();
    match (found.next(), found.next()) {
        (header, None) => Ok(header),
        _ => Err(Error::TwoTokens),
    }
}

/// What stands between the first space of the `Authorization` header and the next, whatever the scheme's name.
fn token(headers: &HeaderMap) -> Result<String> {
    let header = authorization(headers)?.filter(|value| !value.is_empty()).ok_or(Error::NoToken)?;
    let header = String::from_utf8_lossy(header.as_bytes());
    Ok(header.split(' ').nth(1).unwrap_or_default().to_owned())
}
