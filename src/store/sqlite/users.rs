//! Users, their accounts and their presence, in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Sqlite,
    rows::{self, count},
};
use crate::{
    model::{Credentials, PasswordHash, Timestamp, User, UserId, Username},
    store::{Accounts, Presence, Result, UserCursor, UserUpdate, Users},
};

#[async_trait]
impl Users for Sqlite {
    async fn find_many(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let ids = ids.to_vec();
        let users = self
            .threads
            .read(move |connection| find_many(connection, &ids))
            .await?;
        Ok(users.into_iter().map(Arc::new).collect())
    }

    async fn rename(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>> {
        let renamed = self
            .threads
            .write(move |connection| rename(connection, id, &names, at))
            .await?;
        Ok(renamed.map(Arc::new))
    }

    async fn delete(&self, id: UserId, at: Timestamp) -> Result<bool> {
        self.threads
            .write_and_scrub(move |connection| delete(connection, id, at))
            .await
    }
}

#[async_trait]
impl Accounts for Sqlite {
    async fn add(&self, user: User, credentials: Option<Credentials>) -> Result<bool> {
        self.threads
            .write(move |connection| add(connection, &user, credentials.as_ref()))
            .await
    }

    async fn list(&self, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>> {
        self.threads
            .read(move |connection| list(connection, after, skip, limit))
            .await
    }

    async fn find_by_username(
        &self,
        username: &Username,
    ) -> Result<Option<(UserId, PasswordHash)>> {
        let username = username.clone();
        self.threads
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT user, password FROM accounts WHERE username = ?")?
                    .query_row([username.as_str()], |row| {
                        Ok((row.get(0)?, PasswordHash(row.get(1)?)))
                    })
                    .optional()
            })
            .await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        self.threads
            .read(move |connection| credentials(connection, user))
            .await
    }

    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool> {
        self.threads
            .write(move |connection| {
                let changed = connection
                    .prepare_cached(
                        "UPDATE accounts SET password = ? WHERE user = ? AND password = ?",
                    )?
                    .execute(params![password.0, user, former.0])?;
                Ok(changed > 0)
            })
            .await
    }
}

#[async_trait]
impl Presence for Sqlite {
    async fn update_last_seen(&self, users: Vec<(UserId, Timestamp)>) -> Result<()> {
        self.threads
            .write(move |connection| update_last_seen(connection, &users))
            .await
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<(UserId, Timestamp)>> {
        let users = users.to_vec();
        self.threads
            .read(move |connection| last_seen(connection, &users))
            .await
    }
}

fn find_many(connection: &Connection, ids: &[UserId]) -> rusqlite::Result<Vec<User>> {
    let mut by_id =
        connection.prepare_cached(&format!("SELECT {} FROM users WHERE id = ?", rows::USER))?;
    let mut users = Vec::with_capacity(ids.len());
    for id in ids {
        users.extend(by_id.query_row([id], rows::user).optional()?);
    }
    Ok(users)
}

fn rename(
    connection: &Connection,
    id: UserId,
    names: &UserUpdate,
    at: Timestamp,
) -> rusqlite::Result<Option<User>> {
    connection
        .prepare_cached(&format!(
            "UPDATE users SET first_name = coalesce(?, first_name), last_name = coalesce(?, last_name), updated_at = ?
             WHERE id = ? AND NOT deleted RETURNING {}",
            rows::USER
        ))?
        .query_row(params![names.first_name, names.last_name, at, id], rows::user)
        .optional()
}

fn delete(connection: &Connection, id: UserId, at: Timestamp) -> rusqlite::Result<bool> {
    let deleted = connection
        .prepare_cached("UPDATE users SET first_name = '', last_name = '', updated_at = ?, deleted = 1 WHERE id = ? AND NOT deleted")?
        .execute(params![at, id])?;
    connection
        .prepare_cached("DELETE FROM accounts WHERE user = ?")?
        .execute([id])?;
    connection
        .prepare_cached("DELETE FROM sessions WHERE user = ?")?
        .execute([id])?;
    connection
        .prepare_cached("DELETE FROM presence WHERE user = ?")?
        .execute([id])?;
    Ok(deleted > 0)
}

fn add(
    connection: &Connection,
    user: &User,
    credentials: Option<&Credentials>,
) -> rusqlite::Result<bool> {
    if let Some(Credentials { username, password }) = credentials {
        let added = connection
            .prepare_cached("INSERT INTO accounts (user, username, password) VALUES (?, ?, ?) ON CONFLICT (username) DO NOTHING")?
            .execute(params![user.id, username.as_str(), password.0])?;
        if added == 0 {
            return Ok(false);
        }
    }
    connection
        .prepare_cached("INSERT INTO users (id, first_name, last_name, type, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![user.id, user.first_name, user.last_name, user.kind, user.created_at, user.updated_at])?;
    Ok(true)
}

fn list(
    connection: &Connection,
    after: Option<UserCursor>,
    skip: u64,
    limit: u64,
) -> rusqlite::Result<Vec<User>> {
    let after = after.unwrap_or((Timestamp(i64::MIN), UserId::from_bytes([0; 16])));
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM users WHERE NOT deleted AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ? OFFSET ?",
            rows::USER
        ))?
        .query_map(params![after.0, after.1, count(limit), count(skip)], rows::user)?
        .collect()
}

fn credentials(connection: &Connection, user: UserId) -> rusqlite::Result<Option<Credentials>> {
    let found: Option<(String, String)> = connection
        .prepare_cached("SELECT username, password FROM accounts WHERE user = ?")?
        .query_row([user], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.and_then(|(name, hash)| {
        Some(Credentials {
            username: Username::parse(&name)?,
            password: PasswordHash(hash),
        })
    }))
}

fn update_last_seen(
    connection: &Connection,
    users: &[(UserId, Timestamp)],
) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "INSERT INTO presence (user, last_seen_at) VALUES (?, ?)
         ON CONFLICT (user) DO UPDATE SET last_seen_at = max(last_seen_at, excluded.last_seen_at)",
    )?;
    users
        .iter()
        .try_for_each(|(user, at)| update.execute(params![user, at]).map(drop))
}

fn last_seen(
    connection: &Connection,
    users: &[UserId],
) -> rusqlite::Result<Vec<(UserId, Timestamp)>> {
    let mut by_user =
        connection.prepare_cached("SELECT user, last_seen_at FROM presence WHERE user = ?")?;
    let mut seen = Vec::with_capacity(users.len());
    for user in users {
        seen.extend(
            by_user
                .query_row([user], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?,
        );
    }
    Ok(seen)
}
