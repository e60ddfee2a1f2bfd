//! The service itself, and what it works with.

use std::sync::Arc;

use crate::{
    access::Access, auth::MaybeAuthenticated, clock::Clock, config::RoomsConfig, error::Result,
    limits::Limits, store::Store, timeline::Timeline,
};

/// Executes the operations of callers on rooms.
#[derive(Clone)]
pub struct Chat {
    pub(super) access: Access,
    pub(super) store: Store,
    pub(super) timeline: Timeline,
    pub(super) limits: Arc<Limits>,
    pub(super) clock: Clock,
    pub(super) config: RoomsConfig,
}

/// What a [`Chat`] works with.
pub struct Dependencies {
    /// Authorizes callers.
    pub access: Access,
    /// The stored rooms.
    pub store: Store,
    /// Appends entries to the logs.
    pub timeline: Timeline,
    /// Rate limits and quotas.
    pub limits: Arc<Limits>,
    /// The source of times and ids.
    pub clock: Clock,
    /// The settings of rooms.
    pub config: RoomsConfig,
}

impl Chat {
    /// Creates the service.
    #[must_use]
    pub fn new(dependencies: Dependencies) -> Self {
        let Dependencies {
            access,
            store,
            timeline,
            limits,
            clock,
            config,
        } = dependencies;
        Self {
            access,
            store,
            timeline,
            limits,
            clock,
            config,
        }
    }

    /// Counts a change of the sender, if authenticated. With limits, unauthenticated senders cannot
    /// change anything.
    pub(super) fn count_change(&self, sender: &MaybeAuthenticated) -> Result<()> {
        sender
            .caller
            .as_ref()
            .map_or(Ok(()), |caller| self.limits.post(caller.user.id))
    }
}
