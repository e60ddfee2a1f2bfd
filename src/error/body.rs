//! The JSON form of an error.

use std::collections::BTreeMap;

use serde::Serialize;
use validator::{ValidationErrors, ValidationErrorsKind};

use super::Error;

/// The body of an error response, and the acknowledgement of a socket event that failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody<'a> {
    success: bool,
    code: &'static str,
    message: String,
    /// The first error text of each invalid field.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<BTreeMap<&'a str, Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OriginalError>,
    /// The time after which a retry may succeed, in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// The original application also returned the error it threw, and its clients may read the text
/// there.
#[derive(Debug, Serialize)]
struct OriginalError {
    error: String,
}

impl<'a> ErrorBody<'a> {
    pub(super) fn of(error: &'a Error) -> Self {
        let message = error.to_string();
        Self {
            success: false,
            code: error.code(),
            errors: match error {
                Error::Invalid(errors) => Some(first_texts(errors)),
                _ => None,
            },
            error: matches!(error, Error::NoUser).then(|| OriginalError {
                error: message.clone(),
            }),
            message,
            retry_after: error.limited_for(),
            request_id: None,
        }
    }

    /// Adds the id of the request, by which the cause is found in the log.
    #[must_use]
    pub fn with_request_id(self, id: &'a str) -> Self {
        Self {
            request_id: Some(id),
            ..self
        }
    }
}

/// Returns the first error text of each invalid field.
fn first_texts(errors: &ValidationErrors) -> BTreeMap<&str, Option<String>> {
    let text = |kind: &ValidationErrorsKind| match kind {
        ValidationErrorsKind::Field(found) => found.first().map(ToString::to_string),
        _ => None,
    };
    errors
        .errors()
        .iter()
        .map(|(field, kind)| (field.as_ref(), text(kind)))
        .collect()
}
