//! Everything that can go wrong for a client: one enum, its form in HTTP and its form in the acknowledgement of a socket event.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use validator::{ValidationErrors, ValidationErrorsKind};

use crate::{model::LARGEST_ROOM, store::StoreError, token::TokenError};

/// What a handler answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request or an event was not carried out. The text of a variant is what the client reads.
///
/// To add one: the variant with its text here, its status in `Error::status`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400: fields of the body are wrong; all of them are named.
    #[error("Kindly fix the error(s)")]
    Invalid(ValidationErrors),
    /// 400: the body, the path or the query cannot be read at all.
    #[error("{0}")]
    Malformed(String),
    /// 413: the body is larger than the setting allows.
    #[error("The request body is larger than {0} bytes")]
    TooLarge(usize),
    /// 415: the body is compressed, or in a character set other than UTF-8.
    #[error("{0}")]
    UnsupportedBody(String),
    /// 400: there is no `Authorization` header.
    #[error("No access token provided")]
    NoToken,
    /// 400: there are several `Authorization` headers. A proxy in front may have looked at another one than we would.
    #[error("The request has more than one Authorization header")]
    TwoTokens,
    /// 401: the token is not one of ours, or no longer.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// 401: the token speaks for a user who was deleted.
    #[error("No user with this id found")]
    CallerGone,
    /// 401: the token's session was ended.
    #[error("This session has ended, please log in again")]
    SessionOver,
    /// 401: the refresh token is none of ours, or was used, or its session is over.
    #[error("The refresh token is not valid, please log in again")]
    BadRefresh,
    /// 401: no account, or another password. Which of the two is nobody's business.
    #[error("Wrong username or password")]
    WrongLogin,
    /// 403: the password that is to be replaced is another.
    #[error("The old password is wrong")]
    WrongPassword,
    /// 400: whoever never had a password has none to replace.
    #[error("This user has no password")]
    NoPassword,
    /// 403: somebody else's account.
    #[error("You can only change your own account")]
    NotYours,
    /// 403: what is to be deleted is not the caller's, or is not there: which of the two is nobody's business.
    #[error("This is not yours to delete, or it is not there")]
    NotToDelete,
    /// 403: only the initiator of a room, and support users, take others out of it.
    #[error("Only the initiator of a room or a support user can take others out of it")]
    NotYoursToRemove,
    /// 403: only support users take the last of them out of a room that needs one.
    #[error("Only a support user can take the last support user out of a consumer-to-support room")]
    LastSupport,
    /// 403: the message is somebody else's.
    #[error("You can only edit your own messages")]
    NotYourMessage,
    /// 404: there is no such message in the room.
    #[error("No message with this id found")]
    NoMessage,
    /// 400: a socket that has not said whose it is.
    #[error("Please say who you are with identity first")]
    NoIdentity,
    /// 403: only support users add support users.
    #[error("Only a support user can register a support user")]
    SupportOnly,
    /// 403: only support users add users.
    #[error("Registration is closed")]
    RegistrationClosed,
    /// 403: the id is not that of the socket's token.
    #[error("This is not the user of your token")]
    NotYou,
    /// 403: another user cannot be brought into a room that they are not in.
    #[error("That user is not a member of this room")]
    OtherNotAMember,
    /// 404: the caller has no such session.
    #[error("No session with this id found")]
    NoSession,
    /// 400: nobody to log in as, or to be on a socket.
    #[error("No user with this id found")]
    NobodyToBe,
    /// 404: the user asked for is not there.
    #[error("No user with this id found")]
    NoUser,
    /// 400: the room is not there.
    #[error("No room exists for this id")]
    NoRoom,
    /// 403: the caller is not in the room.
    #[error("You are not a member of this room")]
    NotAMember,
    /// 404: no such path.
    #[error("API endpoint doesnt exist")]
    NoEndpoint,
    /// 405: the path exists, but not for this method.
    #[error("API endpoint doesnt exist")]
    NoMethod,
    /// 400: the room would have more members than a room may have.
    #[error("A room has at most {most} members", most = LARGEST_ROOM)]
    TooManyMembers,
    /// 429: too often, or too many at once. After this time another try may succeed.
    #[error("rate limited")]
    RateLimited(Duration),
    /// 503: there are as many connections as the system allows.
    #[error("The server has no room for more connections right now")]
    Busy,
    /// 429: the user has stored as many bytes as the settings allow in a day.
    #[error("You have stored as much as one user may in a day ({most} bytes)")]
    QuotaExceeded {
        /// The bytes of a day.
        most: u64,
        /// The rest of the day.
        wait: Duration,
    },
    /// 503: the server has no memory left for it.
    #[error("The server has too much to do right now, please try again")]
    OutOfMemory,
    /// 503: the request took longer than the setting allows.
    #[error("The request took too long and was given up")]
    TooSlow,
    /// 503: the database does not answer now.
    #[error("The service is not available right now, please try again")]
    Unavailable(Fault),
    /// 500: a fault of ours.
    #[error("Something went wrong on our side")]
    Internal(Fault),
    /// Refused in the acknowledgement: the payload of a socket event is of the wrong shape.
    #[error("{0}")]
    BadEvent(&'static str),
}

/// What really happened, for the log and for nobody else. Travels beside the response to where requests are logged.
#[derive(Clone, Debug)]
pub struct Fault(pub Arc<str>);

impl Error {
    /// A fault of ours, with what the log should say about it.
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
            Self::Token(_) | Self::CallerGone | Self::SessionOver | Self::BadRefresh | Self::WrongLogin => StatusCode::UNAUTHORIZED,
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
            Self::NoUser | Self::NoSession | Self::NoMessage | Self::NoEndpoint => StatusCode::NOT_FOUND,
            Self::NoMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedBody(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited(_) | Self::QuotaExceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::OutOfMemory | Self::TooSlow | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body of the answer, and the acknowledgement of a socket event: `{success: false, message}` and what belongs to it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut body = json!({ "success": false, "message": self.to_string() });
        match self {
            Self::Invalid(errors) => body["errors"] = first_texts(errors),
            // The original application answered with the error it threw; its clients may look for it there.
            Self::NoUser => body["error"] = json!({ "error": self.to_string() }),
            Self::RateLimited(wait) | Self::QuotaExceeded { wait, .. } => body["retryAfter"] = json!(seconds(*wait)),
            _ => {}
        }
        body
    }

    /// When to try again, where that is known.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::RateLimited(wait) | Self::QuotaExceeded { wait, .. } => Some(seconds(*wait).into()),
            Self::Busy | Self::OutOfMemory | Self::TooSlow | Self::Unavailable(_) => Some(HeaderValue::from_static("1")),
            _ => None,
        }
    }
}

/// Whole seconds, at least one: whoever waits so long does not come too early.
fn seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
}

/// For each wrong field, the first thing that is wrong with it.
fn first_texts(errors: &ValidationErrors) -> Value {
    let text = |kind: &ValidationErrorsKind| match kind {
        ValidationErrorsKind::Field(found) => found.first().map(ToString::to_string),
        _ => None,
    };
    errors.errors().iter().map(|(field, kind)| (field.to_string(), text(kind).into())).collect::<serde_json::Map<_, _>>().into()
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
            assert_eq!(error().to_json(), json!({ "success": false, "message": "rate limited", "retryAfter": expected }));
            let response = error().into_response();
            assert_eq!((response.status().as_u16(), &response.headers()[header::RETRY_AFTER]), (429, &HeaderValue::from(expected)));
        }
    }
}
