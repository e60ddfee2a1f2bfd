//! Health and readiness checks.

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;

use super::{
    app::Shared,
    response::{Answer, Success, success},
};
use crate::error::{Error, Fault};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
}

#[derive(Serialize)]
struct Health {
    version: &'static str,
}

/// Reports that the process is running.
async fn health() -> Json<Success<Health>> {
    success(Health {
        version: env!("CARGO_PKG_VERSION"),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    pending_effects: usize,
}

/// Reports whether the database is reachable; 503 if it is not. Includes the number of recorded
/// changes whose effects cannot be applied yet. These do not make the server unready: other servers
/// could not apply them either.
async fn ready(State(app): State<Shared>) -> Answer<Ready> {
    // Any error means 503: traffic should go to other servers until the database works again.
    app.database
        .ping()
        .await
        .map_err(|error| Error::Unavailable(Fault(error.to_string().into())))?;
    Ok(success(Ready {
        pending_effects: app.database.pending_effects(),
    }))
}
