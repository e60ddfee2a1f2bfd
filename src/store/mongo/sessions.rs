//! Sessions in MongoDB, which deletes expired ones by itself.

use std::sync::Arc;

use async_trait::async_trait;
use mongodb::{
    bson::{Binary, Document, RawDocument, doc, spec::BinarySubtype},
    options::ReturnDocument,
};

use super::{
    connection::Connection,
    documents::{date, document_count, id_strings, text_in, time_in},
    indexes::{self, by_name},
    store::Mongo,
};
use crate::{
    model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, UserId},
    store::{Accounts, MAX_SESSIONS, Refresh, Result, Rotation, SessionSelector, Sessions},
};

#[async_trait]
impl Sessions for Mongo {
    /// The session is inserted before the password is compared. A password change updates the
    /// password first and then ends the sessions, so either this check sees the new password, or
    /// the change ends this session.
    async fn add(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>> {
        let connection = &self.connection;
        connection
            .add(&connection.sessions, &from_session(&session, &key))
            .await?;
        let credentials = Accounts::credentials(self, session.user).await?;
        if credentials.is_none_or(|credentials| credentials.password.0 != password.0) {
            self.end(session.user, SessionSelector::One(session.id))
                .await?;
            return Ok(None);
        }
        let oldest = connection
            .sessions
            .find(doc! { "userId": session.user.to_string() })
            .projection(doc! { "_id": 1 })
            .sort(doc! { "createdAt": -1, "_id": -1 })
            .skip(MAX_SESSIONS as u64)
            .hint(by_name(indexes::BY_USER));
        let too_many = connection.all(oldest, session_id).await?;
        if !too_many.is_empty() {
            remove(connection, &too_many).await?;
        }
        Ok(Some(too_many))
    }

    async fn find(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        let connection = &self.connection;
        let found = connection.sessions.find_one(doc! { "_id": id.to_string() });
        Ok(connection.one(found, session).await?.map(Arc::new))
    }

    async fn refresh(&self, rotation: Rotation) -> Result<Refresh> {
        let connection = &self.connection;
        if let Some(renewed) = renew(connection, &rotation).await? {
            return Ok(renewed);
        }
        if let Some(repeated) = find_repeated(connection, &rotation).await? {
            return Ok(repeated);
        }
        let replayed = connection
            .sessions
            .find_one_and_delete(line_filter(&rotation));
        let replayed = connection.one(replayed, session).await?;
        Ok(replayed.map_or(Refresh::Unknown, |session| {
            Refresh::Replayed(session.into())
        }))
    }

    async fn end(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>> {
        let connection = &self.connection;
        let mut selected = doc! { "userId": user.to_string() };
        match which {
            SessionSelector::One(id) => _ = selected.insert("_id", id.to_string()),
            SessionSelector::All => {}
            SessionSelector::AllBut(id) => {
                _ = selected.insert("_id", doc! { "$ne": id.to_string() });
            }
        }
        let selected = connection
            .sessions
            .find(selected)
            .projection(doc! { "_id": 1 })
            .hint(by_name(indexes::BY_USER));
        let ended = connection.all(selected, session_id).await?;
        remove(connection, &ended).await?;
        Ok(ended)
    }

    async fn list(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        let connection = &self.connection;
        let of_user = connection
            .sessions
            .find(doc! { "userId": user.to_string(), "expiresAt": { "$gt": date(at) } })
            .sort(doc! { "createdAt": -1, "_id": -1 })
            .hint(by_name(indexes::BY_USER));
        connection.all(of_user, session).await
    }

    async fn live(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        let connection = &self.connection;
        let live = connection
            .sessions
            .find(doc! { "_id": { "$in": id_strings(&ids) } })
            .projection(doc! { "_id": 1 })
            .limit(document_count(ids.len() as u64));
        connection.all(live, session_id).await
    }
}

fn hash(bytes: [u8; 32]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

fn from_session(session: &Session, key: &RefreshKey) -> Document {
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
        id: session_id(document)?,
        user: UserId::parse(text_in(document, "userId"))?,
        user_agent: text_in(document, "userAgent").to_owned(),
        created_at: time_in(document, "createdAt"),
        used_at: time_in(document, "usedAt"),
        expires_at: time_in(document, "expiresAt"),
    })
}

fn session_id(document: &RawDocument) -> Option<SessionId> {
    SessionId::parse(text_in(document, "_id"))
}

/// Returns the filter for the session that the token belongs to, unless it has expired.
fn line_filter(rotation: &Rotation) -> Document {
    doc! {
        "_id": rotation.session.to_string(),
        "line": hash(rotation.key.line),
        "expiresAt": { "$gt": date(rotation.at) },
    }
}

/// Replaces the token if it is the latest one of its session.
async fn renew(connection: &Connection, rotation: &Rotation) -> Result<Option<Refresh>> {
    let Some(next) = rotation.successors.first() else {
        return Ok(None);
    };
    let mut with_latest = line_filter(rotation);
    with_latest.insert("secret", hash(rotation.key.secret));
    let renew = doc! { "$set": { "secret": hash(*next), "usedAt": date(rotation.at), "expiresAt": date(rotation.expires_at) } };
    let renew = connection
        .sessions
        .find_one_and_update(with_latest, renew)
        .return_document(ReturnDocument::After);
    let renewed = connection.one(renew, session).await?;
    Ok(renewed.map(|session| Refresh::Renewed(session.into(), *next)))
}

/// Returns the latest token if the presented one is the token before it.
async fn find_repeated(connection: &Connection, rotation: &Rotation) -> Result<Option<Refresh>> {
    let (from, to) = rotation.window();
    let successors: Vec<_> = rotation.successors.iter().copied().map(hash).collect();
    let mut repeated = line_filter(rotation);
    repeated.insert("secret", doc! { "$in": successors });
    repeated.insert("usedAt", doc! { "$gte": date(from), "$lte": date(to) });
    // The update changes nothing. A read could miss the replacement that made the token stale
    // above, until the majority has it.
    let repeated = connection.sessions.find_one_and_update(
        repeated,
        doc! { "$set": { "line": hash(rotation.key.line) } },
    );
    let with_latest = |document: &RawDocument| {
        Some((
            session(document)?,
            document.get_binary("secret").ok()?.bytes.try_into().ok()?,
        ))
    };
    let repeated = connection.one(repeated, with_latest).await?;
    Ok(repeated.map(|(session, latest)| Refresh::Repeated(session.into(), latest)))
}

async fn remove(connection: &Connection, ids: &[SessionId]) -> Result<()> {
    connection
        .within(
            connection
                .sessions
                .delete_many(doc! { "_id": { "$in": id_strings(ids) } }),
        )
        .await
        .map(|_| ())
}
