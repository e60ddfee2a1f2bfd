//! The migrations of the database's schema.
//!
//! The version of a database is the number of migrations that were applied to it. SQLite stores it
//! as `user_version`. A new database has version 0 and gets all migrations.

use rusqlite::{Connection, Result};

/// The `application_id` that identifies our database files: "Caus" in ASCII.
pub const APPLICATION_ID: i64 = 0x4361_7573;

/// The migrations, in order.
///
/// To change the schema, add a file with the next number and list it here. Never change a statement
/// of an existing migration.
const MIGRATIONS: [&str; 6] = [
    include_str!("0001_initial.sql"),
    include_str!("0002_accounts.sql"),
    include_str!("0003_sessions.sql"),
    include_str!("0004_edits_members_search_presence.sql"),
    include_str!("0005_reindex_final_sigma.sql"),
    include_str!("0006_search_terms.sql"),
];

/// The version of the schema that this program uses.
pub const CURRENT_VERSION: usize = MIGRATIONS.len();

/// Returns the application id and the version of the database.
pub fn application_and_version(connection: &Connection) -> Result<(i64, i64)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}

/// Returns the migrations to apply to a database of this version; `None` if a newer program wrote
/// it.
pub fn pending(version: i64) -> Option<&'static [&'static str]> {
    MIGRATIONS.get(usize::try_from(version).ok()?..)
}

/// Applies the [`pending`] migrations in one transaction.
pub fn apply(connection: &Connection, pending: &[&str]) -> Result<()> {
    if pending.is_empty() {
        return Ok(());
    }
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {CURRENT_VERSION}; COMMIT;",
        pending.concat()
    ))
}
