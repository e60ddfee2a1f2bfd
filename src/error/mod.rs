//! The errors that clients can get: one enum, its HTTP response and its form in the acknowledgement
//! of a socket event.

mod body;
mod token;

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use validator::{ValidationError, ValidationErrors};

pub use body::ErrorBody;
pub use token::TokenError;

use crate::{model::MAX_ROOM, store::StoreError};

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request or an event failed. The text of a variant is sent to the client.
///
/// To add one: add the variant with its text here, and its status and code in
/// `Error::status_and_code`.
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
    /// The arguments of a socket event cannot be read or have the wrong shape.
    #[error("{0}")]
    BadEvent(&'static str),
    /// The name of a socket event is unknown.
    #[error("There is no such event")]
    UnknownEvent,
    /// Too many events of the socket are queued or running, or their arguments are too large.
    #[error("Too many events at once")]
    TooManyEvents,
    /// A `sync` names too many rooms.
    #[error("sync takes at most 1000 rooms at once")]
    TooManyRooms,
    /// The sockets of the user would be subscribed to too many rooms.
    #[error(
        "Your sockets are in too many rooms together; leave some with unsubscribe, or close a socket"
    )]
    TooManySubscriptions,
    /// The server closes the socket.
    #[error("This socket is being closed")]
    SocketClosing,
    /// The client has disconnected the socket.
    #[error("This socket has left")]
    SocketDisconnected,
    /// The server accepts no more events, because it stops.
    #[error("The server is stopping")]
    ServerStopping,
    /// The connection's previous socket has not been dropped yet. Sent as `connect_error`.
    #[error("The former socket of this connection is not through yet")]
    SocketSlotTaken,
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

    /// Creates the error of one invalid field of a request.
    pub fn invalid(field: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        let mut errors = ValidationErrors::new();
        errors.add(
            field,
            ValidationError::new("contract").with_message(text.into()),
        );
        Self::Invalid(errors)
    }

    /// Returns the stable name of the error, by which a program can tell it from others.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    /// Returns the status of the response and the code. Codes are part of the API and never change.
    /// The status has no effect in acknowledgements.
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "validation_failed"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed_request"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::UnsupportedBody(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_body"),
            Self::NoToken => (StatusCode::BAD_REQUEST, "authorization_missing"),
            Self::TwoTokens => (StatusCode::BAD_REQUEST, "authorization_repeated"),
            Self::Token(TokenError::Expired) => (StatusCode::UNAUTHORIZED, "token_expired"),
            Self::Token(_) => (StatusCode::UNAUTHORIZED, "token_invalid"),
            Self::CallerGone => (StatusCode::UNAUTHORIZED, "user_deleted"),
            Self::SessionOver => (StatusCode::UNAUTHORIZED, "session_ended"),
            Self::BadRefresh => (StatusCode::UNAUTHORIZED, "refresh_token_invalid"),
            Self::WrongLogin => (StatusCode::UNAUTHORIZED, "wrong_credentials"),
            Self::WrongPassword => (StatusCode::FORBIDDEN, "wrong_password"),
            Self::NoPassword => (StatusCode::BAD_REQUEST, "no_password"),
            Self::NotYours => (StatusCode::FORBIDDEN, "not_your_account"),
            Self::NotToDelete => (StatusCode::FORBIDDEN, "delete_forbidden"),
            Self::NotYoursToRemove => (StatusCode::FORBIDDEN, "remove_forbidden"),
            Self::LastSupport => (StatusCode::FORBIDDEN, "last_support_user"),
            Self::NotYourMessage => (StatusCode::FORBIDDEN, "not_your_message"),
            Self::NoMessage => (StatusCode::NOT_FOUND, "message_not_found"),
            Self::NoIdentity => (StatusCode::BAD_REQUEST, "identity_required"),
            Self::SupportOnly => (StatusCode::FORBIDDEN, "support_only"),
            Self::RegistrationClosed => (StatusCode::FORBIDDEN, "registration_closed"),
            Self::NotYou => (StatusCode::FORBIDDEN, "user_mismatch"),
            Self::OtherNotAMember => (StatusCode::FORBIDDEN, "other_not_a_member"),
            Self::NoSession => (StatusCode::NOT_FOUND, "session_not_found"),
            Self::NobodyToBe => (StatusCode::BAD_REQUEST, "login_user_not_found"),
            Self::NoUser => (StatusCode::NOT_FOUND, "user_not_found"),
            Self::NoRoom => (StatusCode::BAD_REQUEST, "room_not_found"),
            Self::NotAMember => (StatusCode::FORBIDDEN, "not_a_member"),
            Self::NoEndpoint => (StatusCode::NOT_FOUND, "endpoint_not_found"),
            Self::NoMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TooManyMembers => (StatusCode::BAD_REQUEST, "too_many_members"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too_many_connections"),
            Self::QuotaExceeded { .. } => (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded"),
            Self::OutOfMemory => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::TooSlow => (StatusCode::SERVICE_UNAVAILABLE, "request_timeout"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            Self::BadEvent(_) => (StatusCode::BAD_REQUEST, "bad_event"),
            Self::UnknownEvent => (StatusCode::BAD_REQUEST, "unknown_event"),
            Self::TooManyEvents => (StatusCode::BAD_REQUEST, "too_many_events"),
            Self::TooManyRooms => (StatusCode::BAD_REQUEST, "too_many_rooms"),
            Self::TooManySubscriptions => (StatusCode::BAD_REQUEST, "too_many_subscriptions"),
            Self::SocketClosing => (StatusCode::BAD_REQUEST, "socket_closing"),
            Self::SocketDisconnected => (StatusCode::BAD_REQUEST, "socket_disconnected"),
            Self::ServerStopping => (StatusCode::BAD_REQUEST, "server_stopping"),
            Self::SocketSlotTaken => (StatusCode::BAD_REQUEST, "socket_slot_taken"),
        }
    }

    /// Returns the response body, which is also the acknowledgement of a socket event.
    #[must_use]
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody::of(self)
    }

    /// Returns the time after which the limit allows a retry, in seconds, if a limit is exceeded.
    fn limited_for(&self) -> Option<u64> {
        match self {
            Self::RateLimited(wait) | Self::QuotaExceeded { wait, .. } => Some(seconds(*wait)),
            _ => None,
        }
    }

    /// Returns the value of the `Retry-After` header, if known.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Busy | Self::OutOfMemory | Self::TooSlow | Self::Unavailable(_) => {
                Some(HeaderValue::from_static("1"))
            }
            _ => self.limited_for().map(HeaderValue::from),
        }
    }
}

/// Rounds up to whole seconds, at least one, so that a client that waits this long does not retry
/// too early.
fn seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
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
        let (status, _) = self.status_and_code();
        let mut response = (status, Json(self.body())).into_response();
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
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn a_limited_client_gets_the_time_to_wait_rounded_up() {
        for (milliseconds, expected) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (29_500, 30)] {
            let error = || Error::RateLimited(Duration::from_millis(milliseconds));
            assert_eq!(
                to_value(error().body()).unwrap(),
                json!({
                    "success": false,
                    "code": "rate_limited",
                    "message": "rate limited",
                    "retryAfter": expected,
                })
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

    #[test]
    fn the_body_of_invalid_fields_has_a_text_for_each() {
        assert_eq!(
            to_value(Error::invalid("name", "too long").body()).unwrap(),
            json!({
                "success": false,
                "code": "validation_failed",
                "message": "Kindly fix the error(s)",
                "errors": { "name": "too long" },
            })
        );
    }

    #[test]
    fn an_unknown_user_also_has_the_error_field_of_the_original_application() {
        let text = "No user with this id found";
        assert_eq!(
            to_value(Error::NoUser.body()).unwrap(),
            json!({
                "success": false,
                "code": "user_not_found",
                "message": text,
                "error": { "error": text },
            })
        );
    }

    #[test]
    fn only_an_expired_token_is_worth_refreshing() {
        assert_eq!(Error::Token(TokenError::Expired).code(), "token_expired");
        assert_eq!(Error::Token(TokenError::Malformed).code(), "token_invalid");
    }
}
