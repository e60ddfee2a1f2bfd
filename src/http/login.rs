//! Login with a password or, in open mode, without one, and the refresh of tokens.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::{FromRequestParts, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Serialize;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    path_id::PathId,
    response::{Answer, success},
};
use crate::{
    accounts::{LoggedIn, LoginClient},
    address::ClientAddress,
    error::Result,
    model::User,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/login", post(log_in))
        .route("/login/{userId}", post(log_in_by_id))
        .route("/login/refresh", post(refresh))
}

impl<S: Sync> FromRequestParts<S> for LoginClient {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        let user_agent = parts
            .headers
            .get(header::USER_AGENT)
            .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
            .unwrap_or_default();
        Ok(Self {
            address: ClientAddress::of(&parts.extensions),
            user_agent,
        })
    }
}

/// The tokens of a session.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionTokens {
    authorization: String,
    refresh_token: String,
    expires_in: u32,
    user: Arc<User>,
}

impl From<LoggedIn> for SessionTokens {
    fn from(LoggedIn { session, user }: LoggedIn) -> Self {
        Self {
            authorization: session.authorization,
            refresh_token: session.refresh_token,
            expires_in: session.expires_in,
            user,
        }
    }
}

struct Login {
    username: String,
    password: String,
}

impl Input for Login {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (username, password) = (fields.text("username"), fields.password("password"));
        Some(Self {
            username: username?,
            password: password?,
        })
    }
}

async fn log_in(
    State(app): State<Shared>,
    client: LoginClient,
    Body(Login { username, password }): Body<Login>,
) -> Answer<SessionTokens> {
    let logged_in = app.accounts.log_in(client, &username, password).await?;
    Ok(success(logged_in.into()))
}

/// The body of a login by user id. In open mode it is ignored, and any client gets the token.
struct LoginById {
    password: Option<String>,
}

impl Input for LoginById {
    fn read(fields: &mut Fields) -> Option<Self> {
        let password = if fields.is_secure() {
            Some(fields.password("password")?)
        } else {
            None
        };
        Some(Self { password })
    }
}

/// A token without a session.
#[derive(Serialize)]
struct Token {
    authorization: String,
}

async fn log_in_by_id(
    State(app): State<Shared>,
    PathId(id): PathId,
    client: LoginClient,
    Body(login): Body<LoginById>,
) -> Result<Response> {
    let accounts = &app.accounts;
    if let Some(password) = login.password {
        let logged_in = accounts.log_in_by_id(client, &id, password).await?;
        return Ok(success(SessionTokens::from(logged_in)).into_response());
    }
    let authorization = accounts
        .log_in_without_password(client.address, &id)
        .await?;
    Ok(success(Token { authorization }).into_response())
}

struct RefreshToken {
    token: String,
}

impl Input for RefreshToken {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            token: fields.text("refreshToken")?,
        })
    }
}

async fn refresh(
    State(app): State<Shared>,
    address: ClientAddress,
    Body(RefreshToken { token }): Body<RefreshToken>,
) -> Answer<SessionTokens> {
    let logged_in = app.accounts.refresh(address, token).await?;
    Ok(success(logged_in.into()))
}
