//! Sessions in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Sqlite, rows::count};
use crate::{
    model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, UserId},
    store::{MAX_SESSIONS, Refresh, Result, Rotation, SessionSelector, Sessions},
};

/// How many expired sessions are deleted when a session is added. More than one, so that they do
/// not accumulate.
const EXPIRED_TO_DELETE: u64 = 10;

#[async_trait]
impl Sessions for Sqlite {
    async fn add(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>> {
        self.threads
            .write(move |connection| add(connection, &session, &key, &password))
            .await
    }

    async fn find(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        let found = self
            .threads
            .read(move |connection| {
                connection
                    .prepare_cached(&format!("SELECT {SESSION} FROM sessions WHERE id = ?"))?
                    .query_row([id], session)
                    .optional()
            })
            .await?;
        Ok(found.map(Arc::new))
    }

    async fn refresh(&self, rotation: Rotation) -> Result<Refresh> {
        self.threads
            .write(move |connection| refresh(connection, &rotation))
            .await
    }

    async fn end(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>> {
        self.threads
            .write(move |connection| end(connection, user, which))
            .await
    }

    async fn list(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        self.threads
            .read(move |connection| list(connection, user, at))
            .await
    }

    async fn live(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        self.threads
            .read(move |connection| live(connection, &ids))
            .await
    }
}

/// The columns of [`session`], in its order.
const SESSION: &str = "id, user, user_agent, created_at, used_at, expires_at";

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: row.get(0)?,
        user: row.get(1)?,
        user_agent: row.get(2)?,
        created_at: row.get(3)?,
        used_at: row.get(4)?,
        expires_at: row.get(5)?,
    })
}

fn add(
    connection: &Connection,
    session: &Session,
    key: &RefreshKey,
    password: &PasswordHash,
) -> rusqlite::Result<Option<Vec<SessionId>>> {
    let has_password = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM accounts WHERE user = ? AND password = ?)")?
        .query_row(params![session.user, password.0], |row| {
            row.get::<_, bool>(0)
        })?;
    if !has_password {
        return Ok(None);
    }
    connection
        .prepare_cached("DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)")?
        .execute(params![session.created_at, count(EXPIRED_TO_DELETE)])?;
    connection
        .prepare_cached(
            "INSERT INTO sessions (id, user, line, secret, user_agent, created_at, used_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            session.id,
            session.user,
            key.line,
            key.secret,
            session.user_agent,
            session.created_at,
            session.used_at,
            session.expires_at
        ])?;
    let too_many = "user = ?1 AND id IN (SELECT id FROM sessions WHERE user = ?1 ORDER BY created_at DESC, id DESC LIMIT -1 OFFSET ?2)";
    end_many(
        connection,
        too_many,
        params![session.user, count(MAX_SESSIONS as u64)],
    )
    .map(Some)
}

fn list(connection: &Connection, user: UserId, at: Timestamp) -> rusqlite::Result<Vec<Session>> {
    connection
        .prepare_cached(&format!("SELECT {SESSION} FROM sessions WHERE user = ? AND expires_at > ? ORDER BY created_at DESC, id DESC"))?
        .query_map(params![user, at], session)?
        .collect()
}

fn refresh(connection: &Connection, rotation: &Rotation) -> rusqlite::Result<Refresh> {
    let Rotation {
        session: id,
        key,
        successors,
        at,
        ..
    } = rotation;
    let found = connection
        .prepare_cached(&format!(
            "SELECT {SESSION}, secret FROM sessions WHERE id = ? AND line = ? AND expires_at > ?"
        ))?
        .query_row(params![id, key.line, at], |row| {
            Ok((session(row)?, row.get::<_, [u8; 32]>(6)?))
        })
        .optional()?;
    let Some((session, latest)) = found else {
        return Ok(Refresh::Unknown);
    };
    if let Some(next) = successors.first()
        && latest == key.secret
    {
        return renew(connection, rotation, session, *next);
    }
    let (from, to) = rotation.window();
    if successors.contains(&latest) && (from..=to).contains(&session.used_at) {
        return Ok(Refresh::Repeated(session.into(), latest));
    }
    connection
        .prepare_cached("DELETE FROM sessions WHERE id = ?")?
        .execute([id])?;
    Ok(Refresh::Replayed(session.into()))
}

/// Replaces the latest token of a session by `next`.
fn renew(
    connection: &Connection,
    rotation: &Rotation,
    session: Session,
    next: [u8; 32],
) -> rusqlite::Result<Refresh> {
    let Rotation { at, expires_at, .. } = *rotation;
    connection
        .prepare_cached("UPDATE sessions SET secret = ?, used_at = ?, expires_at = ? WHERE id = ?")?
        .execute(params![next, at, expires_at, session.id])?;
    let session = Session {
        used_at: at,
        expires_at,
        ..session
    };
    Ok(Refresh::Renewed(session.into(), next))
}

fn end(
    connection: &Connection,
    user: UserId,
    which: SessionSelector,
) -> rusqlite::Result<Vec<SessionId>> {
    match which {
        SessionSelector::One(id) => end_many(connection, "user = ? AND id = ?", params![user, id]),
        SessionSelector::All => end_many(connection, "user = ?", params![user]),
        SessionSelector::AllBut(id) => {
            end_many(connection, "user = ? AND id <> ?", params![user, id])
        }
    }
}

fn end_many(
    connection: &Connection,
    condition: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<Vec<SessionId>> {
    connection
        .prepare_cached(&format!(
            "DELETE FROM sessions WHERE {condition} RETURNING id"
        ))?
        .query_map(parameters, |row| row.get(0))?
        .collect()
}

fn live(connection: &Connection, ids: &[SessionId]) -> rusqlite::Result<Vec<SessionId>> {
    let mut exists =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM sessions WHERE id = ?)")?;
    let mut live = Vec::with_capacity(ids.len());
    for id in ids {
        if exists.query_row([id], |row| row.get(0))? {
            live.push(*id);
        }
    }
    Ok(live)
}
