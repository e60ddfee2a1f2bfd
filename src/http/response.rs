//! The envelope of successful responses.

use axum::Json;
use serde::Serialize;

use crate::error::Result;

/// A response body of `{success: true}` and the fields of `body`.
///
/// Bodies that contain a [`RawValue`](serde_json::value::RawValue) cannot be flattened; they have a
/// field `success` of their own.
#[derive(Serialize)]
pub struct Success<T: Serialize> {
    success: bool,
    #[serde(flatten)]
    body: T,
}

/// The result of a handler whose response has this body.
pub type Answer<T> = Result<Json<Success<T>>>;

/// Returns the successful response with this body.
pub fn success<T: Serialize>(body: T) -> Json<Success<T>> {
    Json(Success {
        success: true,
        body,
    })
}
