//! The errors of access tokens.

/// Why a token was refused. The texts are those of the original application, which clients know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is empty.
    #[error("jwt must be provided")]
    Missing,
    /// The token does not consist of three parts separated by dots, or its header names an
    /// extension.
    #[error("jwt malformed")]
    Malformed,
    /// The three parts do not decode to valid claims.
    #[error("invalid token")]
    Undecodable,
    /// The signature is empty.
    #[error("jwt signature is required")]
    Unsigned,
    /// The token is signed with an algorithm other than HS256.
    #[error("invalid algorithm")]
    Algorithm,
    /// The token is signed with another key, or was changed.
    #[error("invalid signature")]
    Signature,
    /// The token has expired.
    #[error("jwt expired")]
    Expired,
}
