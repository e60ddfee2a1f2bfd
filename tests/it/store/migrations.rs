//! SQLite files of earlier versions.

use causerie::{
    model::{EntryKind, Seq},
    store::NewEntryKind,
};

use crate::support::{
    databases::{Database, Kind},
    entries::{edit, log, placed},
    store::{append, change, room, user, user_id},
};

#[tokio::test]
async fn a_database_without_room_changes_is_migrated() {
    let database = Database::new(Kind::Sqlite).await;
    let file = rusqlite::Connection::open(database.url.strip_prefix("sqlite:").unwrap()).unwrap();
    file.execute_batch(include_str!(
        "../../../src/store/sqlite/migrations/0001_initial.sql"
    ))
    .unwrap();
    file.execute_batch(include_str!(
        "../../../src/store/sqlite/migrations/0002_accounts.sql"
    ))
    .unwrap();
    let old = room(100, &[1, 2]);
    let hex = |byte: u8| format!("{byte:02x}").repeat(16);
    let both = format!("x'{}{}'", hex(1), hex(2));
    let [room_id, one, two] = [100, 1, 2].map(|byte| format!("x'{}'", hex(byte)));
    file.execute_batch(&format!(
        "PRAGMA application_id = 0x43617573; PRAGMA user_version = 2;
         INSERT INTO rooms VALUES ({room_id}, 'consumer-to-consumer', {one}, {both}, x'00', 5000);
         INSERT INTO heads VALUES ({room_id}, 2, 10002, x'00000000000000000000000000000002');
         INSERT INTO memberships VALUES ({one}, {room_id}, 0, 2, NULL), ({two}, {room_id}, 0, 0, NULL);
         INSERT INTO entries VALUES ({room_id}, 1, x'00000000000000000000000000000001', {one}, NULL, 10001);
         INSERT INTO entries VALUES ({room_id}, 2, x'00000000000000000000000000000002', {one}, 'old', 10002);"
    ))
    .unwrap();
    drop(file);
    let store = database.open().await;
    store.accounts.add(user(1), None).await.unwrap();
    assert_eq!(
        store.rooms.find(old.id).await.unwrap().as_deref(),
        Some(&old)
    );
    assert_eq!(
        append(&store, change(&old, 1, edit(2, "new"))).await,
        placed(3, 10_002)
    );
    assert_eq!(
        append(&store, change(&old, 1, NewEntryKind::AddMember(user_id(3)))).await,
        placed(4, 10_002)
    );
    assert!(matches!(
        log(&store, &old).await[0].what,
        EntryKind::Deleted(_)
    ));
    let unread = store.read_marks.unread(user_id(2), None).await.unwrap();
    assert_eq!((unread[0].unread, unread[0].last_seq), (1, Seq(4)));
}
