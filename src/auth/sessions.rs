//! Sessions of users who log in with a password: starts and refreshes them, and detects stolen
//! refresh tokens.
//!
//! A session has access tokens, each valid for some minutes, and one refresh token at a time, with
//! which the client gets the next of both. A refresh token consists of the session's id, a part
//! that all tokens of the session share, and a part of its own. The store keeps the hashes of the
//! last two. A token with the shared part but a different last part was issued before and has been
//! used: two parties have it, one of them a thief, and the session ends.
//!
//! The two parties may also be two tabs of one browser, or a client that did not receive the
//! response. So for [ten seconds](crate::store::REPEAT_WINDOW) the token used last returns the same
//! successor again. The last part of a successor is a keyed hash of the previous token: every
//! server with the key computes the same one, and the store keeps no more of it than of any other.

use std::{fmt, sync::Arc};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::token::Tokens;
use crate::{
    clock::Clock,
    config::{Config, SessionConfig},
    error::{Error, Result},
    model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, User},
    store::{Refresh, Rotation, Store},
};

/// The maximum length of the user agent to keep, in characters.
const MAX_USER_AGENT: usize = 200;

/// The tokens of a session that was started or refreshed.
#[derive(Debug)]
pub struct StartedSession {
    /// The access token.
    pub authorization: String,
    /// The refresh token.
    pub refresh_token: String,
    /// The lifetime of the access token, in seconds.
    pub expires_in: u32,
    /// The user's sessions that were ended because there were too many.
    pub ended: Vec<SessionId>,
}

/// The outcome of a refresh.
#[derive(Debug)]
pub enum Refreshed {
    /// The session of this user was refreshed.
    Renewed(StartedSession, Arc<User>),
    /// The token had been used before, so the session was ended.
    Replayed(Arc<Session>),
    /// The token is invalid, or its session has ended.
    Unknown,
}

/// Starts and refreshes sessions.
#[derive(Clone)]
pub struct Sessions {
    store: Store,
    tokens: Arc<Tokens>,
    clock: Clock,
    config: SessionConfig,
    /// The lifetime of a token without a session, in seconds.
    open_lifetime: Option<u32>,
}

impl Sessions {
    /// Creates the sessions that are kept in `store`.
    #[must_use]
    pub fn new(store: Store, tokens: Arc<Tokens>, clock: Clock, config: &Config) -> Self {
        let open_lifetime = Some(config.token.lifetime_seconds).filter(|seconds| *seconds > 0);
        Self {
            store,
            tokens,
            clock,
            config: config.session.clone(),
            open_lifetime,
        }
    }

    /// Signs a token without a session, for a user who logs in without a password.
    #[must_use]
    pub fn sign_without_session(&self, user: &User) -> String {
        self.tokens
            .sign(user, None, self.clock.now(), self.open_lifetime)
    }

    /// Starts a session of a user whose password has this hash. Errors: [`Error::WrongLogin`] if
    /// the password has been changed in the meantime.
    pub async fn start(
        &self,
        user: &User,
        password: PasswordHash,
        user_agent: &str,
    ) -> Result<StartedSession> {
        let now = self.clock.now();
        let session = Session {
            id: self.clock.new_id(now).into(),
            user: user.id,
            user_agent: user_agent.chars().take(MAX_USER_AGENT).collect(),
            created_at: now,
            used_at: now,
            expires_at: self.expiry(now),
        };
        let token = RefreshToken::new(session.id)?;
        let id = session.id;
        let ended = self
            .store
            .sessions
            .add(session, token.key(), password)
            .await?
            .ok_or(Error::WrongLogin)?;
        Ok(StartedSession {
            ended,
            ..self.tokens_of(user, id, &token)
        })
    }

    /// Exchanges a refresh token for the next tokens, which uses it up. For a short time the same
    /// token returns the same refresh token again.
    pub async fn refresh(&self, token: &str) -> Result<Refreshed> {
        let Some(token) = RefreshToken::parse(token) else {
            return Ok(Refreshed::Unknown);
        };
        let successors = token.successors(&self.tokens);
        let now = self.clock.now();
        let rotation = Rotation {
            session: token.session,
            key: token.key(),
            successors: successors
                .iter()
                .map(|successor| successor.key().secret)
                .collect(),
            at: now,
            expires_at: self.expiry(now),
        };
        let (session, latest) = match self.store.sessions.refresh(rotation).await? {
            Refresh::Renewed(session, latest) | Refresh::Repeated(session, latest) => {
                (session, latest)
            }
            Refresh::Replayed(session) => return Ok(Refreshed::Replayed(session)),
            Refresh::Unknown => return Ok(Refreshed::Unknown),
        };
        let successor = successors
            .iter()
            .find(|successor| successor.key().secret == latest);
        let user = self.store.users.find(session.user).await?;
        Ok(match successor.zip(user) {
            Some((successor, user)) => {
                Refreshed::Renewed(self.tokens_of(&user, session.id, successor), user)
            }
            None => Refreshed::Unknown,
        })
    }

    fn tokens_of(&self, user: &User, session: SessionId, token: &RefreshToken) -> StartedSession {
        let expires_in = self.config.access_lifetime_seconds;
        let authorization =
            self.tokens
                .sign(user, Some(session), self.clock.now(), Some(expires_in));
        StartedSession {
            authorization,
            refresh_token: token.to_string(),
            expires_in,
            ended: Vec::new(),
        }
    }

    /// Returns when a session expires that is refreshed now and never again.
    fn expiry(&self, now: Timestamp) -> Timestamp {
        Timestamp(
            now.0
                .saturating_add(i64::from(self.config.refresh_lifetime_seconds) * 1_000),
        )
    }
}

/// A refresh token, written as hexadecimal digits.
struct RefreshToken {
    session: SessionId,
    line: [u8; 16],
    secret: [u8; 32],
}

impl RefreshToken {
    fn new(session: SessionId) -> Result<Self> {
        Ok(Self {
            session,
            line: random()?,
            secret: random()?,
        })
    }

    /// Returns the tokens that may follow this one, one per key of the server: the first takes its
    /// place, the others are those that a server with an earlier key has made.
    fn successors(&self, tokens: &Tokens) -> Vec<Self> {
        // No API token begins like this, so no result is a signature of one.
        let macs = tokens.macs(format!("successor of the refresh token {self}").as_bytes());
        macs.iter()
            .map(|mac| Self {
                secret: Sha256::digest(mac).into(),
                ..*self
            })
            .collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let (session, rest) = text.split_at_checked(32)?;
        let (line, secret) = rest.split_at_checked(32)?;
        Some(Self {
            session: SessionId::parse(session)?,
            line: from_hex(line)?,
            secret: from_hex(secret)?,
        })
    }

    fn key(&self) -> RefreshKey {
        RefreshKey {
            line: Sha256::digest(self.line).into(),
            secret: Sha256::digest(self.secret).into(),
        }
    }
}

impl fmt::Display for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}{}",
            self.session,
            HEXLOWER.encode_display(&self.line),
            HEXLOWER.encode_display(&self.secret)
        )
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::internal(format!(
            "failed to get random bytes from the system: {error}"
        ))
    })?;
    Ok(bytes)
}

/// Decodes lower-case hexadecimal digits of exactly `N` bytes.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_has_one_successor_for_each_key() {
        let token = RefreshToken::new(SessionId::from_bytes([7; 16])).unwrap();
        let texts = |tokens: &Tokens| {
            token
                .successors(tokens)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let old = texts(&Tokens::new(b"old", []));
        assert_eq!(
            old,
            texts(&Tokens::new(b"old", [])),
            "every server with the key makes the same"
        );
        let both = texts(&Tokens::new(b"new", [&b"old"[..]]));
        assert_eq!((both.len(), &both[1]), (2, &old[0]));
        assert_ne!(both[0], both[1]);
        for successor in both.iter().map(|text| RefreshToken::parse(text).unwrap()) {
            assert_eq!(
                (successor.session, successor.key().line),
                (token.session, token.key().line)
            );
            assert_ne!(successor.key().secret, token.key().secret);
        }
        let other = RefreshToken::new(token.session).unwrap();
        assert_ne!(
            other.successors(&Tokens::new(b"old", []))[0].key().secret,
            RefreshToken::parse(&old[0]).unwrap().key().secret
        );
    }

    #[test]
    fn a_refresh_token_is_read_as_it_was_written_and_nothing_else_is_one() {
        let token = RefreshToken::new(SessionId::from_bytes([7; 16])).unwrap();
        let text = token.to_string();
        let read = RefreshToken::parse(&text).unwrap();
        assert_eq!((read.session, read.key()), (token.session, token.key()));
        for wrong in [
            "",
            "x",
            &text[1..],
            &format!("{text}0"),
            &text[..127],
            &text.to_uppercase(),
            &text.replace(char::is_numeric, "g"),
            &"é".repeat(64),
            &"+1".repeat(64),
        ] {
            assert!(RefreshToken::parse(wrong).is_none(), "{wrong}");
        }
    }
}
