//! The contract of the store about read marks and unread messages.

use causerie::{
    model::{ReadMark, Seq, Timestamp, UserId},
    store::{Marked, Unread},
};
use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        store::{delete, draft, mark_read, room, user_id, with_messages},
    },
};

#[apply(each_deployment)]
#[tokio::test]
async fn read_marks_count_messages_and_store_the_time(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 10).await;
    let (one, two) = (user_id(1), user_id(2));
    delete(&store, &room, 3).await;
    assert_eq!(
        mark_read(&store, &room, two, 20_100).await,
        4,
        "1, 5, 7 and 9"
    );
    assert_eq!(mark_read(&store, &room, two, 20_200).await, 0);
    store.log.append(vec![draft(&room, 2, 11)]).await.unwrap();
    assert_eq!(mark_read(&store, &room, two, 20_300).await, 0, "one's own");
    store
        .log
        .append(vec![draft(&room, 1, 12), draft(&room, 1, 13)])
        .await
        .unwrap();
    assert_eq!(mark_read(&store, &room, two, 20_400).await, 2);
    assert_eq!(mark_read(&store, &room, one, 5).await, 6);
    // The clock of user 1 is behind: a message is never read before it was written.
    let mark = |user, up_to, at| ReadMark {
        user,
        up_to: Seq(up_to),
        read_at: Timestamp(at),
    };
    let marks = async |readers: &[UserId], first, last| {
        store
            .read_marks
            .between(room.id, readers, Seq(first), Seq(last))
            .await
            .unwrap()
    };
    let all = [
        mark(one, 14, 10_013),
        mark(two, 11, 20_100),
        mark(two, 12, 20_300),
        mark(two, 14, 20_400),
    ];
    assert_eq!(marks(&[one, two], 1, 14).await, all);
    assert_eq!(
        marks(&[two], 1, 11).await,
        all[1..2],
        "later marks say nothing about this page"
    );
    assert_eq!(marks(&[two], 13, 13).await, all[3..]);
    assert_eq!(marks(&[two], 15, 20).await, []);
}

#[apply(each_deployment)]
#[tokio::test]
async fn read_marks_count_long_ranges_exactly(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.open().await;
    let room = room(100, &[1, 2, 3]);
    store.rooms.find_or_add(room.clone()).await.unwrap();
    // The author of each message, in runs of uneven length.
    let author = |n: u64| u8::try_from(1 + n * n % 7 % 3).unwrap();
    let mut end = 0;
    let mut gone = Vec::new();
    let mut read = [0; 4];
    for (reader, up_to) in [
        (1, 300),
        (2, 999),
        (3, 1_000),
        (1, 1_001),
        (2, 3_500),
        (1, 3_600),
        (3, 3_999),
        (3, 4_000),
        (2, 4_000),
    ] {
        let news: Vec<_> = (end + 1..=up_to)
            .map(|n| draft(&room, author(n), n))
            .collect();
        for some in news.chunks(200) {
            store.log.append(some.to_vec()).await.unwrap();
        }
        for n in (end + 1..=up_to).filter(|n| n % 501 == 0) {
            assert!(delete(&store, &room, n).await);
            gone.push(n);
        }
        end = up_to;
        let read = &mut read[usize::from(reader)];
        let unread = (*read + 1..=up_to)
            .filter(|n| author(*n) != reader && !gone.contains(n))
            .count();
        let marked = mark_read(&store, &room, user_id(reader), 1).await;
        assert_eq!(
            marked,
            u64::try_from(unread).unwrap(),
            "{reader} read {read}, and now {up_to}"
        );
        *read = up_to;
    }
}

#[apply(each_deployment)]
#[tokio::test]
async fn read_marks_never_move_back(kind: Kind) {
    let database = Database::new(kind).await;
    let (store, room) = with_messages(&database, 10).await;
    let two = user_id(2);
    let read = async |up_to: Option<u64>, at| {
        store
            .read_marks
            .mark_read(room.id, two, up_to.map(Seq), Timestamp(at))
            .await
            .unwrap()
            .unwrap()
    };
    let marked = |became_read, last_read, unread, at: Option<i64>| {
        let mark = at.map(|at| ReadMark {
            user: two,
            up_to: Seq(last_read),
            read_at: Timestamp(at),
        });
        Marked {
            became_read,
            last_read: Seq(last_read),
            unread,
            mark,
        }
    };
    assert_eq!(read(Some(0), 1).await, marked(0, 0, 5, None));
    assert_eq!(
        read(Some(4), 1).await,
        marked(2, 4, 3, Some(10_004)),
        "not before it was written"
    );
    assert_eq!(read(Some(3), 20_000).await, marked(0, 4, 3, None));
    assert_eq!(read(Some(7), 20_001).await, marked(2, 7, 1, Some(20_001)));
    assert_eq!(
        read(Some(8), 20_002).await,
        marked(0, 8, 1, Some(20_002)),
        "one's own"
    );
    assert_eq!(
        read(Some(u64::MAX), 20_003).await,
        marked(1, 10, 0, Some(20_003))
    );
    assert_eq!(read(None, 20_004).await, marked(0, 10, 0, None));
    assert_eq!(
        store.read_marks.unread(user_id(1), None).await.unwrap(),
        [Unread {
            room: room.id,
            unread: 5,
            last_seq: Seq(10)
        }]
    );
}
