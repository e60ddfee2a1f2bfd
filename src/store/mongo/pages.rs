//! Reading the logs, deleting from them, and how far they have been read, in MongoDB.

use mongodb::bson::{Document, doc};
use tokio::try_join;

use super::{
    connection::Connection,
    documents::{self, flag_in, number, seq_in, time_in},
    rooms, rows,
    schema::{self, by_name},
    tallies,
};
use crate::{
    model::{Message, MessageId, ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Page, Result, StoreError},
};

/// How often a reader's mark is tried when the same reader marks from several places at once.
const ATTEMPTS: usize = 10;

pub async fn page(connection: &Connection, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>> {
    match page {
        Page::After(seq) => select(connection, room, doc! { "$gt": number(seq.0) }, 1, limit).await,
        Page::Before(seq) => newest(connection, room, Seq(seq.0.saturating_sub(1)), limit).await,
        Page::Newest { skip: 0 } => newest(connection, room, Seq(u64::MAX), limit).await,
        Page::Newest { skip } => match skip_from_the_end(connection, room, skip).await? {
            Some(last) => newest(connection, room, last, limit).await,
            None => Ok(Vec::new()),
        },
    }
}

/// The newest messages up to the entry `last`, in ascending order.
pub async fn newest(connection: &Connection, room: RoomId, last: Seq, limit: u64) -> Result<Vec<Message>> {
    let mut messages = select(connection, room, doc! { "$gt": 0, "$lte": number(last.0) }, -1, limit).await?;
    messages.reverse();
    Ok(messages)
}

async fn select(connection: &Connection, room: RoomId, range: Document, order: i32, limit: u64) -> Result<Vec<Message>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let filter = doc! { "chatRoomId": room.to_string(), "seq": range, "deleted": null };
    let messages = connection.messages.find(filter).sort(doc! { "seq": order }).limit(rows(limit)).hint(by_name(schema::LOG));
    connection.all(messages, documents::message).await
}

/// The entry behind which exactly `skip` messages stand. Numbers have no holes, so it is found by counting the deleted ones alone: each
/// deleted message behind the entry moves it forward by one, which may bring further deleted ones behind it.
async fn skip_from_the_end(connection: &Connection, room: RoomId, skip: u64) -> Result<Option<Seq>> {
    let Some((end, _)) = end(connection, room).await? else { return Ok(None) };
    let mut deleted = 0;
    loop {
        let Some(last) = end.0.checked_sub(skip.saturating_add(deleted)).filter(|last| *last > 0) else {
            return Ok(None);
        };
        let behind = deleted_between(connection, room, Seq(last), end, None).await?;
        if behind == deleted {
            return Ok(Some(Seq(last)));
        }
        deleted = behind;
    }
}

/// The number and the time of the last entry, unless the log is empty or closed.
async fn end(connection: &Connection, room: RoomId) -> Result<Option<(Seq, Timestamp)>> {
    let last = connection
        .messages
        .find_one(doc! { "chatRoomId": room.to_string(), "seq": { "$gt": 0 } })
        .sort(doc! { "seq": -1 })
        .projection(doc! { "seq": 1, "createdAt": 1, "closed": 1 })
        .hint(by_name(schema::LOG));
    connection.one(last, |entry| (!flag_in(entry, "closed")).then(|| (seq_in(entry, "seq"), time_in(entry, "createdAt")))).await
}

/// How many entries in `after < seq <= last` are deleted messages, but for those of one author.
pub async fn deleted_between(connection: &Connection, room: RoomId, after: Seq, last: Seq, but_of: Option<UserId>) -> Result<u64> {
    let mut filter = entries(room, after, last);
    filter.extend(doc! { "deleted": true, "closed": null });
    if let Some(author) = but_of {
        filter.insert("postedByUser", doc! { "$ne": author.to_string() });
    }
    connection.within(connection.messages.count_documents(filter).hint(by_name(schema::DELETED))).await
}

/// Which entries stand in `after < seq <= last`.
pub fn entries(room: RoomId, after: Seq, last: Seq) -> Document {
    doc! { "chatRoomId": room.to_string(), "seq": { "$gt": number(after.0), "$lte": number(last.0) } }
}

pub async fn find(connection: &Connection, id: MessageId) -> Result<Option<Message>> {
    let message = connection.one(connection.messages.find_one(doc! { "_id": id.to_string() }), documents::message).await?;
    let Some(message) = message else { return Ok(None) };
    Ok(rooms::find(connection, message.room).await?.map(|_| message))
}

pub async fn delete(connection: &Connection, id: MessageId) -> Result<bool> {
    if find(connection, id).await?.is_none() {
        return Ok(false);
    }
    let erase = doc! { "$set": { "deleted": true }, "$unset": { "message.messageText": "" }, "$currentDate": { "updatedAt": true } };
    let erased = connection.within(connection.messages.update_one(doc! { "_id": id.to_string(), "deleted": null }, erase)).await?;
    Ok(erased.matched_count > 0)
}

/// Unread is what stands behind the user's last mark, but for what they posted themselves and what others posted and deleted again.
pub async fn mark_read(connection: &Connection, room: RoomId, user: UserId, at: Timestamp) -> Result<u64> {
    for _ in 0..ATTEMPTS {
        let (end, read) = try_join!(end(connection, room), last_mark(connection, room, user))?;
        let Some((end, last_at)) = end.filter(|(end, _)| *end > read) else { return Ok(0) };
        let own = tallies::posted_by(connection, user, room, read, end);
        let (own, deleted) = try_join!(own, deleted_between(connection, room, read, end, Some(user)))?;
        let unread = (end.0 - read.0).saturating_sub(own).saturating_sub(deleted);
        let mark = ReadMark { user, up_to: end, read_at: at.max(last_at) };
        if unread == 0 || connection.add(&connection.marks, &documents::from_read_mark(room, read, &mark)).await? {
            return Ok(unread);
        }
    }
    Err(StoreError::Unavailable(format!("user {user} marks room {room} as read from many places at once")))
}

/// How far the user has read.
async fn last_mark(connection: &Connection, room: RoomId, user: UserId) -> Result<Seq> {
    let last =
        connection.marks.find_one(doc! { "chatRoomId": room.to_string(), "readByUserId": user.to_string() }).sort(doc! { "upToSeq": -1 });
    let read = connection.one(last, documents::read_mark).await?;
    Ok(read.map(|mark| mark.up_to).unwrap_or_default())
}

pub async fn read_marks(connection: &Connection, room: RoomId, readers: &[UserId], first: Seq, last: Seq) -> Result<Vec<ReadMark>> {
    let readers: Vec<_> = readers.iter().map(ToString::to_string).collect();
    let of_readers = |up_to: Document| doc! { "chatRoomId": room.to_string(), "readByUserId": { "$in": &readers }, "upToSeq": up_to };
    let within = async {
        if first == last {
            return Ok(Vec::new());
        }
        let within = of_readers(doc! { "$gte": number(first.0), "$lt": number(last.0) });
        connection.all(connection.marks.find(within), documents::read_mark).await
    };
    // One step in the index per reader, however many marks come later.
    let first_behind = connection.marks.aggregate([
        doc! { "$match": of_readers(doc! { "$gte": number(last.0) }) },
        doc! { "$sort": { "chatRoomId": 1, "readByUserId": 1, "upToSeq": 1 } },
        doc! { "$group": {
            "_id": "$readByUserId",
            "readByUserId": { "$first": "$readByUserId" },
            "upToSeq": { "$first": "$upToSeq" },
            "readAt": { "$first": "$readAt" },
        } },
    ]);
    let (mut marks, behind) = try_join!(within, connection.all(first_behind, documents::read_mark))?;
    marks.extend(behind);
    marks.sort_unstable_by_key(|mark| (mark.user, mark.up_to));
    Ok(marks)
}
