//! Why a command on the data failed.

use std::path::{Path, PathBuf};

use crate::store::{OpenError, StoreError};

/// Why a command on the data failed, as one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The database or a file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database reported an error.
    #[error("database: {0}")]
    Store(#[from] StoreError),
    /// The file cannot be read or written.
    #[error("{}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The file is not a complete export.
    #[error("{}: line {line}: {reason}", .file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The database is not as it has to be.
    #[error("database: {0}")]
    Refused(String),
    /// A check found something.
    #[error("check: findings: {0}")]
    Findings(u64),
    /// A part of the program failed.
    #[error("internal error: {0}")]
    Internal(#[from] tokio::task::JoinError),
}

impl DataError {
    /// Returns the error of a file.
    pub(super) fn file(file: &Path, error: std::io::Error) -> Self {
        Self::File {
            file: file.to_owned(),
            error,
        }
    }

    /// Returns whether the same command may succeed later, without the operator doing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Open(OpenError::Absent(_)) | Self::Store(StoreError::Unavailable(_))
        )
    }
}
