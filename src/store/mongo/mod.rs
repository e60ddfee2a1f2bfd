//! The store for production: MongoDB, shared by any number of servers.
//!
//! A write is on disk on the majority before it is announced, and reads see only such writes. There
//! are no transactions, because a standalone MongoDB server has none: each method is either one
//! atomic change of one document, or a sequence of repeatable steps.
//!
//! The files, from the bottom up; each imports only from files above it in this list:
//!
//! - [`failure`] classifies the errors of the driver. [`documents`], [`entries`] and [`records`]
//!   define the document format.
//! - [`pending`] holds the effects of entries that could not be applied yet. [`connection`] talks
//!   to the database.
//! - [`indexes`] builds the indexes, and [`lease`] lets one server at a time do something.
//! - [`read`] and [`joined`] are the queries that several files need, and [`author_counts`] the
//!   stored numbers of entries per author.
//! - [`changes`] builds the updates for the effects of entries, and [`effects`] sends them.
//!   [`heads`] reads where the logs end.
//! - [`checks`], [`activity`], [`existing_entries`] and [`insert`] are the steps of appending a
//!   [`batch`], which the [`appender`] retries.
//! - [`deleted_rooms`] purges the data of deleted rooms, [`search_index`] indexes messages, and
//!   [`unread`] counts unread messages.
//! - [`legacy_import`] imports the data of the original application, and [`schema`] runs the
//!   migrations.
//! - [`background`] runs the tasks of a store, and [`store`] opens it.
//! - The traits are implemented in one file per noun: [`users`], [`sessions`], [`rooms`],
//!   [`memberships`], [`log`], [`history`] with [`recents`], [`read_marks`], [`search`],
//!   [`database`], [`export`], [`import`] and [`check`].
//!
//! In a sharded cluster, `chatmessages` can be sharded by `{chatRoomId: 1, seq: 1}` and `readmarks`
//! by `{chatRoomId: 1}`.

mod activity;
mod appender;
mod author_counts;
mod background;
mod batch;
mod changes;
mod check;
mod checks;
mod connection;
mod database;
mod deleted_rooms;
mod documents;
mod effects;
mod entries;
mod existing_entries;
mod export;
mod failure;
mod heads;
mod history;
mod import;
mod indexes;
mod insert;
mod joined;
mod lease;
mod legacy_import;
mod log;
mod memberships;
mod pending;
mod read;
mod read_marks;
mod recents;
mod records;
mod rooms;
mod schema;
mod search;
mod search_index;
mod sessions;
mod store;
mod unread;
mod users;

pub use store::Mongo;
