//! Texts and forms of any characters.

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{
        databases::Kind,
        loaded_server::{FORM, JSON, LoadedServer, MAX_BODY, full_of},
        wire::Socket,
    },
};

/// Returns the body of a registration, with these bytes at the end of the first name.
fn user_with(text: &[u8]) -> Vec<u8> {
    [
        br#"{"firstName":"Mallory"#,
        text,
        br#"","lastName":"Test","type":"consumer"}"#,
    ]
    .concat()
}

#[tokio::test]
async fn bytes_that_are_not_text_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let refused: [&[u8]; 17] = [
        b"\0",
        b"\x1f",
        b"\n",
        b"\x80",
        b"\xff",
        b"\xfe\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xe2\x82",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\ud800x",
        b"\\u12",
        b"\\x00",
        b"\\",
    ];
    for text in refused {
        assert_eq!(
            loaded
                .sends(Method::POST, "/users", JSON, user_with(text))
                .await
                .status,
            400,
            "{}",
            text.escape_ascii()
        );
    }
    let utf16: Vec<u8> = String::from_utf8(user_with(b""))
        .unwrap()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(
        loaded
            .sends(Method::POST, "/users", JSON, utf16)
            .await
            .status,
        400
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_name_has_no_control_characters_and_may_have_any_others() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for text in [&br"\u0000"[..], br"\u001f", br"\u202e", b"\xe2\x80\xa8"] {
        let refused = loaded
            .sends(Method::POST, "/users", JSON, user_with(text))
            .await;
        assert!(
            refused.body["errors"]["firstName"].is_string(),
            "a name holds no {}",
            text.escape_ascii()
        );
    }
    for (text, name) in [
        (&b"\xef\xbb\xbf"[..], "Mallory\u{feff}"),
        (br"\ud83d\ude00", "Mallory😀"),
    ] {
        assert_eq!(
            loaded
                .sends(Method::POST, "/users", JSON, user_with(text))
                .await
                .ok()["user"]["firstName"],
            name
        );
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn one_byte_order_mark_of_utf_8_before_a_body_is_ignored() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let valid = user_with(b"");
    for (mark, status) in [
        (&b"\xef\xbb\xbf"[..], 200),
        (b"\xef\xbb\xbf\xef\xbb\xbf", 400),
        (b"\xff\xfe", 400),
        (b"\xfe\xff", 400),
        (b"\0", 400),
    ] {
        assert_eq!(
            loaded
                .sends(Method::POST, "/users", JSON, [mark, &valid].concat())
                .await
                .status,
            status,
            "{}",
            mark.escape_ascii()
        );
    }
    loaded.ends_well().await;
}

/// Forms that are refused as a body of any request.
const WRONG_FORMS: [&str; 11] = [
    "",
    "&",
    "=",
    "%",
    "%f",
    "%zz",
    "%00=%00",
    "=&=&=",
    "a[b][c]=d",
    "firstName[$gt]=",
    "__proto__=x",
];

/// Parts of forms that are refused as a body of any request when they are repeated.
const FORM_PIECES: [&str; 8] = [
    "&",
    "a=&",
    "userIds=x&",
    "userIds=&",
    "type=consumer&",
    "messageText=a&",
    "%ff=%fe&",
    "a[]=1&",
];

#[tokio::test]
async fn unusual_forms_are_answered() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let full = "a".repeat(MAX_BODY);
    for (path, _) in loaded.bodies() {
        for form in WRONG_FORMS.into_iter().chain([full.as_str()]) {
            assert_eq!(
                loaded.sends(Method::POST, &path, FORM, form).await.status,
                400,
                "{form:.20}"
            );
        }
        for piece in FORM_PIECES {
            assert_eq!(
                loaded
                    .sends(Method::POST, &path, FORM, full_of(piece, ""))
                    .await
                    .status,
                400,
                "{piece}"
            );
        }
    }
    let keys = (0..14_000)
        .map(|n| format!("{n}=&"))
        .collect::<Vec<_>>()
        .concat();
    loaded
        .sends(
            Method::POST,
            "/users",
            FORM,
            format!("{keys}firstName=%FF&lastName=%FE&type=consumer"),
        )
        .await
        .ok();
    loaded.ends_well().await;
}

/// Returns texts from every Unicode plane, and texts that confuse parsers or readers.
fn all_kinds_of_texts() -> Vec<String> {
    let plane = |plane: u32| -> String {
        let points = (0..=0xffff)
            .step_by(17)
            .chain(0xfff0..=0xffff)
            .map(|point| (plane << 16) | point);
        points.filter_map(char::from_u32).collect()
    };
    let mut texts: Vec<_> = (0..=16).map(plane).collect();
    texts.push((0..0x800).filter_map(char::from_u32).collect());
    texts.push((0x2000..0x2100).filter_map(char::from_u32).collect());
    texts.extend(
        [
            "\u{202e}txt.exe\u{202c}",
            "\u{200f}שלום\u{200e} \u{2066}مرحبا\u{2069}",
            "\u{301}",
            "e\u{301} is not é",
            "👩\u{200d}👩\u{200d}👧\u{200d}👦 🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "\u{feff}\u{feff}x\u{fffe}\u{ffff}\u{fffd}",
            "\u{0}\u{7f}\u{85}\u{2028}\u{2029}x",
            "</script><script>alert(1)</script>\u{1e}{}",
            "\\ud800 \\u0000 \\\\",
        ]
        .map(str::to_owned),
    );
    texts.push(format!("Z{}", "\u{301}".repeat(51_100)));
    texts.push("\u{10fffd}".repeat(25_500));
    texts
}

/// Characters that a name may not contain: controls, line breaks, and characters that override the
/// direction of the surrounding text.
fn is_disruptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

/// Encodes the text as an ASCII-only JSON string. Characters beyond the first plane become
/// surrogate pairs.
fn escaped(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
    format!("\"{}\"", units.collect::<String>())
}

/// Returns a name of as many characters of the text as a name may have, spread evenly. The leading
/// letter is the base of a combining mark.
fn name_of(text: &str) -> String {
    let allowed: Vec<_> = text.chars().filter(|c| !is_disruptive(*c)).collect();
    let some = allowed.iter().step_by(allowed.len().div_ceil(199));
    ['a'].iter().chain(some).collect()
}

fn as_form(text: &str) -> String {
    text.bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect::<Vec<_>>()
        .concat()
}

#[apply(each_store)]
#[tokio::test]
async fn every_message_is_returned_as_it_was_sent(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let mut socket = Socket::of(&loaded.bob, &loaded.room).await;
    let path = format!("/room/{}/message", loaded.room);
    for text in all_kinds_of_texts() {
        let forms = [
            (JSON, json!({ "messageText": text }).to_string()),
            (JSON, format!("{{\"messageText\":{}}}", escaped(&text))),
            (FORM, format!("messageText={}", as_form(&text))),
        ];
        for (kind, body) in forms.into_iter().filter(|(_, body)| body.len() <= MAX_BODY) {
            let post = loaded.sends(Method::POST, &path, kind, body).await.ok()["post"].clone();
            assert_eq!(post["message"]["messageText"], text);
            assert_eq!(socket.hears_post().await, post);
        }
        assert_eq!(
            loaded.bob.reads(&loaded.room, "?limit=1").await,
            [text.as_str()]
        );
        assert_eq!(
            loaded.bob.recents("").await[0]["message"]["messageText"],
            text
        );
    }
    loaded.ends_well().await;
}

/// Creates a support user and checks that the names are returned as they were sent.
async fn add_user(loaded: &LoadedServer, first: &str, last: &str) -> Value {
    let body = json!({ "firstName": first, "lastName": last, "type": "support" });
    let user = loaded
        .sends(Method::POST, "/users", JSON, body.to_string())
        .await
        .ok()["user"]
        .clone();
    assert_eq!(
        (&user["firstName"], &user["lastName"]),
        (&json!(first), &json!(last))
    );
    let path = format!("/users/{}", user["_id"].as_str().unwrap());
    assert_eq!(
        loaded.sends(Method::GET, &path, JSON, "").await.ok()["user"],
        user
    );
    user
}

#[tokio::test]
async fn every_name_is_returned_as_it_was_sent() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut users = Vec::new();
    for text in all_kinds_of_texts() {
        let text = name_of(&text);
        for (first, last) in [(text.as_str(), "x"), ("x", text.as_str())] {
            users.push(add_user(&loaded, first, last).await);
        }
    }
    let ids: Vec<_> = users.iter().map(|user| &user["_id"]).collect();
    let body = json!({ "userIds": ids, "type": "consumer-to-support" });
    let room = loaded
        .sends(Method::POST, "/room/initiate", JSON, body.to_string())
        .await
        .ok()["chatRoom"]["chatRoomId"]
        .clone();
    let room = room.as_str().unwrap();
    let mut members = loaded.alice.posts(room, "hello").await.ok()["post"]["chatRoomInfo"]
        .as_array()
        .unwrap()
        .clone();
    members.retain(|user| user["_id"] != loaded.alice.id);
    users.sort_by_key(|user| user["_id"].as_str().map(str::to_owned));
    members.sort_by_key(|user| user["_id"].as_str().map(str::to_owned));
    assert!(
        members == users,
        "every member of the room has the name they were given"
    );
    let listed: Vec<Value> = loaded
        .sends(Method::GET, "/users?limit=500", JSON, "")
        .await
        .ok()["users"]
        .as_array()
        .unwrap()
        .clone();
    assert!(users.iter().all(|user| listed.contains(user)));
    loaded.ends_well().await;
}
