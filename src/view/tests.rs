use super::*;

#[test]
fn a_message_is_read_in_the_first_mark_that_covers_it() {
    let [alice, bob, carol] = [1, 2, 3].map(|n| UserId::from_bytes([n; 16]));
    let message = Message {
        id: MessageId::from_bytes([9; 16]),
        room: RoomId::from_bytes([8; 16]),
        seq: Seq(5),
        author: alice,
        text: "hello".into(),
        created_at: Timestamp(50),
        edited_at: None,
        client_id: None,
    };
    let mark = |user, up_to, read_at| ReadMark {
        user,
        up_to: Seq(up_to),
        read_at: Timestamp(read_at),
    };
    let marks = [
        mark(alice, 6, 60),
        mark(bob, 4, 55),
        mark(bob, 6, 70),
        mark(bob, 9, 90),
        mark(carol, 5, 60),
    ];
    let reader = |id, at| Reader {
        read_by_user_id: id,
        read_at: Timestamp(at),
    };
    assert_eq!(
        readers(&message, &marks),
        [reader(alice, 50), reader(carol, 60), reader(bob, 70)]
    );
}
