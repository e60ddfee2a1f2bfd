//! Sessions: refresh, list and end the sessions of the caller.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    routing::{delete, get, post},
};
use serde::Serialize;
use serde_json::json;

use super::{
    PathId, Shared, Success,
    body::{Body, Fields, Input},
    caller::Authenticated,
    success,
};
use crate::{
    address::ClientAddress,
    chat::run_detached,
    error::{Error, Result},
    model::{Session, SessionId, Timestamp, User, UserId},
    refusals,
    sessions::{Opened, Refreshed},
    store::SessionSelector,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/login/refresh", post(refresh))
        .route("/logout", post(log_out))
        .route("/sessions", get(list))
        .route("/sessions/{sessionId}", delete(end_one))
}

/// Returns the response to a login or a refresh.
pub fn opened(opened: &Opened, user: &User) -> Json<Success> {
    success(json!({
        "authorization": opened.authorization,
        "refreshToken": opened.refresh_token,
        "expiresIn": opened.expires_in,
        "user": user,
    }))
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
    Body(refresh): Body<RefreshToken>,
) -> Result<Json<Success>> {
    app.limits.refresh(address)?;
    run_detached(async move {
        match app.sessions.refresh(&refresh.token).await? {
            Refreshed::Goes(next, user) => Ok(opened(&next, &user)),
            Refreshed::Stolen(session) => {
                app.sockets.close_sessions(&[session.id]);
                tracing::warn!(%address, user = %session.user, session = %session.id, "a refresh token was used twice; its session is ended");
                Err(Error::BadRefresh)
            }
            Refreshed::Unknown => {
                if refusals::is_first(address, "refresh tokens refused") {
                    tracing::warn!(%address, "refresh token refused");
                }
                Err(Error::BadRefresh)
            }
        }
    })
    .await
}

/// `{all: true}` ends all sessions of the user, not only the current one.
struct LogOut {
    all: bool,
}

impl Input for LogOut {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            all: fields.flag("all")?,
        })
    }
}

async fn log_out(
    State(app): State<Shared>,
    caller: Authenticated,
    Body(log_out): Body<LogOut>,
) -> Result<Json<Success>> {
    let which = match caller.session {
        _ if log_out.all => Some(SessionSelector::All),
        Some(session) => Some(SessionSelector::One(session)),
        // A token of a login without a password has no session; it ends when it expires.
        None => None,
    };
    let ended = match which {
        Some(which) => end(&app, caller.caller.address, caller.user.id, which).await?,
        None => 0,
    };
    Ok(success(
        json!({ "message": "You are logged out", "endedSessionsCount": ended }),
    ))
}

async fn list(State(app): State<Shared>, caller: Authenticated) -> Result<Json<Success>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        #[serde(rename = "_id")]
        id: SessionId,
        created_at: Timestamp,
        last_used_at: Timestamp,
        expires_at: Timestamp,
        user_agent: String,
        /// Whether it is the session of this request.
        current: bool,
    }
    let shown = |session: Session| Shown {
        id: session.id,
        created_at: session.created_at,
        last_used_at: session.used_at,
        expires_at: session.expires_at,
        current: caller.session == Some(session.id),
        user_agent: session.user_agent,
    };
    let sessions = app.store.sessions(caller.user.id, app.clock.now()).await?;
    Ok(success(
        json!({ "sessions": sessions.into_iter().map(shown).collect::<Vec<_>>() }),
    ))
}

async fn end_one(
    State(app): State<Shared>,
    PathId(id): PathId,
    caller: Authenticated,
) -> Result<Json<Success>> {
    let session = SessionId::parse(&id).ok_or(Error::NoSession)?;
    match end(
        &app,
        caller.caller.address,
        caller.user.id,
        SessionSelector::One(session),
    )
    .await?
    {
        0 => Err(Error::NoSession),
        ended => Ok(success(json!({ "endedSessionsCount": ended }))),
    }
}

/// Ends sessions and closes their sockets, even if the caller does not wait for it. Returns the
/// number of sessions that were ended.
pub async fn end(
    app: &Shared,
    address: ClientAddress,
    user: UserId,
    which: SessionSelector,
) -> Result<usize> {
    let app = Arc::clone(app);
    run_detached(async move {
        let ended = app.store.end_sessions(user, which).await?;
        app.sockets.close_sessions(&ended);
        if !ended.is_empty() {
            tracing::info!(%address, %user, sessions = ended.len(), "sessions were ended");
        }
        Ok(ended.len())
    })
    .await
}
