//! The contract of the store about search.

use causerie::{
    model::{Message, MessageId, RoomId, Seq, Timestamp},
    store::{NewEntry, NewEntryKind, Scope, Store},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        search::{found, in_room, in_rooms_of, numbers, says, with_room},
        store::{append, change, delete, room, user_id},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn words_are_found_in_any_order_and_without_case_and_accents(kind: Kind) {
    let database = Database::new(kind).await;
    let texts = [
        "Crème brûlée for two",
        "two cats concatenate",
        "a cat, two dogs",
        "BRULEE CREME",
        "e\u{301}te\u{301}",
        "日本 Привет",
        "η οδός",
    ];
    let (store, room) = with_room(&database, &texts).await;
    let of = async |words: &'static str| numbers(&store, in_room(&room), words).await;
    assert_eq!(of("creme").await, [4, 1]);
    assert_eq!(of("BRÛLÉE Creme").await, [4, 1]);
    assert_eq!(of("two brulee").await, [1]);
    assert_eq!(of("two").await, [3, 2, 1]);
    assert_eq!(of("two cat").await, [3], "a part of a word is no word");
    assert_eq!(of("été").await, [5]);
    assert_eq!(of("привет").await, [6]);
    assert_eq!(of("cat two cat two").await, [3]);
    assert_eq!(of("ΟΔΟΣ").await, [7]);
    assert_eq!(of("οδός").await, [7]);
    for nothing in [
        "",
        "  ",
        "?!",
        "nowhere",
        "two nowhere",
        "\0",
        "¤",
        "text",
        "words",
    ] {
        assert_eq!(of(nothing).await, [0_u64; 0], "{nothing:?}");
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn queries_are_never_interpreted_as_expressions(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_room(
        &database,
        &["cat or dog", "near the house", "not a thing", "words rowid"],
    )
    .await;
    let of = async |words: &str| numbers(&store, in_room(&room), words).await;
    for (words, expected) in [
        ("cat OR near", vec![]),
        ("cat AND dog", vec![]),
        ("NEAR(cat dog)", vec![]),
        ("NOT thing", vec![3]),
        ("ca*", vec![]),
        ("^cat", vec![1]),
        ("words:cat", vec![]),
        ("{words rowid} : dog", vec![]),
        ("\"cat", vec![1]),
        ("'; DROP TABLE search; --", vec![]),
        ("$where", vec![]),
        ("-cat", vec![1]),
        ("cat\0dog", vec![1]),
    ] {
        assert_eq!(of(words).await, expected, "{words:?}");
    }
    let letters: Vec<_> = "\"'*^:(){}+-\\, \0$¤.ANDORNTEcat".chars().collect();
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..200 {
        let words: String = (0..random.random_range(0..12))
            .map(|_| letters[random.random_range(0..letters.len())])
            .collect();
        of(&words).await;
    }
    of(&"many words ".repeat(5_000)).await;
    of(&"x".repeat(50_000)).await;
}

#[apply(each_deployment)]
#[tokio::test]
async fn former_texts_of_a_message_are_not_found(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_room(
        &database,
        &["first secret", "second secret", "third secret"],
    )
    .await;
    let of = async |store: &Store, words: &str| numbers(store, in_room(&room), words).await;
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
    // Both before and after the messages are indexed.
    append(&store, edit(1, "something else")).await;
    assert_eq!(of(&store, "secret").await, [3, 2]);
    append(&store, edit(2, "another thing")).await;
    append(&store, edit(1, "secret again")).await;
    assert_eq!(of(&store, "secret").await, [3, 1]);
    assert_eq!(of(&store, "else").await, [0_u64; 0]);
    assert_eq!(of(&store, "thing another").await, [2]);
    database.indexed().await;
    assert_eq!(of(&store, "secret").await, [3, 1]);
    assert_eq!(of(&store, "else").await, [0_u64; 0]);
    append(&store, edit(2, "a third thing")).await;
    append(&store, edit(1, "secret and something else")).await;
    for _ in 0..2 {
        assert_eq!(of(&store, "secret").await, [3, 1]);
        assert_eq!(of(&store, "else").await, [1]);
        assert_eq!(of(&store, "again").await, [0_u64; 0]);
        assert_eq!(of(&store, "another").await, [0_u64; 0]);
        assert_eq!(of(&store, "third thing").await, [2]);
        database.indexed().await;
    }
    delete(&store, &room, 3).await;
    assert_eq!(of(&store, "secret").await, [1]);
    store.database.close().await;
    drop(store);
    let store = database.open().await;
    assert_eq!(of(&store, "secret").await, [1]);
    append(&store, says(&room, 4, "secret too")).await;
    assert_eq!(of(&store, "secret").await, [4, 1]);
    store.rooms.delete(room.id).await.unwrap();
    assert_eq!(
        numbers(&store, in_rooms_of(user_id(1)), "secret").await,
        [0_u64; 0]
    );
}

#[apply(each_deployment)]
#[tokio::test]
async fn search_covers_the_users_rooms_newest_first(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let rooms = [room(1, &[1, 2]), room(2, &[1, 3]), room(3, &[2, 3])];
    for room in &rooms {
        store.rooms.find_or_add(room.clone()).await.unwrap();
    }
    // Several messages with the same time, in rooms that are indexed one after the other, some of
    // them before the others are posted.
    for n in 1..=90 {
        let created_at = Timestamp(10_000 + i64::try_from(n / 4).unwrap());
        let room = &rooms[usize::try_from(n % 3).unwrap()];
        append(
            &store,
            NewEntry {
                created_at,
                ..says(room, n, if n % 2 == 0 { "even word" } else { "odd word" })
            },
        )
        .await;
        if n == 60 {
            database.indexed().await;
        }
    }
    let mut pages: Vec<Message> = Vec::new();
    loop {
        let page = found(&store, in_rooms_of(user_id(1)), "even", pages.last(), 7).await;
        if page.is_empty() {
            break;
        }
        pages.extend(page);
    }
    let room_ids: Vec<RoomId> = rooms[..2].iter().map(|room| room.id).collect();
    assert!(
        pages
            .iter()
            .all(|message| room_ids.contains(&message.room) && message.text == "even word")
    );
    assert_eq!(pages.len(), 30, "each once");
    assert!(pages.is_sorted_by_key(|message| std::cmp::Reverse(message.created_at)));
    let of_room = numbers(&store, in_room(&rooms[2]), "word").await;
    assert_eq!(
        of_room,
        (1..=90).rev().filter(|n| n % 3 == 2).collect::<Vec<u64>>()
    );
    assert_eq!(
        found(&store, in_rooms_of(user_id(1)), "even", None, 0).await,
        []
    );
    // A cursor stays valid when its message is deleted.
    delete(
        &store,
        &rooms[usize::from(pages[3].room == rooms[1].id)],
        u128::from_be_bytes(*pages[3].id.as_bytes())
            .try_into()
            .unwrap(),
    )
    .await;
    assert_eq!(
        found(&store, in_rooms_of(user_id(1)), "even", Some(&pages[3]), 5).await,
        pages[4..9]
    );
    append(
        &store,
        change(&rooms[2], 2, NewEntryKind::AddMember(user_id(1))),
    )
    .await;
    append(&store, says(&rooms[2], 100, "even later")).await;
    let (all, later) = (
        in_rooms_of(user_id(1)),
        Scope::RoomsOf {
            user: user_id(1),
            since_joined: true,
        },
    );
    assert_eq!(numbers(&store, all, "even").await.len(), 45);
    assert_eq!(numbers(&store, later, "even").await.len(), 30);
    assert_eq!(
        numbers(
            &store,
            Scope::Room {
                room: rooms[2].id,
                after: Seq(31)
            },
            "even"
        )
        .await,
        [100]
    );
    append(
        &store,
        change(
            &rooms[2],
            2,
            NewEntryKind::RemoveMember {
                user: user_id(1),
                required_members: Vec::new(),
            },
        ),
    )
    .await;
    assert_eq!(numbers(&store, all, "later").await, [0_u64; 0]);
}
