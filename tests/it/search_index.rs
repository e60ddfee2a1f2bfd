//! The search index: matches in different scripts, how it follows the messages, and how the index
//! of an earlier version is rebuilt.

use std::{sync::Arc, time::Instant};

use causerie::{
    model::{MessageId, Room},
    store::{NewEntryKind, Search, Store},
};
use mongodb::bson::{Document, doc};
use rstest_reuse::apply;
use tempfile::TempDir;

use crate::{
    databases::{Database, Kind},
    each_deployment, each_store,
    harness::{PATIENCE, Program},
    store::{append, change, delete, room, user, user_id},
    store_search::{found, in_room, in_rooms_of, numbers, says, with_room},
};

/// A text, words that find it, and words that do not.
type Line = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const LINES: &[Line] = &[
    (
        "我家在上海东边。",
        &["上海", "海", "上海东边", "我家 上海", "上海东边。"],
        &["海上", "上东", "北京", "上海西"],
    ),
    (
        "上有天堂，海内存知己，海东",
        &["海东", "海"],
        &["上海", "上海东"],
    ),
    (
        "東京タワーへ行きました",
        &["東京", "タワー", "京タ", "行き", "た", "ﾀﾜｰ"],
        &["タワ東", "京都", "ダワー"],
    ),
    (
        "カキクケコ がぎぐげご",
        &["ｶｷ", "か\u{3099}き\u{3099}"],
        &["ガギ", "かき"],
    ),
    (
        "ผมอยู่กรุงเทพมหานคร",
        &["กรุงเทพ", "อยู่", "มหานคร", "ก"],
        &["เชียงใหม่", "เทพกรุง"],
    ),
    ("ม้าตัวใหญ่", &["ม้า", "ใหญ่"], &["มา", "ไหญ่"]),
    ("ຂ້ອຍຢູ່ນະຄອນຫຼວງວຽງຈັນ", &["ວຽງຈັນ", "ນະຄອນ"], &["ຫຼວງພະບາງ"]),
    (
        "ខ្ញុំរស់នៅក្នុងទីក្រុងភ្នំពេញ",
        &["ភ្នំពេញ", "ទីក្រុង", "ភ្នំ\u{200b}ពេញ"],
        &["សៀមរាប"],
    ),
    ("ကျွန်တော် ရန်ကုန်မြို့မှာ နေပါတယ်", &["ရန်ကုန်", "မြို့"], &["မန္တလေး"]),
    (
        "저는 서울에서 살아요 ㅋㅠㅠ",
        &[
            "서울",
            "서울에서",
            "울에",
            "살아",
            "ㅠㅠ",
            "\u{1109}\u{1165}울",
        ],
        &["부산", "서에"],
    ),
    (
        "हिन्दी में किताब",
        &["हिन्दी", "किताब"],
        &["हिनदी", "कताब", "हिन"],
    ),
    ("தமிழ் மொழி", &["தமிழ்"], &["தமழ"]),
    ("مُحَمَّد في الأردن کتاب", &["محمد", "الاردن", "كتاب"], &["حمد"]),
    ("שָׁלוֹם עולם", &["שלום", "עולם"], &["שלו"]),
    (
        "Die Straße nach Gießen",
        &["STRASSE", "strasse", "STRAẞE", "giessen"],
        &["strase"],
    ),
    (
        "İstanbul'da ışık var",
        &["istanbul", "ISTANBUL", "ısik", "IŞIK", "işık"],
        &["stanbul"],
    ),
    (
        "Ὀδυσσεύς ὁδός",
        &["ΟΔΥΣΣΕΥΣ", "οδυσσευς", "ΟΔΌΣ"],
        &["οδυσσευ"],
    ),
    (
        "Ёлка, май и мой чай",
        &["елка", "ЁЛКА", "май", "чай"],
        &["маи", "мои"],
    ),
    ("Київ і Львів", &["київ", "КИЇВ"], &["киив"]),
    (
        "Łódź, Đà Nẵng, Ærø, cœur",
        &["lodz", "da nang", "aero", "coeur", "ŁÓDŹ"],
        &["odz"],
    ),
    (
        "Crème brûlée à la carte ﬁn",
        &["creme", "BRULEE", "cre\u{300}me", "fin", "ﬁn"],
        &["crem"],
    ),
    (
        "Ｆｕｌｌ ｗｉｄｔｈ １２３",
        &["full", "width", "123"],
        &["12"],
    ),
    (
        "soft\u{ad}hyphen zero\u{200b}width",
        &["softhyphen", "zero", "width"],
        &["soft", "zerowidth"],
    ),
    (
        "iPhone手机3月开卖ABC",
        &["iphone", "手机", "3月", "开卖 abc", "IPHONE手机"],
        &["手 phone", "机手"],
    ),
    ("gut gemacht 👍🏽!", &["👍", "👍🏽", "gemacht👍"], &["👍🏿", "👎"]),
    ("plain 👎 done", &["👎"], &["👎🏽"]),
    ("family 👨‍👩‍👧 here", &["👨‍👩‍👧"], &["👨‍👩‍👦", "👩‍👧"]),
    ("I ❤️ you", &["❤", "❤️", "❤\u{fe0e}"], &["💔"]),
    ("flags 🇩🇪🇫🇷", &["🇩🇪", "🇫🇷"], &["🇪🇫", "🇩🇰"]),
    ("🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏳️‍🌈", &["🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏳‍🌈", "🏳️‍🌈"], &["🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🏳️"]),
    ("press 1️⃣ now", &["1️⃣", "1\u{20e3}", "press"], &["2️⃣"]),
];

#[apply(each_deployment)]
#[tokio::test]
async fn words_are_found_in_every_script_before_they_are_indexed_and_after(kind: Kind) {
    let database = Database::new(kind).await;
    let texts: Vec<_> = LINES.iter().map(|(text, ..)| *text).collect();
    let (store, room) = with_room(&database, &texts).await;
    for state in ["not indexed", "indexed"] {
        for ((text, present, absent), n) in LINES.iter().zip(1_u64..) {
            for scope in [in_room(&room), in_rooms_of(user_id(1))] {
                for words in *present {
                    assert!(
                        numbers(&store, scope, words).await.contains(&n),
                        "{words} in {text} ({state})"
                    );
                }
                for words in *absent {
                    assert!(
                        !numbers(&store, scope, words).await.contains(&n),
                        "{words} in {text} ({state})"
                    );
                }
            }
        }
        database.indexed().await;
    }
}

/// Returns `count` different words of three letters, or of four if `seed` is not 0.
fn many_words(count: usize, seed: usize) -> String {
    let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
    let long = if seed == 0 { "" } else { "z" };
    (0..count)
        .flat_map(|n| {
            format!("{}{}{}{long} ", letter(n), letter(n / 26), letter(n / 676))
                .chars()
                .collect::<Vec<_>>()
        })
        .collect()
}

#[apply(each_store)]
#[tokio::test]
async fn a_message_of_very_many_words_keeps_nothing_from_being_found(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_room(&database, &["before them"]).await;
    let text = many_words(17_576, 0) + &many_words(7_824, 1);
    for n in 2..=61 {
        store.append(vec![says(&room, n, &text)]).await.unwrap();
    }
    append(&store, says(&room, 100, "behind them 上海")).await;
    for _ in 0..2 {
        for (words, expected) in [
            ("behind", vec![100]),
            ("before", vec![1]),
            ("海", vec![100]),
            ("them", vec![100, 1]),
        ] {
            assert_eq!(
                numbers(&store, in_rooms_of(user_id(2)), words).await,
                expected,
                "{words}"
            );
        }
        assert_eq!(
            numbers(&store, in_room(&room), "aaa baa").await.len(),
            60,
            "the first words of each"
        );
        assert_eq!(
            numbers(&store, in_room(&room), "zzz").await,
            [0_u64; 0],
            "which is behind those that count"
        );
        database.indexed().await;
    }
    if kind == Kind::Sqlite {
        let size = "SELECT sum(length(term) + length(seqs) + 12) FROM search_postings";
        let size: usize = database
            .file()
            .query_row(size, [], |row| row.get(0))
            .unwrap();
        assert!(size < 60 * text.len() / 4, "{size} bytes are indexed");
    } else {
        let database = database.documents().await;
        let most = doc! { "_id": { "$gt": "" }, "terms.2000": { "$exists": true } };
        assert_eq!(
            database
                .collection::<Document>("chatmessages")
                .count_documents(most)
                .await
                .unwrap(),
            0
        );
    }
    let edit = |n: u64, text: &str| {
        let message = MessageId::from_bytes(u128::from(n).to_be_bytes());
        change(
            &room,
            1,
            NewEntryKind::Edit {
                message,
                text: text.into(),
            },
        )
    };
    store
        .append((2..=31).map(|n| edit(n, "short now")).collect())
        .await
        .unwrap();
    for n in 32..=61 {
        assert!(delete(&store, &room, n).await);
    }
    for _ in 0..2 {
        assert_eq!(numbers(&store, in_room(&room), "aaa").await, [0_u64; 0]);
        assert_eq!(
            numbers(&store, in_room(&room), "now").await,
            (2..=31).rev().collect::<Vec<_>>()
        );
        database.indexed().await;
    }
    if kind == Kind::Sqlite {
        let left =
            "SELECT count(*) FROM search_postings WHERE length(term) = 3 AND term NOT IN ('now')";
        assert_eq!(
            database
                .file()
                .query_row(left, [], |row| row.get::<_, i64>(0))
                .unwrap(),
            0
        );
    }
    store.delete_room(room.id).await.unwrap();
    if kind == Kind::Sqlite {
        database.indexed().await;
        let left = "SELECT count(*) FROM search_postings";
        assert_eq!(
            database
                .file()
                .query_row(left, [], |row| row.get::<_, i64>(0))
                .unwrap(),
            0
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn a_search_of_what_is_nowhere_ends_however_much_there_is(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_room(&database, &["left and right", "上海东"]).await;
    let text = |n| ["left", "right", "上海和海东"][usize::try_from(n % 3).unwrap()];
    for n in (3..=7_000_u64).step_by(500) {
        store
            .append((n..n + 500).map(|n| says(&room, n, text(n))).collect())
            .await
            .unwrap();
    }
    for _ in 0..2 {
        for scope in [in_room(&room), in_rooms_of(user_id(1))] {
            assert_eq!(found(&store, scope, "left right", None, 5).await.len(), 1);
            assert_eq!(found(&store, scope, "上海东", None, 5).await.len(), 1);
            assert_eq!(found(&store, scope, "nothing", None, 5).await.len(), 0);
        }
        database.indexed().await;
    }
}

#[tokio::test]
async fn a_search_waits_for_nobody_who_writes() {
    let database = Database::new(Kind::Sqlite).await;
    let (store, room) = with_room(&database, &["first"]).await;
    let file = database.file();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let search = Search {
        scope: in_room(&room),
        words: "first".into(),
        before: None,
        limit: 10,
    };
    let found = tokio::time::timeout(PATIENCE / 8, store.search(search))
        .await
        .expect("it waits")
        .unwrap();
    assert_eq!(found.messages.len(), 1);
    file.execute_batch("ROLLBACK").unwrap();
}

/// The number of messages in a database of an earlier version.
const OLD: u64 = 3_000;
/// The number of rooms in it.
const OLD_ROOMS: u8 = 20;

/// Returns a database as an earlier version left it, with an index that holds other words.
async fn of_earlier_version(kind: Kind) -> (Database, Vec<Room>) {
    let new = Database::new(kind).await;
    let store = new.open().await;
    store.add_user(user(1), None).await.unwrap();
    let rooms: Vec<_> = (0..OLD_ROOMS)
        .map(|n| room(100 + n, &[1, 50 + n]))
        .collect();
    for room in &rooms {
        store.find_or_add_room(room.clone()).await.unwrap();
    }
    for n in (1..=OLD).step_by(500) {
        let batch = (n..n + 500).map(|n| {
            says(
                &rooms[usize::try_from(n).unwrap() % rooms.len()],
                n,
                &format!("message {n} 我家在上海"),
            )
        });
        store.append(batch.collect()).await.unwrap();
    }
    store.close().await;
    if kind == Kind::Sqlite {
        (file_of_version_5(&new).await, rooms)
    } else {
        (on_version_1(new).await, rooms)
    }
}

/// Copies the rows into a file with the schema of version 5, and indexes them as that version did.
async fn file_of_version_5(new: &Database) -> Database {
    let old = Database::new(Kind::Sqlite).await;
    let file = old.file();
    for step in [
        include_str!("../../src/store/sqlite/schema.sql"),
        include_str!("../../src/store/sqlite/accounts.sql"),
        include_str!("../../src/store/sqlite/sessions.sql"),
        include_str!("../../src/store/sqlite/changes.sql"),
        include_str!("../../src/store/sqlite/sigma.sql"),
    ] {
        file.execute_batch(step).unwrap();
    }
    file.execute(
        "ATTACH ? AS new",
        [new.url.strip_prefix("sqlite:").unwrap()],
    )
    .unwrap();
    for table in ["users", "rooms", "heads", "memberships", "entries"] {
        let columns = "SELECT group_concat(name) FROM pragma_table_info(?)";
        let columns: String = file.query_row(columns, [table], |row| row.get(0)).unwrap();
        file.execute(
            &format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}"),
            [],
        )
        .unwrap();
    }
    file.execute_batch(
        "INSERT INTO search_numbers (number, room, seq) SELECT row_number() OVER (ORDER BY created_at, id), room, seq FROM entries;
         INSERT INTO search_rooms (room, indexed) SELECT room, last_seq FROM heads;
         INSERT INTO search (rowid, words) SELECT number, text || ' ¤' || lower(hex(room)) FROM search_numbers JOIN entries USING (room, seq);
         PRAGMA application_id = 0x43617573; PRAGMA user_version = 5;",
    )
    .unwrap();
    old
}

async fn on_version_1(database: Database) -> Database {
    let raw = database.documents().await;
    let (notes, rooms) = (
        raw.collection::<Document>("causerie"),
        raw.collection::<Document>("chatrooms"),
    );
    let messages = raw.collection::<Document>("chatmessages");
    notes
        .update_one(
            doc! { "_id": "schema" },
            doc! { "$set": { "version": 1_i64 } },
        )
        .await
        .unwrap();
    notes.delete_one(doc! { "_id": "search" }).await.unwrap();
    messages.drop_index("byTerm").await.unwrap();
    rooms.drop_index("unfinished").await.unwrap();
    let as_it_was = doc! { "$unset": { "search": "" }, "$set": { "searchSeq": i64::try_from(OLD).unwrap() / i64::from(OLD_ROOMS) } };
    rooms
        .update_many(doc! { "_id": { "$gt": "" } }, as_it_was)
        .await
        .unwrap();
    let words = vec![
        doc! { "$set": { "words": { "$split": ["$message.messageText", " "] } } },
        doc! { "$unset": "terms" },
    ];
    messages
        .update_many(doc! { "_id": { "$gt": "" } }, words)
        .await
        .unwrap();
    let by_word = doc! { "key": { "chatRoomId": 1, "words": 1, "createdAt": -1, "_id": -1 }, "name": "byWord",
    "partialFilterExpression": { "words": { "$exists": true } } };
    raw.run_command(doc! { "createIndexes": "chatmessages", "indexes": [by_word] })
        .await
        .unwrap();
    database
}

/// Checks that nothing is left of the earlier index.
async fn former_index_is_gone(database: &Database) {
    if database.url.starts_with("sqlite:") {
        let left = "SELECT count(*) FROM sqlite_schema WHERE name = 'search' OR name LIKE 'search\\_data' ESCAPE '\\' OR name = 'search_numbers'";
        assert_eq!(
            database
                .file()
                .query_row(left, [], |row| row.get::<_, i64>(0))
                .unwrap(),
            0
        );
        let health: String = database
            .file()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(health, "ok");
    } else {
        let messages = database
            .documents()
            .await
            .collection::<Document>("chatmessages");
        assert!(
            !messages
                .list_index_names()
                .await
                .unwrap()
                .contains(&"byWord".to_owned())
        );
        assert_eq!(
            messages
                .count_documents(doc! { "_id": { "$gt": "" }, "words": { "$exists": true } })
                .await
                .unwrap(),
            0
        );
    }
}

#[apply(each_store)]
#[tokio::test]
async fn an_earlier_index_is_made_anew_while_people_search(kind: Kind) {
    let (database, rooms) = of_earlier_version(kind).await;
    let store = database.open().await;
    let everywhere = in_rooms_of(user_id(1));
    // New messages are found at once, wherever they are, and deleted ones are not.
    for (room, n) in rooms.iter().zip(OLD + 1..) {
        append(&store, says(room, n, "a new message 上海")).await;
    }
    let new: Vec<u64> = (OLD + 1..=OLD + u64::from(OLD_ROOMS)).rev().collect();
    assert_eq!(numbers(&store, everywhere, "new 上海").await, new);
    let last = |n: u64| &rooms[usize::try_from(n).unwrap() % rooms.len()];
    assert!(delete(&store, last(7), 7).await);
    let message = MessageId::from_bytes(u128::from(8_u64).to_be_bytes());
    append(
        &store,
        change(
            last(8),
            1,
            NewEntryKind::Edit {
                message,
                text: "something else 上海".into(),
            },
        ),
    )
    .await;
    let beside = if kind == Kind::Sqlite {
        None
    } else {
        Some(database.open().await)
    };
    database.indexed().await;
    former_index_is_gone(&database).await;
    for store in [Some(&store), beside.as_ref()].into_iter().flatten() {
        assert_eq!(
            found(store, everywhere, "上海", None, 5_000).await.len() as u64,
            OLD + u64::from(OLD_ROOMS) - 1
        );
        assert_eq!(
            found(store, everywhere, "message", None, 5_000).await.len() as u64,
            OLD + u64::from(OLD_ROOMS) - 2
        );
        for n in [1, 250, 1_234, OLD] {
            assert_eq!(numbers(store, everywhere, &n.to_string()).await, [n]);
            assert_eq!(
                numbers(store, in_room(last(n)), &format!("{n} 海")).await,
                [n]
            );
        }
        assert_eq!(numbers(store, everywhere, "7").await, [0_u64; 0]);
        assert_eq!(numbers(store, everywhere, "something 海").await, [8]);
    }
}

#[apply(each_store)]
#[tokio::test]
async fn making_the_index_anew_survives_kills(kind: Kind) {
    let (database, rooms) = of_earlier_version(kind).await;
    let folder = TempDir::new().unwrap();
    let settings = [("CAUSERIE_DATABASE", database.url.as_str())];
    let mut before = 0;
    for _ in 0..3 {
        let program = Program::start(folder.path(), &settings);
        let deadline = Instant::now() + PATIENCE;
        while before == rows_indexed(&database).await {
            assert!(
                Instant::now() < deadline,
                "nothing is indexed; log: {}",
                program.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            if rows_indexed(&database).await >= OLD {
                break;
            }
        }
        program.kill();
        before = rows_indexed(&database).await;
    }
    let store = database.open().await;
    append(&store, says(&rooms[0], OLD + 1, "a new message 上海")).await;
    assert_eq!(
        numbers(&store, in_rooms_of(user_id(1)), "new").await,
        [OLD + 1]
    );
    database.indexed().await;
    former_index_is_gone(&database).await;
    assert_eq!(
        found(&store, in_rooms_of(user_id(1)), "上海", None, 5_000)
            .await
            .len() as u64,
        OLD + 1
    );
    let store: Arc<dyn Store> = store;
    store.close().await;
}

/// Returns how many old entries are indexed.
async fn rows_indexed(database: &Database) -> u64 {
    if database.url.starts_with("sqlite:") {
        let indexed = "SELECT coalesce(sum(up_to - above), 0) FROM search_logs";
        return database
            .file()
            .query_row(indexed, [], |row| row.get(0))
            .unwrap_or_default();
    }
    let messages = database
        .documents()
        .await
        .collection::<Document>("chatmessages");
    messages
        .count_documents(doc! { "_id": { "$gt": "" }, "terms": { "$exists": true } })
        .await
        .unwrap()
}
