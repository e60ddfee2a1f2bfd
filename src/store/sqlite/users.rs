//! Users in SQLite.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::rows::{self, count};
use crate::{
    model::{Timestamp, User, UserId},
    store::UserCursor,
};

pub fn add(connection: &Connection, user: &User) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO users (id, first_name, last_name, type, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![user.id, user.first_name, user.last_name, user.kind, user.created_at, user.updated_at])?;
    Ok(())
}

pub fn people(connection: &Connection, ids: &[UserId]) -> Result<Vec<User>> {
    let mut by_id = connection.prepare_cached(&format!("SELECT {} FROM users WHERE id = ?", rows::USER))?;
    let mut people = Vec::with_capacity(ids.len());
    for id in ids {
        people.extend(by_id.query_row([id], rows::user).optional()?);
    }
    Ok(people)
}

pub fn list(connection: &Connection, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>> {
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
    Ok(deleted > 0)
}
