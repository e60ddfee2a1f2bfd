//! The number of unread messages.

use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{databases::Kind, harness::TestServer, person::Person},
};

#[tokio::test]
async fn own_and_deleted_messages_are_never_unread() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let quiet = alice.named_room("quiet", &[&bob]).await;
    let one = alice.says(&room, "one").await;
    bob.says(&room, "two").await;
    let three = alice.says(&room, "three").await;
    alice.says(&quiet, "hush").await;
    let mut expected = vec![(room.clone(), 2, 3), (quiet.clone(), 1, 1)];
    expected.sort();
    assert_eq!(bob.unread().await, (3, expected));
    let counts = async |person: &Person| {
        let recents = person.recents("").await;
        recents
            .iter()
            .map(|room| {
                (
                    room["unreadCount"].as_u64().unwrap(),
                    room["lastSeq"].as_u64().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(&bob).await, [(1, 1), (2, 3)]);
    assert_eq!(counts(&alice).await, [(0, 1), (1, 3)]);
    alice.deletes(&one["postId"]).await;
    assert_eq!(bob.unread().await.0, 2);
    bob.marks_up_to(&room, json!(3)).await.ok();
    alice.deletes(&three["postId"]).await;
    assert_eq!(bob.unread().await, (1, vec![(quiet.clone(), 1, 1)]));
    assert_eq!(counts(&bob).await, [(1, 1), (0, 5)]);
    bob.says(&room, "own").await;
    assert_eq!(bob.unread().await.0, 1);
    server.delete(&format!("/delete/room/{quiet}")).await.ok();
    assert_eq!(bob.unread().await, (0, vec![]));
}

#[tokio::test]
async fn messages_from_before_joining_are_not_unread() {
    let server = TestServer::start(Kind::Sqlite).await;
    let [alice, bob, carol] = [
        server.person("Alice").await,
        server.person("Bob").await,
        server.person("Carol").await,
    ];
    let room = alice.named_room("room", &[&bob]).await;
    for n in 1..=3 {
        alice.says(&room, &n.to_string()).await;
    }
    alice.adds(&room, &[&carol]).await.ok();
    assert_eq!(carol.unread().await, (0, vec![]));
    alice.says(&room, "welcome").await;
    assert_eq!(carol.unread().await, (1, vec![(room.clone(), 1, 5)]));
    assert_eq!(carol.recents("").await[0]["unreadCount"], 1);
    assert_eq!(carol.marks_read(&room).await, 1);
    assert_eq!(bob.unread().await.0, 4);
    alice.removes(&room, &carol).await.ok();
    alice.says(&room, "behind her back").await;
    assert_eq!(carol.unread().await, (0, vec![]));
    alice.adds(&room, &[&carol]).await.ok();
    assert_eq!(
        carol.unread().await,
        (0, vec![]),
        "what was said while she was away is not unread"
    );
    alice.says(&room, "welcome back").await;
    assert_eq!(carol.unread().await, (1, vec![(room.clone(), 1, 9)]));
}

#[apply(each_store)]
#[tokio::test]
async fn unread_counts_are_exact_under_concurrent_changes(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let tasks: Vec<_> = (0..4)
        .map(|n| {
            let (person, room) = ([&alice, &bob][n % 2].clone(), room.clone());
            tokio::spawn(async move {
                for k in 0..40_u64 {
                    let post = person.says(&room, &format!("{n}:{k}")).await;
                    match k % 7 {
                        2 => _ = person.deletes(&post["postId"]).await,
                        5 => {
                            _ = person
                                .marks_up_to(
                                    &room,
                                    json!(post["seq"].as_u64().unwrap().saturating_sub(k)),
                                )
                                .await
                                .ok();
                        }
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let body = alice.get(&format!("/room/{room}?limit=500")).await.ok();
    let messages = body["conversation"].as_array().unwrap();
    for person in [&alice, &bob] {
        let has_read = |message: &&Value| {
            message["readByRecipients"]
                .as_array()
                .unwrap()
                .iter()
                .any(|reader| reader["readByUserId"] == *person.id)
        };
        let unread = messages.len() as u64 - messages.iter().filter(has_read).count() as u64;
        assert!(unread > 0);
        assert_eq!(
            person.unread().await,
            (
                unread,
                vec![(room.clone(), unread, body["lastSeq"].as_u64().unwrap())]
            )
        );
        assert_eq!(person.recents("").await[0]["unreadCount"], unread);
        assert_eq!(person.marks_read(&room).await, unread);
        assert_eq!(person.unread().await.0, 0);
    }
}
