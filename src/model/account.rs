//! How users prove who they are: usernames, passwords, sessions.

use std::fmt;

use serde::Serialize;

use super::{SessionId, Timestamp, UserId};

/// A name to log in with: 3 to 32 of `a-z 0-9 . _ -`. No two users have the same; capital letters count as small ones.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Username(String);

impl Username {
    /// What is said of one that is none.
    pub const FORM: &str = "please provide 3 to 32 of a-z 0-9 . _ -";

    /// The name as it is kept, if it is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.to_ascii_lowercase();
        let fits = (3..=32).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        fits.then_some(Self(name))
    }

    /// The name in small letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The hash of a password with its salt and parameters, in the PHC string format.
#[derive(Clone)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    /// Without the hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// What a user logs in with.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Who they say they are.
    pub username: Username,
    /// What they prove it with.
    pub password: PasswordHash,
}

/// A login with a password, on one device. It lasts until it is ended, or has not been refreshed for too long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Names the session.
    pub id: SessionId,
    /// Who logged in.
    pub user: UserId,
    /// What the client called itself when it logged in; empty if it did not.
    pub user_agent: String,
    /// When they logged in.
    pub created_at: Timestamp,
    /// When the session was last refreshed.
    pub used_at: Timestamp,
    /// When it is over, unless it is refreshed before.
    pub expires_at: Timestamp,
}

/// What is kept of the refresh token of a session: enough to know it again, and of no use to a thief.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefreshKey {
    /// SHA-256 of the part that all tokens of the session have in common.
    pub line: [u8; 32],
    /// SHA-256 of the part that only the token issued last has.
    pub secret: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_is_short_and_plain() {
        assert_eq!(Username::parse("Al.B_c-9").as_ref().map(Username::as_str), Some("al.b_c-9"));
        for wrong in ["", "ab", "a b", "al@ce", "ålice", "alice\0", &"a".repeat(33)] {
            assert_eq!(Username::parse(wrong), None, "{wrong}");
        }
    }
}
