//! Sessions in SQLite.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::rows::count;
use crate::{
    model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, UserId},
    store::{MAX_SESSIONS, Refresh, Rotation, SessionSelector},
};

/// How many expired sessions are deleted when a session is added. More than one, so that they do
/// not accumulate.
const SWEEP: u64 = 10;

/// The columns of [`session`], in its order.
const SESSION: &str = "id, user, user_agent, created_at, used_at, expires_at";

fn session(row: &Row<'_>) -> Result<Session> {
    Ok(Session {
        id: row.get(0)?,
        user: row.get(1)?,
        user_agent: row.get(2)?,
        created_at: row.get(3)?,
        used_at: row.get(4)?,
        expires_at: row.get(5)?,
    })
}

pub fn add(
    connection: &Connection,
    session: &Session,
    key: &RefreshKey,
    password: &PasswordHash,
) -> Result<Option<Vec<SessionId>>> {
    let still_so = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM accounts WHERE user = ? AND password = ?)")?
        .query_row(params![session.user, password.0], |row| {
            row.get::<_, bool>(0)
        })?;
    if !still_so {
        return Ok(None);
    }
    connection
        .prepare_cached("DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)")?
        .execute(params![session.created_at, count(SWEEP)])?;
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

pub fn find(connection: &Connection, id: SessionId) -> Result<Option<Session>> {
    connection
        .prepare_cached(&format!("SELECT {SESSION} FROM sessions WHERE id = ?"))?
        .query_row([id], session)
        .optional()
}

pub fn of_user(connection: &Connection, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
    connection
        .prepare_cached(&format!("SELECT {SESSION} FROM sessions WHERE user = ? AND expires_at > ? ORDER BY created_at DESC, id DESC"))?
        .query_map(params![user, at], session)?
        .collect()
}

pub fn refresh(connection: &Connection, rotation: &Rotation) -> Result<Refresh> {
    let Rotation {
        session: id,
        key,
        successors,
        at,
        expires_at,
    } = rotation;
    let latest = connection
        .prepare_cached(&format!(
            "SELECT {SESSION}, secret FROM sessions WHERE id = ? AND line = ? AND expires_at > ?"
        ))?
        .query_row(params![id, key.line, at], |row| {
            Ok((session(row)?, row.get::<_, [u8; 32]>(6)?))
        })
        .optional()?;
    let Some((session, latest)) = latest else {
        return Ok(Refresh::Unknown);
    };
    if let Some(next) = successors.first()
        && latest == key.secret
    {
        connection
            .prepare_cached(
                "UPDATE sessions SET secret = ?, used_at = ?, expires_at = ? WHERE id = ?",
            )?
            .execute(params![next, at, expires_at, id])?;
        return Ok(Refresh::Renewed(
            Session {
                used_at: *at,
                expires_at: *expires_at,
                ..session
            }
            .into(),
            *next,
        ));
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

pub fn end(
    connection: &Connection,
    user: UserId,
    which: SessionSelector,
) -> Result<Vec<SessionId>> {
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
) -> Result<Vec<SessionId>> {
    connection
        .prepare_cached(&format!(
            "DELETE FROM sessions WHERE {condition} RETURNING id"
        ))?
        .query_map(parameters, |row| row.get(0))?
        .collect()
}

pub fn live(connection: &Connection, ids: &[SessionId]) -> Result<Vec<SessionId>> {
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
