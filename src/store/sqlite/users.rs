//! Users in SQLite.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::rows::{self, count};
use crate::{
    model::{Credentials, PasswordHash, Timestamp, User, UserId, Username},
    store::{UserCursor, UserUpdate},
};

pub fn add(
    connection: &Connection,
    user: &User,
    credentials: Option<&Credentials>,
) -> Result<bool> {
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

pub fn rename(
    connection: &Connection,
    id: UserId,
    names: &UserUpdate,
    at: Timestamp,
) -> Result<Option<User>> {
    connection
        .prepare_cached(&format!(
            "UPDATE users SET first_name = coalesce(?, first_name), last_name = coalesce(?, last_name), updated_at = ?
             WHERE id = ? AND NOT deleted RETURNING {}",
            rows::USER
        ))?
        .query_row(params![names.first_name, names.last_name, at, id], rows::user)
        .optional()
}

pub fn account(
    connection: &Connection,
    username: &Username,
) -> Result<Option<(UserId, PasswordHash)>> {
    connection
        .prepare_cached("SELECT user, password FROM accounts WHERE username = ?")?
        .query_row([username.as_str()], |row| {
            Ok((row.get(0)?, PasswordHash(row.get(1)?)))
        })
        .optional()
}

pub fn credentials(connection: &Connection, user: UserId) -> Result<Option<Credentials>> {
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

pub fn set_password(
    connection: &Connection,
    user: UserId,
    former: &PasswordHash,
    password: &PasswordHash,
) -> Result<bool> {
    let changed = connection
        .prepare_cached("UPDATE accounts SET password = ? WHERE user = ? AND password = ?")?
        .execute(params![password.0, user, former.0])?;
    Ok(changed > 0)
}

pub fn users_by_id(connection: &Connection, ids: &[UserId]) -> Result<Vec<User>> {
    let mut by_id =
        connection.prepare_cached(&format!("SELECT {} FROM users WHERE id = ?", rows::USER))?;
    let mut people = Vec::with_capacity(ids.len());
    for id in ids {
        people.extend(by_id.query_row([id], rows::user).optional()?);
    }
    Ok(people)
}

/// Returns those of the given users who were deleted.
pub fn deleted_among(connection: &Connection, ids: &[UserId]) -> Result<Vec<UserId>> {
    let mut is_deleted =
        connection.prepare_cached("SELECT 1 FROM users WHERE id = ? AND deleted")?;
    let mut deleted = Vec::new();
    for id in ids {
        if is_deleted.exists([id])? {
            deleted.push(*id);
        }
    }
    Ok(deleted)
}

pub fn list(
    connection: &Connection,
    after: Option<UserCursor>,
    skip: u64,
    limit: u64,
) -> Result<Vec<User>> {
    let after = after.unwrap_or((Timestamp(i64::MIN), UserId::from_bytes([0; 16])));
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM users WHERE NOT deleted AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ? OFFSET ?",
            rows::USER
        ))?
        .query_map(params![after.0, after.1, count(limit), count(skip)], rows::user)?
        .collect()
}

pub fn delete(connection: &Connection, id: UserId, at: Timestamp) -> Result<bool> {
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

pub fn update_last_seen(connection: &Connection, seen: &[(UserId, Timestamp)]) -> Result<()> {
    let mut note = connection.prepare_cached(
        "INSERT INTO presence (user, last_seen_at) VALUES (?, ?)
         ON CONFLICT (user) DO UPDATE SET last_seen_at = max(last_seen_at, excluded.last_seen_at)",
    )?;
    seen.iter()
        .try_for_each(|(user, at)| note.execute(params![user, at]).map(drop))
}

pub fn last_seen(connection: &Connection, ids: &[UserId]) -> Result<Vec<(UserId, Timestamp)>> {
    let mut by_id =
        connection.prepare_cached("SELECT user, last_seen_at FROM presence WHERE user = ?")?;
    let mut seen = Vec::with_capacity(ids.len());
    for id in ids {
        seen.extend(
            by_id
                .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?,
        );
    }
    Ok(seen)
}
