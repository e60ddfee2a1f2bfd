//! The errors that clients can get: one enum, its HTTP response and its form in the acknowledgement
//! of a socket event.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use validator::{ValidationErrors, ValidationErrorsKind};

use crate::{model::MAX_ROOM, store::StoreError, token::TokenError};

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request or an event failed. The text of a variant is sent to the client.
///
/// To add one: add the variant with its text here, and its status in `Error::status`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400: fields of the body are invalid; all of them are named.
    #[error("Kindly fix the error(s)")]
    Invalid(ValidationErrors),
    /// 400: the body, the path or the query cannot be parsed.
    #[error("{0}")]
    Malformed(String),
    /// 413: the body is larger than the configured limit, in bytes.
    #[error("The request body is larger than {0} bytes")]
    TooLarge(usize),
    /// 415: the body is compressed, or in a character set other than UTF-8.
    #[error("{0}")]
    UnsupportedBody(String),
    /// 400: there is no `Authorization` header.
    #[error("No access token provided")]
    NoToken,
    /// 400: there are several `Authorization` headers. A proxy in front of the server may have
    /// checked another one than the server would.
    #[error("The request has more than one Authorization header")]
    TwoTokens,
    /// 401: the token is invalid or has expired.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// 401: the user of the token has been deleted.
    #[error("No user with this id found")]
    CallerGone,
    /// 401: the session of the token has ended.
    #[error("This session has ended, please log in again")]
    SessionOver,
    /// 401: the refresh token is invalid or was used before, or its session has ended.
    #[error("The refresh token is not valid, please log in again")]
    BadRefresh,
    /// 401: there is no such account, or the password is wrong. The client must not learn which.
    #[error("Wrong username or password")]
    WrongLogin,
    /// 403: the old password is wrong.
    #[error("The old password is wrong")]
    WrongPassword,
    /// 400: the user has no password to replace.
    #[error("This user has no password")]
    NoPassword,
    /// 403: the account belongs to another user.
    #[error("You can only change your own account")]
    NotYours,
    /// 403: the caller may not delete the target, or it does not exist. The client must not learn
    /// which.
    #[error("This is not yours to delete, or it is not there")]
    NotToDelete,
    /// 403: only the initiator of a room and support users may remove other members.
    #[error("Only the initiator of a room or a support user can take others out of it")]
    NotYoursToRemove,
    /// 403: only support users may remove the last support user of a room that needs one.
    #[error("Only a support user can take the last support user out of a consumer-to-support room")]
    LastSupport,
    /// 403: the message has another author.
    #[error("You can only edit your own messages")]
    NotYourMessage,
    /// 404: the room has no such message.
    #[error("No message with this id found")]
    NoMessage,
    /// 400: the socket has not identified its user.
    #[error("Please say who you are with identity first")]
    NoIdentity,
    /// 403: only support users may register support users.
    #[error("Only a support user can register a support user")]
    SupportOnly,
    /// 403: only support users may register users.
    #[error("Registration is closed")]
    RegistrationClosed,
    /// 403: the id is not that of the socket's token.
    #[error("This is not the user of your token")]
    NotYou,
    /// 403: the other user cannot be subscribed to a room that they are not a member of.
    #[error("That user is not a member of this room")]
    OtherNotAMember,
    /// 404: the caller has no such session.
    #[error("No session with this id found")]
    NoSession,
    /// 400: there is no such user to log in as, or to identify a socket as.
    #[error("No user with this id found")]
    NobodyToBe,
    /// 404: the requested user does not exist.
    #[error("No user with this id found")]
    NoUser,
    /// 400: the room does not exist.
    #[error("No room exists for this id")]
    NoRoom,
    /// 403: the caller is not a member of the room.
    #[error("You are not a member of this room")]
    NotAMember,
    /// 404: the path does not exist.
    #[error("API endpoint doesnt exist")]
    NoEndpoint,
    /// 405: the path exists, but not for this method.
    #[error("API endpoint doesnt exist")]
    NoMethod,
    /// 400: the room would have too many members.
    #[error("A room has at most {most} members", most = MAX_ROOM)]
    TooManyMembers,
    /// 429: a rate limit or a connection limit is exceeded. The client may retry after this time.
    #[error("rate limited")]
    RateLimited(Duration),
    /// 503: the server has as many connections as the system allows.
    #[error("The server has no room for more connections right now")]
    Busy,
    /// 429: the user has stored as many bytes as the settings allow per day.
    #[error("You have stored as much as one user may in a day ({most} bytes)")]
    QuotaExceeded {
        /// The bytes allowed per day.
        most: u64,
        /// The time until the end of the day.
        wait: Duration,
    },
    /// 503: the server has no memory left for the request.
    #[error("The server has too much to do right now, please try again")]
    OutOfMemory,
    /// 503: the request took longer than the configured timeout.
    #[error("The request took too long and was given up")]
    TooSlow,
    /// 503: the database is not available.
    #[error("The service is not available right now, please try again")]
    Unavailable(Fault),
    /// 500: an internal error.
    #[error("Something went wrong on our side")]
    Internal(Fault),
    /// The payload of a socket event has the wrong shape. Sent in the acknowledgement.
    #[error("{0}")]
    BadEvent(&'static str),
}

/// The cause of an error, for the log only. It is passed in the extensions of the response to the
/// middleware that logs requests.
#[derive(Clone, Debug)]
pub struct Fault(pub Arc<str>);

impl Error {
    /// Creates an internal error with its cause, which is only logged.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::Internal(Fault(cause.into().into()))
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_)
            | Self::Malformed(_)
            | Self::NoToken
            | Self::TwoTokens
            | Self::NoPassword
            | Self::NobodyToBe
            | Self::NoIdentity
            | Self::NoRoom
            | Self::TooManyMembers
            | Self::BadEvent(_) => StatusCode::BAD_REQUEST,
            Self::Token(_)
            | Self::CallerGone
            | Self::SessionOver
            | Self::BadRefresh
            | Self::WrongLogin => StatusCode::UNAUTHORIZED,
            Self::NotAMember
            | Self::WrongPassword
            | Self::NotYours
            | Self::NotToDelete
            | Self::NotYoursToRemove
            | Self::LastSupport
            | Self::NotYourMessage
            | Self::SupportOnly
            | Self::RegistrationClosed
            | Self::NotYou
            | Self::OtherNotAMember => StatusCode::FORBIDDEN,
            Self::NoUser | Self::NoSession | Self::NoMessage | Self::NoEndpoint => {
                StatusCode::NOT_FOUND
            }
            Self::NoMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedBody(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited(_) | Self::QuotaExceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::OutOfMemory | Self::TooSlow | Self::Unavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the response body, which is also the acknowledgement of a socket event: `{success:
    /// false, message}` and further fields of the error.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut body = json!({ "success": false, "message": self.to_string() });
        match self {
            Self::Invalid(errors) => body["errors"] = first_texts(errors),
            // The original application also returned the error it threw, and its clients may read
            // the text there.
            Self::NoUser => body["error"] = json!({ "error": self.to_string() }),
            Self::RateLimited(wait) | Self::QuotaExceeded { wait, .. } => {
                body["retryAfter"] = json!(seconds(*wait));
            }
            _ => {}
        }
        body
    }

    /// Returns the value of the `Retry-After` header, if known.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::RateLimited(wait) | Self::QuotaExceeded { wait, .. } => {
                Some(seconds(*wait).into())
            }
            Self::Busy | Self::OutOfMemory | Self::TooSlow | Self::Unavailable(_) => {
                Some(HeaderValue::from_static("1"))
            }
            _ => None,
        }
    }
}

/// Rounds up to whole seconds, at least one, so that a client that waits this long does not retry
/// too early.
fn seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
}

/// Returns the first error text of each invalid field.
fn first_texts(errors: &ValidationErrors) -> Value {
    let text = |kind: &ValidationErrorsKind| match kind {
        ValidationErrorsKind::Field(found) => found.first().map(ToString::to_string),
        _ => None,
    };
    errors
        .errors()
        .iter()
        .map(|(field, kind)| (field.to_string(), text(kind).into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let fault = Fault(error.to_string().into());
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(fault),
            StoreError::Fault(_) => Self::Internal(fault),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.to_json())).into_response();
        if let Some(wait) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, wait);
        }
        if let Self::Unavailable(fault) | Self::Internal(fault) = self {
            response.extensions_mut().insert(fault);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_limited_is_told_when_to_come_back_and_not_too_early() {
        for (milliseconds, expected) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (29_500, 30)] {
            let error = || Error::RateLimited(Duration::from_millis(milliseconds));
            assert_eq!(
                error().to_json(),
                json!({ "success": false, "message": "rate limited", "retryAfter": expected })
            );
            let response = error().into_response();
            assert_eq!(
                (
                    response.status().as_u16(),
                    &response.headers()[header::RETRY_AFTER]
                ),
                (429, &HeaderValue::from(expected))
            );
        }
    }
}
