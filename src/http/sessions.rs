//! Sessions: list and end the sessions of the caller.

use axum::{
    Router,
    extract::State,
    routing::{delete, get, post},
};
use serde::Serialize;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    path_id::PathId,
    response::{Answer, success},
};
use crate::{
    auth::Caller,
    model::{Session, SessionId, Timestamp},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/logout", post(log_out))
        .route("/sessions", get(list))
        .route("/sessions/{sessionId}", delete(end))
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoggedOut {
    message: &'static str,
    ended_sessions_count: usize,
}

async fn log_out(
    State(app): State<Shared>,
    caller: Caller,
    Body(LogOut { all }): Body<LogOut>,
) -> Answer<LoggedOut> {
    let ended = app.accounts.log_out(&caller, all).await?;
    Ok(success(LoggedOut {
        message: "You are logged out",
        ended_sessions_count: ended,
    }))
}

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<SessionView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionView {
    #[serde(rename = "_id")]
    id: SessionId,
    created_at: Timestamp,
    last_used_at: Timestamp,
    expires_at: Timestamp,
    user_agent: String,
    /// Whether it is the session of this request.
    current: bool,
}

impl SessionView {
    fn new(session: Session, current: Option<SessionId>) -> Self {
        Self {
            id: session.id,
            created_at: session.created_at,
            last_used_at: session.used_at,
            expires_at: session.expires_at,
            user_agent: session.user_agent,
            current: current == Some(session.id),
        }
    }
}

async fn list(State(app): State<Shared>, caller: Caller) -> Answer<Sessions> {
    let sessions = app.accounts.list_sessions(&caller).await?;
    let view = |session| SessionView::new(session, caller.session());
    let sessions = sessions.into_iter().map(view).collect();
    Ok(success(Sessions { sessions }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    ended_sessions_count: usize,
}

async fn end(State(app): State<Shared>, PathId(id): PathId, caller: Caller) -> Answer<Ended> {
    let ended = app.accounts.end_session(&caller, &id).await?;
    Ok(success(Ended {
        ended_sessions_count: ended,
    }))
}
