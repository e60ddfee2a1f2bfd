//! Work that outlives the request that started it.

use crate::error::{Error, Result};

/// Runs work in a task of its own, so that it completes, and is announced, once it has started: the
/// handler of a request is dropped at any await point when its client disconnects.
pub async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::internal(error.to_string())),
        },
    }
}
