//! The parameters of a path.

use axum::{
    extract::{FromRequestParts, Path, rejection::PathRejection},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Extracts the decoded parameters of a path. The service checks whether what they name exists.
pub struct PathId<T = String>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathId<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path: std::result::Result<Path<T>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0))
            .map_err(|_| Error::Malformed("The path of the request is not valid UTF-8".into()))
    }
}
