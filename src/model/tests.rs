use super::*;

#[test]
fn only_the_canonical_form_of_an_id_names_anything() {
    let id = "0199d1f0c0de7aaa8bbbccccddddeeee";
    assert_eq!(
        UserId::parse(id).map(|id| id.to_string()).as_deref(),
        Some(id)
    );
    for wrong in [
        "",
        "nope",
        "0199D1F0C0DE7AAA8BBBCCCCDDDDEEEE",
        "0199d1f0-c0de-7aaa-8bbb-ccccddddeeee",
        &format!("{id}0"),
    ] {
        assert_eq!(UserId::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn the_name_of_a_value_is_its_text_in_json_and_the_only_one_that_is_parsed() {
    for kind in RoomType::ALL {
        let name = kind.as_str();
        assert_eq!(RoomType::parse(name), Some(*kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), name);
        assert_eq!(kind.to_string(), name);
    }
    for wrong in ["", "Consumer", "ConsumerToSupport", "consumer-to-support "] {
        assert_eq!(RoomType::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_sequence_number_does_not_wrap_around() {
    assert_eq!(Seq(7).next(), Seq(8));
    assert_eq!(Seq(7).prev(), Seq(6));
    assert_eq!(Seq(u64::MAX).next(), Seq(u64::MAX));
    assert_eq!(Seq(0).prev(), Seq(0));
}

#[test]
fn a_client_id_is_short_and_printable() {
    for right in ["1", " ", "message 7/ä", &"é".repeat(64)] {
        assert_eq!(
            ClientId::parse(right).as_ref().map(ClientId::as_str),
            Some(right)
        );
    }
    for wrong in ["", "a\nb", "\0", &"a".repeat(65)] {
        assert_eq!(ClientId::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn times_carry_milliseconds_even_when_they_are_zero() {
    assert_eq!(
        Timestamp(1_795_393_065_000).to_string(),
        "2026-11-23T00:17:45.000Z"
    );
    assert_eq!(
        Timestamp(1_795_393_064_989).to_string(),
        "2026-11-23T00:17:44.989Z"
    );
}
