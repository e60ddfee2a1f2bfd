//! For whoever keeps the server running: does it live, and can it work?

use axum::{Json, Router, extract::State, routing::get};
use serde_json::json;

use super::{Shared, Success, success};
use crate::error::{Error, Fault, Result};

pub fn routes() -> Router<Shared> {
    Router::new().route("/health", get(health)).route("/ready", get(ready))
}

/// The process lives.
async fn health() -> Json<Success> {
    success(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// The database answers; 503 when it does not. Says how many changes are recorded whose effects cannot be applied yet: other servers could not
/// do better.
async fn ready(State(app): State<Shared>) -> Result<Json<Success>> {
    // Whatever is wrong with it: traffic should go elsewhere until it is right again.
    app.store.ping().await.map_err(|error| Error::Unavailable(Fault(error.to_string().into())))?;
    Ok(success(json!({ "pendingEffects": app.store.pending_effects() })))
}
