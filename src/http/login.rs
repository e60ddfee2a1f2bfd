//! Login with a password or, in open mode, without one.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, header},
    routing::post,
};
use serde_json::json;

use super::{
    PathId, Shared, Success,
    body::{Body, Fields, Input},
    sessions::opened,
    success,
};
use crate::{
    address::ClientAddress,
    chat::run_detached,
    error::{Error, Result},
    model::{PasswordHash, UserId, Username},
    password::Verdict,
    refusals,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/login", post(with_username))
        .route("/login/{userId}", post(with_id))
}

struct ByUsername {
    username: String,
    password: String,
}

impl Input for ByUsername {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (username, password) = (fields.text("username"), fields.password("password"));
        Some(Self {
            username: username?,
            password: password?,
        })
    }
}

async fn with_username(
    State(app): State<Shared>,
    address: ClientAddress,
    headers: HeaderMap,
    Body(login): Body<ByUsername>,
) -> Result<Json<Success>> {
    app.limits.login(address)?;
    let account = match Username::parse(&login.username) {
        Some(username) => app.store.account(&username).await?,
        None => None,
    };
    with_password(&app, address, account, login.password, &headers).await
}

/// The body of a login by user id. In open mode it is ignored, and any client gets the token.
struct ById {
    password: Option<String>,
}

impl Input for ById {
    fn read(fields: &mut Fields) -> Option<Self> {
        let password = if fields.is_secure() {
            Some(fields.password("password")?)
        } else {
            None
        };
        Some(Self { password })
    }
}

async fn with_id(
    State(app): State<Shared>,
    PathId(id): PathId,
    address: ClientAddress,
    headers: HeaderMap,
    Body(login): Body<ById>,
) -> Result<Json<Success>> {
    app.limits.login(address)?;
    let Some(password) = login.password else {
        let user = app.user(&id).await?.ok_or(Error::NobodyToBe)?;
        return Ok(success(
            json!({ "authorization": app.sessions.without_proof(&user) }),
        ));
    };
    let account = match UserId::parse(&id) {
        Some(id) => app
            .store
            .credentials(id)
            .await?
            .map(|credentials| (id, credentials.password)),
        None => None,
    };
    with_password(&app, address, account, password, &headers).await
}

/// Logs a user in with a password. A wrong password, an unknown username and an invalid username
/// get the same response after the same work.
async fn with_password(
    app: &Shared,
    address: ClientAddress,
    account: Option<(UserId, PasswordHash)>,
    password: String,
    headers: &HeaderMap,
) -> Result<Json<Success>> {
    let (user, hash) = account.unzip();
    let verdict = app.passwords.verify(password, hash.clone()).await?;
    let (Verdict::Right | Verdict::Outdated(_), Some((user, hash))) = (&verdict, user.zip(hash))
    else {
        if refusals::is_first(address, "logins failed") {
            tracing::warn!(%address, user = user.map(display), "a login failed");
        }
        return Err(Error::WrongLogin);
    };
    let hash = match verdict {
        // If the password was changed in the meantime, the login fails because of the former hash.
        Verdict::Outdated(new)
            if app
                .store
                .set_password(user, hash.clone(), new.clone())
                .await? =>
        {
            new
        }
        _ => hash,
    };
    let user = app.store.user(user).await?.ok_or(Error::WrongLogin)?;
    let user_agent = headers
        .get(header::USER_AGENT)
        .map(|name| String::from_utf8_lossy(name.as_bytes()))
        .unwrap_or_default();
    let (app, user_agent) = (Arc::clone(app), user_agent.into_owned());
    run_detached(async move {
        let begun = app.sessions.begin(&user, hash, &user_agent).await?;
        app.sockets.close_sessions(&begun.ended);
        if !begun.ended.is_empty() {
            tracing::info!(%address, user = %user.id, ended = begun.ended.len(), "too many sessions: login ended the oldest");
        }
        Ok(opened(&begun, &user))
    })
    .await
}
