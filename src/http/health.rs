//! Health and readiness checks.

use axum::{Json, Router, extract::State, routing::get};
use serde_json::json;

use super::{Shared, Success, success};
use crate::error::{Error, Fault, Result};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
}

/// Reports that the process is running.
async fn health() -> Json<Success> {
    success(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// Reports whether the database is reachable; 503 if it is not. Includes the number of recorded
/// changes whose effects cannot be applied yet. These do not make the server unready: other servers
/// could not apply them either.
async fn ready(State(app): State<Shared>) -> Result<Json<Success>> {
    // Any error means 503: traffic should go to other servers until the database works again.
    app.store
        .ping()
        .await
        .map_err(|error| Error::Unavailable(Fault(error.to_string().into())))?;
    Ok(success(
        json!({ "pendingEffects": app.store.pending_effects() }),
    ))
}
