//! For whoever keeps the server running: does it live, and can it work?

use axum::{Json, Router, extract::State, routing::get};
use serde_json::json;

use super::{Shared, Success, success};
use crate::error::Result;

pub fn routes() -> Router<Shared> {
    Router::new().route("/health", get(health)).route("/ready", get(ready))
}

/// The process lives.
async fn health() -> Json<Success> {
    success(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// The database answers; 503 when it does not.
async fn ready(State(app): State<Shared>) -> Result<Json<Success>> {
    app.store.ping().await?;
    Ok(success(json!({})))
}
