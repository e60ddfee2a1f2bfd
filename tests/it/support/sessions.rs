//! Users with passwords and sessions for tests that use the store directly.

use causerie::{
    model::{
        Credentials, PasswordHash, RefreshKey, Session, SessionId, Timestamp, User, UserId,
        UserType, Username,
    },
    store::{Refresh, Rotation, Store},
};

use crate::support::databases::Database;

/// The beginning and the lifetime of the sessions of these tests, in milliseconds.
pub const BEGIN: i64 = 1_800_000_000_000;
pub const LIFE: i64 = 1_000_000;

pub fn user(n: u8) -> User {
    let (id, at) = (UserId::from_bytes([n; 16]), Timestamp(BEGIN));
    let (first_name, last_name) = (format!("first {n}"), format!("last {n}"));
    User {
        id,
        first_name,
        last_name,
        kind: UserType::Consumer,
        created_at: at,
        updated_at: at,
        deleted: false,
    }
}

pub fn hash(text: &str) -> PasswordHash {
    PasswordHash(format!("the hash of {text}"))
}

pub fn username(n: u8) -> Username {
    Username::parse(&format!("user{n}")).unwrap()
}

pub fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

/// Returns session `n` of user `of`. A higher number is a later session.
pub fn session(n: u8, of: u8) -> Session {
    let created_at = Timestamp(BEGIN + i64::from(n));
    let expires_at = Timestamp(created_at.0 + LIFE);
    Session {
        id: id(n),
        user: user(of).id,
        user_agent: format!("agent {n}"),
        created_at,
        used_at: created_at,
        expires_at,
    }
}

pub fn key(line: u8, secret: u8) -> RefreshKey {
    RefreshKey {
        line: [line; 32],
        secret: [secret; 32],
    }
}

/// Returns a store with two users who have passwords, and one who has none.
pub async fn with_accounts(database: &Database) -> Store {
    let store = database.open().await;
    for n in [1, 2] {
        let credentials = Credentials {
            username: username(n),
            password: hash("old"),
        };
        assert!(
            store
                .accounts
                .add(user(n), Some(credentials))
                .await
                .unwrap()
        );
    }
    assert!(store.accounts.add(user(3), None).await.unwrap());
    store
}

/// Begins session `n` of user `of`, whose line and first secret are `n`.
pub async fn begin(store: &Store, n: u8, of: u8) -> Option<Vec<SessionId>> {
    store
        .sessions
        .add(session(n, of), key(n, n), hash("old"))
        .await
        .unwrap()
}

/// Redeems a refresh token with these successors.
pub async fn refresh(
    store: &Store,
    n: u8,
    key: RefreshKey,
    successors: &[u8],
    after: i64,
) -> Refresh {
    let at = Timestamp(BEGIN + after);
    let successors = successors.iter().map(|secret| [*secret; 32]).collect();
    store
        .sessions
        .refresh(Rotation {
            session: id(n),
            key,
            successors,
            at,
            expires_at: Timestamp(at.0 + LIFE),
        })
        .await
        .unwrap()
}

pub fn ids(sessions: &[Session]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id).collect()
}
