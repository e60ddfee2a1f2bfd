//! Extractors for the caller of a request: its verified token and the user of that token.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{Method, request::Parts},
};

use super::{Shared, memory::most_of_page, paging::Paging};
use crate::{
    access::{Caller, Identity, authorization, token_in},
    address::ClientAddress,
    budget::Reservation,
    error::{Error, Result},
    model::{SessionId, User},
    refusals,
};

/// The cost of a search, where reading a page costs 1.
const SEARCH_COST: u64 = 10;
/// The number of items of a page that add 1 to its cost.
const ITEMS_PER_COST: u64 = 50;

/// The user whose token the request contains. Requests without a valid token are refused.
pub struct Authenticated {
    /// The user.
    pub user: Arc<User>,
    /// The session of the token, if it belongs to one.
    pub session: Option<SessionId>,
    /// The caller, as access control takes it.
    pub caller: Caller,
}

impl FromRequestParts<Shared> for Authenticated {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let (identity, address) = (
            authenticate(app, parts).await?,
            ClientAddress::of(&parts.extensions),
        );
        count(app, parts, &identity).await?;
        let (user, session) = (Arc::clone(&identity.user), identity.token.session);
        Ok(Self {
            user,
            session,
            caller: Caller {
                identity: Some(identity),
                address,
            },
        })
    }
}

/// The caller of a request that needs no token. In open mode a token is ignored; in secure mode it
/// is optional, but an invalid one is refused.
pub struct MaybeAuthenticated(pub Caller);

impl FromRequestParts<Shared> for MaybeAuthenticated {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let says_who = app.access.is_secure() && authorization(&parts.headers)?.is_some();
        let identity = if says_who {
            Some(authenticate(app, parts).await?)
        } else {
            None
        };
        if let Some(identity) = &identity {
            count(app, parts, identity).await?;
        }
        Ok(Self(Caller {
            identity,
            address: ClientAddress::of(&parts.extensions),
        }))
    }
}

/// Reserves memory for the request of a user, and counts the cost of a read against the user's rate
/// limit.
async fn count(app: &Shared, parts: &Parts, identity: &Identity) -> Result<()> {
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
            identity.user.id,
            usize::try_from(base + items / ITEMS_PER_COST).unwrap_or(usize::MAX),
        )?;
        page = most_of_page(path, items, app.config.max_body_bytes);
    }
    match parts.extensions.get::<Arc<Reservation>>() {
        Some(reservation) => reservation.take_for_user(identity.user.id, page).await,
        None => Ok(()),
    }
}

async fn authenticate(app: &Shared, parts: &Parts) -> Result<Identity> {
    let authenticated = match token_in(&parts.headers) {
        Ok(token) => app.access.authenticate(&token).await,
        Err(error) => Err(error),
    };
    authenticated.inspect_err(|error| {
        let address = ClientAddress::of(&parts.extensions);
        if refusals::is_first(address, "tokens refused") {
            tracing::info!(%address, %error, "a token was refused");
        }
    })
}
