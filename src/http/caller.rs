//! Extractors for the caller of a request: its verified token and the user of that token.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{Method, request::Parts},
};

use super::{app::Shared, memory::most_of_page, paging::Paging};
use crate::{
    address::ClientAddress,
    auth::{Caller, MaybeAuthenticated, authorization, token_in},
    budget::Reservation,
    error::{Error, Result},
    model::UserId,
    refusals,
};

/// The cost of a search, where reading a page costs 1.
const SEARCH_COST: u64 = 10;
/// The number of items of a page that add 1 to its cost.
const ITEMS_PER_COST: u64 = 50;

/// The user whose token the request contains. Requests without a valid token are refused.
impl FromRequestParts<Shared> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let caller = authenticate(app, parts).await?;
        count(app, parts, caller.user.id).await?;
        Ok(caller)
    }
}

/// The sender of a request that needs no token. In open mode a token is ignored; in secure mode it
/// is optional, but an invalid one is refused.
impl FromRequestParts<Shared> for MaybeAuthenticated {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let has_token = app.authenticator.is_secure() && authorization(&parts.headers)?.is_some();
        let caller = if has_token {
            Some(Caller::from_request_parts(parts, app).await?)
        } else {
            None
        };
        Ok(Self {
            caller,
            address: ClientAddress::of(&parts.extensions),
        })
    }
}

/// Reserves memory for the request of a user, and counts the cost of a read against the user's rate
/// limit.
async fn count(app: &Shared, parts: &Parts, user: UserId) -> Result<()> {
    let path = parts.uri.path();
    let mut page = 0;
    if matches!(parts.method, Method::GET | Method::HEAD) {
        let items = Paging::of(&parts.uri, app.config.max_page).limit_of(path);
        let base = if path.ends_with("/search") {
            SEARCH_COST
        } else {
            1
        };
        app.limits.read(
            user,
            usize::try_from(base + items / ITEMS_PER_COST).unwrap_or(usize::MAX),
        )?;
        page = most_of_page(path, items, app.config.max_body_bytes);
    }
    match parts.extensions.get::<Arc<Reservation>>() {
        Some(reservation) => reservation.take_for_user(user, page).await,
        None => Ok(()),
    }
}

async fn authenticate(app: &Shared, parts: &Parts) -> Result<Caller> {
    let address = ClientAddress::of(&parts.extensions);
    let authenticated = match token_in(&parts.headers) {
        Ok(token) => app.authenticator.authenticate(&token, address).await,
        Err(error) => Err(error),
    };
    authenticated.inspect_err(|error| {
        if refusals::is_first(address, "tokens refused") {
            tracing::info!(%address, %error, "a token was refused");
        }
    })
}
