//! Logs users in, with a password or, in open mode, without one.

use std::sync::Arc;

use super::service::Accounts;
use crate::{
    address::ClientAddress,
    auth::{
        password::Verdict,
        sessions::{Refreshed, StartedSession},
    },
    background::run_detached,
    error::{Error, Result},
    model::{PasswordHash, User, UserId, Username},
    refusals,
};

/// The client on which a user logs in.
pub struct LoginClient {
    /// The address that the client calls from.
    pub address: ClientAddress,
    /// The user agent that the client sends; empty if none.
    pub user_agent: String,
}

/// A user with a session that was started or refreshed.
pub struct LoggedIn {
    /// The tokens of the session.
    pub session: StartedSession,
    /// The user.
    pub user: Arc<User>,
}

impl Accounts {
    /// Logs a user in with a username and a password. Errors: [`Error::WrongLogin`].
    pub async fn log_in(
        &self,
        client: LoginClient,
        username: &str,
        password: String,
    ) -> Result<LoggedIn> {
        self.limits.login(client.address)?;
        let account = match Username::parse(username) {
            Some(username) => self.store.accounts.find_by_username(&username).await?,
            None => None,
        };
        self.log_in_to(account, client, password).await
    }

    /// Logs a user in with the id and a password. Errors: [`Error::WrongLogin`].
    pub async fn log_in_by_id(
        &self,
        client: LoginClient,
        id: &str,
        password: String,
    ) -> Result<LoggedIn> {
        self.limits.login(client.address)?;
        let account = match UserId::parse(id) {
            Some(id) => {
                let credentials = self.store.accounts.credentials(id).await?;
                credentials.map(|credentials| (id, credentials.password))
            }
            None => None,
        };
        self.log_in_to(account, client, password).await
    }

    /// Logs a user in without a password, in open mode. Returns an access token without a session.
    /// Errors: [`Error::NobodyToBe`], and [`Error::WrongLogin`] in secure mode.
    pub async fn log_in_without_password(
        &self,
        address: ClientAddress,
        id: &str,
    ) -> Result<String> {
        self.limits.login(address)?;
        if self.access.is_secure() {
            return Err(Error::WrongLogin);
        }
        let user = self.user(id).await?.ok_or(Error::NobodyToBe)?;
        Ok(self.sessions.sign_without_session(&user))
    }

    /// Logs a user in with a password. A wrong password, an unknown username and an invalid
    /// username get the same response after the same work.
    async fn log_in_to(
        &self,
        account: Option<(UserId, PasswordHash)>,
        client: LoginClient,
        password: String,
    ) -> Result<LoggedIn> {
        let LoginClient {
            address,
            user_agent,
        } = client;
        let (user, hash) = account.unzip();
        let verdict = self.passwords.verify(password, hash.clone()).await?;
        let (Verdict::Right | Verdict::Outdated(_), Some((user, hash))) =
            (&verdict, user.zip(hash))
        else {
            if refusals::is_first(address, "logins failed") {
                tracing::warn!(%address, user = user.map(display), "a login failed");
            }
            return Err(Error::WrongLogin);
        };
        let hash = self.updated_hash(user, hash, verdict).await?;
        let user = self.store.users.find(user).await?;
        let user = user.ok_or(Error::WrongLogin)?;
        let accounts = self.clone();
        run_detached(async move {
            let session = accounts.sessions.start(&user, hash, &user_agent).await?;
            accounts.sockets.close_sessions(&session.ended);
            if !session.ended.is_empty() {
                tracing::info!(%address, user = %user.id, ended = session.ended.len(), "too many sessions: login ended the oldest");
            }
            Ok(LoggedIn { session, user })
        })
        .await
    }

    /// Replaces an outdated hash, and returns the hash that the user's password has now. If the
    /// password was changed in the meantime, returns the former hash, with which no session starts.
    async fn updated_hash(
        &self,
        user: UserId,
        hash: PasswordHash,
        verdict: Verdict,
    ) -> Result<PasswordHash> {
        let Verdict::Outdated(new) = verdict else {
            return Ok(hash);
        };
        let store = &self.store.accounts;
        let is_updated = store.set_password(user, hash.clone(), new.clone()).await?;
        Ok(if is_updated { new } else { hash })
    }

    /// Exchanges a refresh token for the next tokens. Errors: [`Error::BadRefresh`].
    pub async fn refresh(&self, address: ClientAddress, token: String) -> Result<LoggedIn> {
        self.limits.refresh(address)?;
        let accounts = self.clone();
        run_detached(async move {
            match accounts.sessions.refresh(&token).await? {
                Refreshed::Renewed(session, user) => Ok(LoggedIn { session, user }),
                Refreshed::Replayed(session) => {
                    accounts.sockets.close_sessions(&[session.id]);
                    tracing::warn!(%address, user = %session.user, session = %session.id, "a refresh token was used twice; its session is ended");
                    Err(Error::BadRefresh)
                }
                Refreshed::Unknown => {
                    if refusals::is_first(address, "refresh tokens refused") {
                        tracing::warn!(%address, "refresh token refused");
                    }
                    Err(Error::BadRefresh)
                }
            }
        })
        .await
    }
}
