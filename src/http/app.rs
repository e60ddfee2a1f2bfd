//! The state of the REST API.

use std::sync::Arc;

use crate::{
    accounts::Accounts, auth::Authenticator, budget::MemoryBudget, chat::Chat, config::HttpConfig,
    descriptors::Descriptors, limits::Limits, sockets::SocketHub, store::Database,
};

/// The state shared by all handlers.
pub struct App {
    /// Operations on users and their accounts.
    pub accounts: Accounts,
    /// Operations on rooms and messages.
    pub chat: Chat,
    /// Authenticates callers.
    pub authenticator: Authenticator,
    /// Rate limits and quotas.
    pub limits: Arc<Limits>,
    /// The sockets.
    pub sockets: Arc<dyn SocketHub>,
    /// The database, whose health is reported.
    pub database: Arc<dyn Database>,
    /// Limits the number of connections by file descriptors.
    pub descriptors: Arc<Descriptors>,
    /// The memory limits of requests.
    pub budget: Arc<MemoryBudget>,
    /// Settings of HTTP requests.
    pub config: HttpConfig,
}

/// The state as handlers receive it.
pub type Shared = Arc<App>;
