//! Errors of the MongoDB driver: which are final, and how they read.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::{
    config::DatabaseUrl,
    store::{OpenError, StoreError},
};

/// MongoDB's error codes: <https://www.mongodb.com/docs/manual/reference/error-codes/>.
pub mod code {
    pub const UNAUTHORIZED: i32 = 13;
    pub const AUTHENTICATION_FAILED: i32 = 18;
    pub const INVALID_NAMESPACE: i32 = 73;
    pub const DUPLICATE_KEY: i32 = 11_000;
    /// A database exists whose name differs only in case.
    pub const DATABASE_DIFFERS_IN_CASE: i32 = 13_297;
    /// Transient errors: the server is not, or no longer, the primary; it is stopping or
    /// recovering; it could not be reached; or the majority did not answer in time.
    pub const TRANSIENT: [i32; 14] = [
        6, 7, 50, 64, 89, 91, 112, 189, 9001, 10_107, 11_600, 11_602, 13_435, 13_436,
    ];
}

/// The error of a server that is older than the driver supports.
#[derive(Clone, Copy, Debug)]
pub struct UnsupportedVersion;

const WRONG_LOGIN: &str = "the user name or the password is wrong";

const TOO_OLD: &str = "the server is too old: MongoDB 4.4 or later is needed";

/// Returns the reason why waiting for the database is useless, worded for the operator, or `None`
/// if another attempt may succeed.
pub fn refusal(error: &Error) -> Option<String> {
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => Some(WRONG_LOGIN.into()),
        ErrorKind::Command(command) if command.code == code::AUTHENTICATION_FAILED => {
            Some(WRONG_LOGIN.into())
        }
        ErrorKind::Command(command) if command.code == code::UNAUTHORIZED => {
            Some(unauthorized(&command.message))
        }
        ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == code::UNAUTHORIZED => {
            Some(unauthorized(&write.message))
        }
        ErrorKind::Custom(custom) if custom.is::<UnsupportedVersion>() => Some(TOO_OLD.into()),
        ErrorKind::ServerSelection { message, .. } if message.contains("requires at least") => {
            Some(TOO_OLD.into())
        }
        ErrorKind::Command(command)
            if [code::INVALID_NAMESPACE, code::DATABASE_DIFFERS_IN_CASE]
                .contains(&command.code) =>
        {
            Some(command.message.clone())
        }
        ErrorKind::Write(WriteFailure::WriteError(write))
            if [code::INVALID_NAMESPACE, code::DATABASE_DIFFERS_IN_CASE].contains(&write.code) =>
        {
            Some(write.message.clone())
        }
        ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. } => Some(plain(error)),
        _ => None,
    }
}

fn unauthorized(message: &str) -> String {
    let needs_login = message.contains("requires authentication");
    if needs_login {
        "it asks for a user name and a password"
    } else {
        "this user may not read and write the database"
    }
    .into()
}

/// Returns the error for a database that cannot be used, for this reason.
pub fn unusable(url: &DatabaseUrl, reason: &str) -> OpenError {
    OpenError::Unusable(format!(
        "database: cannot use {url}: {}",
        url.mask_in(reason)
    ))
}

/// Formats an error as one line.
pub fn plain(error: &Error) -> String {
    error
        .kind
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Converts an error of the driver: `Unavailable` if it is transient, else `Fault`.
pub fn failure(error: &Error) -> StoreError {
    let text = plain(error);
    let is_transient = match error.kind.as_ref() {
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Authentication { .. }
        | ErrorKind::Shutdown
        | ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
        ErrorKind::Command(command) => code::TRANSIENT.contains(&command.code),
        _ => error.contains_label("RetryableWriteError"),
    };
    if is_transient {
        StoreError::Unavailable(text)
    } else {
        StoreError::Fault(text)
    }
}

/// Returns whether an insert failed because a document with the same unique key exists.
pub fn is_duplicate(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == code::DUPLICATE_KEY)
}
