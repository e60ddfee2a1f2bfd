//! Access tokens: JSON Web Tokens (RFC 7519), signed with HS256 only.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::error::TokenError;
use crate::model::{SessionId, Timestamp, User, UserId, UserType};

/// The number of verified tokens to cache; each takes about 400 bytes.
const CACHED_TOKENS: u64 = 20_000;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenPayload {
    user_id: String,
    user_type: UserType,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    /// Seconds since 1970, like all times in a token.
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// Signs and verifies the tokens of one server, or of several that share a key.
pub struct Tokens {
    /// The signing key, followed by the earlier keys.
    keys: Vec<EncodingKey>,
    /// The same keys in the same order.
    verifying: Vec<DecodingKey>,
    validation: Validation,
    /// A cache of the claims of verified tokens. The same tokens come with every request, and
    /// verifying costs more than the rest of the check.
    verified: Cache<String, Claims>,
}

/// The claims of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The user.
    pub user: UserId,
    /// The session; `None` for a login without a password.
    pub session: Option<SessionId>,
    /// When the token expires, in seconds since 1970; `None` if never.
    pub ends: Option<i64>,
}

impl Claims {
    /// Returns whether the token has expired.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|end| now.0.div_euclid(1000) >= end)
    }
}

impl Tokens {
    /// Creates tokens that are signed with `secret`. Tokens signed with one of the `earlier`
    /// secrets are valid too.
    #[must_use]
    pub fn new<'a>(secret: &'a [u8], earlier: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // A token without `exp` never expires, and `exp` is compared with the server's own clock
        // instead of the library's.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let secrets: Vec<_> = std::iter::once(secret).chain(earlier).collect();
        let keys = secrets
            .iter()
            .map(|secret| EncodingKey::from_secret(secret))
            .collect();
        let verifying = secrets
            .iter()
            .map(|secret| DecodingKey::from_secret(secret))
            .collect();
        Self {
            keys,
            verifying,
            validation,
            verified: Cache::new(CACHED_TOKENS),
        }
    }

    /// Signs a token for `user`, valid for this many seconds, or without expiry.
    ///
    /// # Panics
    /// Never: claims of strings and numbers always serialize, and HS256 takes a key of any length.
    #[must_use]
    pub fn sign(
        &self,
        user: &User,
        session: Option<SessionId>,
        now: Timestamp,
        lifetime_seconds: Option<u32>,
    ) -> String {
        let iat = now.0.div_euclid(1000);
        let claims = TokenPayload {
            user_id: user.id.to_string(),
            user_type: user.kind,
            session_id: session.map(|id| id.to_string()),
            iat,
            exp: lifetime_seconds.map(|lifetime| iat.saturating_add(lifetime.into())),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.keys[0])
            .expect("claims of strings and numbers serialize")
    }

    /// Returns the HMAC-SHA256 of `input` under each key, that of the signing key first. `input`
    /// must not have the form of a token's signed part, or the result would be a valid signature.
    ///
    /// # Panics
    /// Never: HMAC takes keys and inputs of any length.
    #[must_use]
    pub fn macs(&self, input: &[u8]) -> Vec<String> {
        let mac = |key| {
            jsonwebtoken::crypto::sign(input, key, Algorithm::HS256)
                .expect("HMAC takes any key and input")
        };
        self.keys.iter().map(mac).collect()
    }

    /// Returns the claims of the token if it is valid and has not expired.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let verified = match self.verified.get(token) {
            Some(cached) => cached,
            None => self
                .read(token)
                .inspect(|verified| self.verified.insert(token.to_owned(), *verified))?,
        };
        if verified.has_ended(now) {
            Err(TokenError::Expired)
        } else {
            Ok(verified)
        }
    }

    fn read(&self, token: &str) -> Result<Claims, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            return Err(TokenError::Malformed);
        };
        if signature.is_empty() {
            return Err(TokenError::Unsigned);
        }
        if has_extension(header)? {
            return Err(TokenError::Malformed);
        }
        let claims = self.claims(token)?;
        let user = UserId::parse(&claims.user_id).ok_or(TokenError::Undecodable)?;
        let session = match claims.session_id {
            Some(id) => Some(SessionId::parse(&id).ok_or(TokenError::Undecodable)?),
            None => None,
        };
        Ok(Claims {
            user,
            session,
            ends: claims.exp,
        })
    }

    /// Returns the payload of the token if one of the keys has signed it.
    fn claims(&self, token: &str) -> Result<TokenPayload, TokenError> {
        for key in &self.verifying {
            match jsonwebtoken::decode::<TokenPayload>(token, key, &self.validation) {
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

/// Returns whether a token's header names an extension that a verifier must understand: any `crit`
/// (RFC 7515, 4.1.11), or an unencoded payload (RFC 7797), which is signed in another way.
/// `jsonwebtoken` ignores both.
fn has_extension(header: &str) -> Result<bool, TokenError> {
    let json = BASE64URL_NOPAD
        .decode(header.as_bytes())
        .map_err(|_| TokenError::Undecodable)?;
    let fields: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|_| TokenError::Undecodable)?;
    Ok(fields.contains_key("crit")
        || fields
            .get("b64")
            .is_some_and(|b64| *b64 != Value::Bool(true)))
}

impl fmt::Debug for Tokens {
    /// Omits the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
