//! Sessions in MongoDB, which deletes expired ones by itself.

use mongodb::{
    bson::{Binary, Document, RawDocument, doc, spec::BinarySubtype},
    options::ReturnDocument,
};

use super::{
    connection::Connection,
    documents::{date, text_in, time_in},
    indexes::{self, by_name},
    rows, users,
};
use crate::{
    model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, UserId},
    store::{MAX_SESSIONS, Refresh, Result, Rotation, SessionSelector},
};

fn hash(bytes: [u8; 32]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

fn document(session: &Session, key: &RefreshKey) -> Document {
    doc! {
        "_id": session.id.to_string(),
        "userId": session.user.to_string(),
        "line": hash(key.line),
        "secret": hash(key.secret),
        "userAgent": &session.user_agent,
        "createdAt": date(session.created_at),
        "usedAt": date(session.used_at),
        "expiresAt": date(session.expires_at),
    }
}

fn session(document: &RawDocument) -> Option<Session> {
    Some(Session {
        id: id(document)?,
        user: UserId::parse(text_in(document, "userId"))?,
        user_agent: text_in(document, "userAgent").to_owned(),
        created_at: time_in(document, "createdAt"),
        used_at: time_in(document, "usedAt"),
        expires_at: time_in(document, "expiresAt"),
    })
}

fn id(document: &RawDocument) -> Option<SessionId> {
    SessionId::parse(text_in(document, "_id"))
}

/// Adds a session if the password is still current. Returns the older sessions that were ended
/// because the user had too many, or `None` if the password is wrong.
///
/// The session is inserted before the password is compared. A password change updates the password
/// first and then ends the sessions, so either this check sees the new password, or the change ends
/// this session.
pub async fn add(
    connection: &Connection,
    session: &Session,
    key: &RefreshKey,
    password: &PasswordHash,
) -> Result<Option<Vec<SessionId>>> {
    connection
        .add(&connection.sessions, &document(session, key))
        .await?;
    let credentials = users::credentials(connection, session.user).await?;
    if credentials.is_none_or(|credentials| credentials.password.0 != password.0) {
        end(connection, session.user, SessionSelector::One(session.id)).await?;
        return Ok(None);
    }
    let of_user = connection
        .sessions
        .find(doc! { "userId": session.user.to_string() })
        .projection(doc! { "_id": 1 });
    let oldest = of_user
        .sort(doc! { "createdAt": -1, "_id": -1 })
        .skip(MAX_SESSIONS as u64)
        .hint(by_name(indexes::BY_USER));
    let too_many = connection.all(oldest, id).await?;
    if !too_many.is_empty() {
        remove(connection, &too_many).await?;
    }
    Ok(Some(too_many))
}

pub async fn find(connection: &Connection, id: SessionId) -> Result<Option<Session>> {
    connection
        .one(
            connection.sessions.find_one(doc! { "_id": id.to_string() }),
            session,
        )
        .await
}

pub async fn of_user(connection: &Connection, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
    let of_user = connection
        .sessions
        .find(doc! { "userId": user.to_string(), "expiresAt": { "$gt": date(at) } });
    connection
        .all(
            of_user
                .sort(doc! { "createdAt": -1, "_id": -1 })
                .hint(by_name(indexes::BY_USER)),
            session,
        )
        .await
}

pub async fn refresh(connection: &Connection, rotation: &Rotation) -> Result<Refresh> {
    let Rotation {
        session: id,
        key,
        successors,
        at,
        expires_at,
    } = rotation;
    let known =
        doc! { "_id": id.to_string(), "line": hash(key.line), "expiresAt": { "$gt": date(*at) } };
    if let Some(next) = successors.first() {
        let mut latest = known.clone();
        latest.insert("secret", hash(key.secret));
        let renew = doc! { "$set": { "secret": hash(*next), "usedAt": date(*at), "expiresAt": date(*expires_at) } };
        let renew = connection
            .sessions
            .find_one_and_update(latest, renew)
            .return_document(ReturnDocument::After);
        if let Some(renewed) = connection.one(renew, session).await? {
            return Ok(Refresh::Renewed(renewed.into(), *next));
        }
    }
    let (from, to) = rotation.window();
    let mut repeated = known.clone();
    repeated.insert(
        "secret",
        doc! { "$in": successors.iter().copied().map(hash).collect::<Vec<_>>() },
    );
    repeated.insert("usedAt", doc! { "$gte": date(from), "$lte": date(to) });
    // The update changes nothing. A read could miss the replacement that made the token stale
    // above, until the majority has it.
    let repeated = connection
        .sessions
        .find_one_and_update(repeated, doc! { "$set": { "line": hash(key.line) } });
    let latest = |document: &RawDocument| {
        Some((
            session(document)?,
            document.get_binary("secret").ok()?.bytes.try_into().ok()?,
        ))
    };
    if let Some((session, latest)) = connection.one(repeated, latest).await? {
        return Ok(Refresh::Repeated(session.into(), latest));
    }
    let replayed = connection
        .one(connection.sessions.find_one_and_delete(known), session)
        .await?;
    Ok(replayed.map_or(Refresh::Unknown, |session| {
        Refresh::Replayed(session.into())
    }))
}

pub async fn end(
    connection: &Connection,
    user: UserId,
    which: SessionSelector,
) -> Result<Vec<SessionId>> {
    let mut those = doc! { "userId": user.to_string() };
    match which {
        SessionSelector::One(id) => _ = those.insert("_id", id.to_string()),
        SessionSelector::All => {}
        SessionSelector::AllBut(id) => _ = those.insert("_id", doc! { "$ne": id.to_string() }),
    }
    let ended = connection
        .all(
            connection
                .sessions
                .find(those)
                .projection(doc! { "_id": 1 })
                .hint(by_name(indexes::BY_USER)),
            id,
        )
        .await?;
    remove(connection, &ended).await?;
    Ok(ended)
}

async fn remove(connection: &Connection, ids: &[SessionId]) -> Result<()> {
    connection
        .within(
            connection
                .sessions
                .delete_many(doc! { "_id": { "$in": texts(ids) } }),
        )
        .await
        .map(|_| ())
}

pub async fn live(connection: &Connection, ids: &[SessionId]) -> Result<Vec<SessionId>> {
    let live = connection
        .sessions
        .find(doc! { "_id": { "$in": texts(ids) } })
        .projection(doc! { "_id": 1 });
    connection.all(live.limit(rows(ids.len() as u64)), id).await
}

fn texts(ids: &[SessionId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}
