//! Errors of stores.

/// Why a store operation failed. A missing item is not an error: it is returned as `Ok(None)`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or cannot write at the moment; the same call may succeed
    /// later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database returned something unexpected.
    #[error("the database failed: {0}")]
    Fault(String),
}

/// Why a store could not be opened, as one line for the operator who starts the server.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database is unavailable and did not become available in time; another start may succeed.
    #[error("{0}")]
    Absent(String),
    /// The database cannot be used as it is, or the settings are wrong: the operator has to act.
    #[error("{0}")]
    Unusable(String),
}

impl OpenError {
    /// Returns the error to report when opening failed with `error`: `Absent` if the database may
    /// become available again, else `Unusable`.
    pub(crate) fn because(error: &StoreError, text: String) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Absent(text),
            StoreError::Fault(_) => Self::Unusable(text),
        }
    }
}

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;
