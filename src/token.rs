//! Access tokens: JSON Web Tokens (RFC 7519), signed with HS256 and nothing else.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::model::{SessionId, Timestamp, User, UserId, UserType};

/// How many verified tokens are remembered; one takes some 400 bytes.
const REMEMBERED: u64 = 20_000;

/// Why a token was refused. The texts are those that clients of the original application know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing stood where the token should.
    #[error("jwt must be provided")]
    Missing,
    /// Not three parts with dots between them.
    #[error("jwt malformed")]
    Malformed,
    /// Three parts that do not decode to a token of ours.
    #[error("invalid token")]
    Undecodable,
    /// The signature is empty.
    #[error("jwt signature is required")]
    Unsigned,
    /// Signed with something other than HS256.
    #[error("invalid algorithm")]
    Algorithm,
    /// Signed with another key, or changed since.
    #[error("invalid signature")]
    Signature,
    /// Its time is over.
    #[error("jwt expired")]
    Expired,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    user_id: String,
    user_type: UserType,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    /// Seconds since 1970, as all times in a token.
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// Signs and verifies the tokens of one server, or of several that share a key.
pub struct Tokens {
    signing: EncodingKey,
    /// The same key, and those that signed before.
    verifying: Vec<DecodingKey>,
    validation: Validation,
    /// What tokens said that were verified: the same ones come with every request, and verifying costs more than the rest of the check.
    verified: Cache<String, Verified>,
}

/// What stands in a token of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// For whom it speaks.
    pub user: UserId,
    /// Of which session it is; of none, where somebody logged in without a password.
    pub session: Option<SessionId>,
    /// When it expires, in seconds since 1970; never, where it does not say.
    pub ends: Option<i64>,
}

impl Verified {
    /// Whether it has expired.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|end| now.0.div_euclid(1000) >= end)
    }
}

impl Tokens {
    /// Tokens signed with `secret`. Those that were signed with one of `earlier` are valid as well.
    #[must_use]
    pub fn new<'a>(secret: &'a [u8], earlier: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // A token without `exp` never ends, and `exp` is compared with our clock, not the library's.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let verifying = std::iter::once(secret).chain(earlier).map(DecodingKey::from_secret).collect();
        let verified = Cache::new(REMEMBERED);
        Self { signing: EncodingKey::from_secret(secret), verifying, validation, verified }
    }

    /// A token that says its bearer is `user`, valid for this many seconds, or for ever.
    ///
    /// # Panics
    /// Never: claims of strings and numbers always serialize, and HS256 takes a key of any length.
    #[must_use]
    pub fn sign(&self, user: &User, session: Option<SessionId>, now: Timestamp, lifetime_seconds: Option<u32>) -> String {
        let iat = now.0.div_euclid(1000);
        let claims = Claims {
            user_id: user.id.to_string(),
            user_type: user.kind,
            session_id: session.map(|id| id.to_string()),
            iat,
            exp: lifetime_seconds.map(|lifetime| iat.saturating_add(lifetime.into())),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing).expect("claims of strings and numbers serialize")
    }

    /// What the token says, if it is one of ours that has not expired.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        let verified = match self.verified.get(token) {
            Some(known) => known,
            None => self.read(token).inspect(|verified| self.verified.insert(token.to_owned(), *verified))?,
        };
        if verified.has_ended(now) { Err(TokenError::Expired) } else { Ok(verified) }
    }

    fn read(&self, token: &str) -> Result<Verified, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        let [_, _, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            return Err(TokenError::Malformed);
        };
        if signature.is_empty() {
            return Err(TokenError::Unsigned);
        }
        let claims = self.claims(token)?;
        let user = UserId::parse(&claims.user_id).ok_or(TokenError::Undecodable)?;
        let session = match claims.session_id {
            Some(id) => Some(SessionId::parse(&id).ok_or(TokenError::Undecodable)?),
            None => None,
        };
        Ok(Verified { user, session, ends: claims.exp })
    }

    /// What the token says, if one of the keys has signed it.
    fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        for key in &self.verifying {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature => {}
                    ErrorKind::InvalidAlgorithm => return Err(TokenError::Algorithm),
                    _ => return Err(TokenError::Undecodable),
                },
            }
        }
        Err(TokenError::Signature)
    }
}

impl fmt::Debug for Tokens {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn alice() -> User {
        User {
            id: UserId::from_bytes([7; 16]),
            first_name: "Alice".into(),
            last_name: "A".into(),
            kind: UserType::Consumer,
            created_at: NOW,
            updated_at: NOW,
            deleted: false,
        }
    }

    fn valid(tokens: &Tokens, token: &str, now: Timestamp) -> Result<UserId, TokenError> {
        tokens.verify(token, now).map(|verified| verified.user)
    }

    #[test]
    fn a_token_speaks_for_its_user_until_it_expires() {
        let tokens = Tokens::new(b"key", []);
        let session = Some(SessionId::from_bytes([3; 16]));
        let token = tokens.sign(&alice(), session, NOW, Some(60));
        let said = Verified { user: alice().id, session, ends: Some(NOW.0 / 1000 + 60) };
        assert_eq!(tokens.verify(&token, NOW), Ok(said));
        assert_eq!(tokens.verify(&token, Timestamp(NOW.0 + 59_999)), Ok(said));
        assert_eq!(tokens.verify(&token, Timestamp(NOW.0 + 60_000)), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_without_an_end_stays_valid() {
        let tokens = Tokens::new(b"key", []);
        let token = tokens.sign(&alice(), None, NOW, None);
        assert_eq!(valid(&tokens, &token, Timestamp(i64::MAX)), Ok(alice().id));
    }

    #[test]
    fn a_token_outlives_its_key_where_that_is_wanted() {
        let token = Tokens::new(b"old", []).sign(&alice(), None, NOW, None);
        assert_eq!(valid(&Tokens::new(b"new", [&b"older"[..], b"old"]), &token, NOW), Ok(alice().id));
        assert_eq!(valid(&Tokens::new(b"new", [&b"older"[..]]), &token, NOW), Err(TokenError::Signature));
    }

    #[test]
    fn whatever_is_not_a_token_of_ours_is_refused_with_the_reason() {
        let tokens = Tokens::new(b"key", []);
        let token = tokens.sign(&alice(), None, NOW, None);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let of_another_key = Tokens::new(b"other", []).sign(&alice(), None, NOW, None);
        // {"alg":"none","typ":"JWT"} and {"alg":"HS512","typ":"JWT"}
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        let hs512 = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9";
        for (text, reason) in [
            (String::new(), TokenError::Missing),
            ("nonsense".into(), TokenError::Malformed),
            (format!("{token}.more"), TokenError::Malformed),
            ("a.b.c".into(), TokenError::Undecodable),
            (format!("{signed}."), TokenError::Unsigned),
            (format!("{none}.{claims}."), TokenError::Unsigned),
            (format!("{none}.{claims}.{signature}"), TokenError::Undecodable),
            (format!("{hs512}.{claims}.{signature}"), TokenError::Algorithm),
            (of_another_key, TokenError::Signature),
            (format!("{header}.{claims}x.{signature}"), TokenError::Signature),
        ] {
            assert_eq!(tokens.verify(&text, NOW), Err(reason), "{text}");
        }
    }
}
