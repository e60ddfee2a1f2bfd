//! Lists and ends the sessions of the caller.

use super::service::Accounts;
use crate::{
    auth::Caller,
    background::run_detached,
    error::{Error, Result},
    model::{Session, SessionId},
    store::SessionSelector,
};

impl Accounts {
    /// Ends the session of the caller or, if `all`, all sessions of the user. Returns the number of
    /// sessions that were ended.
    pub async fn log_out(&self, caller: &Caller, all: bool) -> Result<usize> {
        match caller.session() {
            _ if all => self.end(caller, SessionSelector::All).await,
            Some(session) => self.end(caller, SessionSelector::One(session)).await,
            // A token of a login without a password has no session; it ends when it expires.
            None => Ok(0),
        }
    }

    /// Returns the sessions of the caller that have not expired, newest first.
    pub async fn list_sessions(&self, caller: &Caller) -> Result<Vec<Session>> {
        let now = self.clock.now();
        Ok(self.store.sessions.list(caller.user.id, now).await?)
    }

    /// Ends one session of the caller. Returns the number of sessions that were ended. Errors:
    /// [`Error::NoSession`].
    pub async fn end_session(&self, caller: &Caller, id: &str) -> Result<usize> {
        let session = SessionId::parse(id).ok_or(Error::NoSession)?;
        match self.end(caller, SessionSelector::One(session)).await? {
            0 => Err(Error::NoSession),
            ended => Ok(ended),
        }
    }

    /// Ends sessions of the caller and closes their sockets, even if the caller does not wait for
    /// it. Returns the number of sessions that were ended.
    pub(super) async fn end(&self, caller: &Caller, which: SessionSelector) -> Result<usize> {
        let (accounts, user, address) = (self.clone(), caller.user.id, caller.address);
        run_detached(async move {
            let ended = accounts.store.sessions.end(user, which).await?;
            accounts.sockets.close_sessions(&ended);
            if !ended.is_empty() {
                tracing::info!(%address, %user, sessions = ended.len(), "sessions were ended");
            }
            Ok(ended.len())
        })
        .await
    }
}
