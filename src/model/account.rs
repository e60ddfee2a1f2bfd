//! The data that authenticates users: usernames, passwords and sessions.

use std::fmt;

use serde::Serialize;

use super::{SessionId, Timestamp, UserId};

/// A login name: 3 to 32 of `a-z 0-9 . _ -`. It is unique and case-insensitive.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Username(String);

impl Username {
    /// The error of an invalid username.
    pub const FORM: &str = "please provide 3 to 32 of a-z 0-9 . _ -";

    /// Returns the name in lower case if it is valid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.to_ascii_lowercase();
        let fits = (3..=32).contains(&name.len())
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        fits.then_some(Self(name))
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The hash of a password with its salt and parameters, in the PHC string format.
#[derive(Clone)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    /// Omits the hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// The credentials of a user.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The login name.
    pub username: Username,
    /// The hash of the password.
    pub password: PasswordHash,
}

/// A login with a password on one device. It lasts until it is ended, or until it expires because
/// it was not refreshed in time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// The user who logged in.
    pub user: UserId,
    /// The user agent that the client sent at login; empty if none.
    pub user_agent: String,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// When the session was last refreshed.
    pub used_at: Timestamp,
    /// When the session expires, unless it is refreshed before.
    pub expires_at: Timestamp,
}

/// The stored hashes of a session's refresh token: enough to recognize the token, but of no use to
/// a thief.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefreshKey {
    /// SHA-256 of the part that all tokens of the session share.
    pub line: [u8; 32],
    /// SHA-256 of the part that only the latest token has.
    pub secret: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_is_short_and_plain() {
        assert_eq!(
            Username::parse("Al.B_c-9").as_ref().map(Username::as_str),
            Some("al.b_c-9")
        );
        for wrong in [
            "",
            "ab",
            "a b",
            "al@ce",
            "ålice",
            "alice\0",
            &"a".repeat(33),
        ] {
            assert_eq!(Username::parse(wrong), None, "{wrong}");
        }
    }
}
