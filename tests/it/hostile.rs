//! Malformed request bodies: values of the wrong type, extreme structures, and texts from all of
//! Unicode.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{databases::Kind, each_store};
use crate::{hostile_load::LoadedServer, people::Answer, wire::Socket};
use rstest_reuse::apply;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
/// The maximum size of a body, in bytes.
const MOST: usize = 102_400;

/// JSON texts that are not valid anywhere in a body.
const WRONG_VALUES: [&str; 29] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "1",
    "-1",
    "1.5",
    "1e308",
    "-1e308",
    "5e-324",
    "1e400",
    "9007199254740993",
    "18446744073709551616",
    "123456789012345678901234567890123456789012345678901234567890",
    "{}",
    r#"{"$gt":""}"#,
    r#"{"$where":"sleep(1e9)"}"#,
    r#"{"$regex":"(a+)+$"}"#,
    r#"{"length":1,"0":"consumer"}"#,
    r#"{"__proto__":{"isAdmin":true}}"#,
    r#"{"toString":"consumer"}"#,
    "[[]]",
    "[{}]",
    "[null]",
    r#"[{"$ne":null}]"#,
    r#"[["consumer"]]"#,
    r#"[[[[[[{"a":[1,{"b":[]}]}]]]]]]"#,
];

impl LoadedServer {
    /// The endpoints that take a body, each with a valid body as fields and their JSON texts.
    pub fn bodies(&self) -> [(String, Vec<(&'static str, String)>); 4] {
        let text = |text: &str| format!("\"{text}\"");
        let user = vec![
            ("firstName", text("Mallory")),
            ("lastName", text("Test")),
            ("type", text("consumer")),
        ];
        let room = vec![
            ("userIds", format!("[\"{}\"]", self.bob.id)),
            ("type", text("consumer-to-consumer")),
        ];
        let message = vec![("messageText", text("hello"))];
        let members = vec![room[0].clone()];
        [
            ("/users".into(), user),
            ("/room/initiate".into(), room),
            (format!("/room/{}/message", self.room), message),
            (format!("/room/{}/members", self.room), members),
        ]
    }

    /// Sends this body as Alice. Checks that the response is no server error and that its `success`
    /// matches its status.
    async fn sends(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let answer = Answer::of(
            self.alice
                .request(method, path)
                .header("content-type", kind)
                .body(body.into()),
        )
        .await;
        assert!(answer.status < 500, "{path}: {answer:?}");
        assert_eq!(
            answer.body["success"],
            answer.status == 200,
            "{path}: {answer:?}"
        );
        answer
    }
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

#[apply(each_store)]
#[tokio::test]
async fn no_field_takes_a_value_of_another_type(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    for (path, fields) in loaded.bodies() {
        loaded
            .sends(Method::POST, &path, JSON, object(&fields))
            .await
            .ok();
        for (at, (field, right)) in fields.iter().enumerate() {
            let an_array = right.starts_with('[');
            let others = if an_array {
                [r#""""#, r#""id""#, "[]"]
            } else {
                [r#""""#, "[]", r#"["consumer"]"#]
            };
            for wrong in WRONG_VALUES.iter().chain(&others) {
                let mut fields = fields.clone();
                (*wrong).clone_into(&mut fields[at].1);
                let answer = loaded
                    .sends(Method::POST, &path, JSON, object(&fields))
                    .await;
                assert_eq!(answer.status, 400, "{field}: {wrong}: {}", answer.body);
                // A number too large for any number type makes the body invalid JSON, without an
                // error for the field.
                assert!(
                    answer.body["errors"][field].is_string() || *wrong == "1e400",
                    "{field}: {wrong}: {}",
                    answer.body
                );
            }
        }
    }
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn a_body_where_none_is_expected_is_of_no_interest(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let login = format!("/login/{}", loaded.bob.id);
    let read = format!("/room/{}", loaded.room);
    for (method, path) in [
        (Method::GET, &*read),
        (Method::GET, "/room"),
        (Method::GET, "/users"),
        (Method::DELETE, "/users/nobody"),
        (Method::DELETE, "/delete/room/none"),
        (Method::DELETE, "/delete/message/none"),
    ] {
        for body in WRONG_VALUES
            .iter()
            .chain(&["", "{", "\u{0}", r#"{"userId":{"$gt":""}}"#])
        {
            for kind in [JSON, FORM, "text/plain"] {
                loaded.sends(method.clone(), path, kind, *body).await.ok();
            }
        }
    }
    // Where a JSON body is optional, an empty body, an object and an array are accepted, and any
    // other body is rejected.
    for body in WRONG_VALUES
        .iter()
        .chain(&["", "{", "\u{0}", r#"{"userId":{"$gt":""}}"#])
    {
        let is_object =
            body.is_empty() || body.starts_with('[') || (body.starts_with('{') && *body != "{");
        assert_eq!(
            loaded.sends(Method::POST, &login, JSON, *body).await.status,
            if is_object { 200 } else { 400 },
            "{body}"
        );
        loaded.sends(Method::POST, &login, FORM, *body).await.ok();
        loaded
            .sends(Method::POST, &login, "text/plain", *body)
            .await
            .ok();
    }
    let mark = format!("/room/{}/mark-read", loaded.room);
    for nothing in [
        "",
        "{}",
        "[]",
        r#"{"userId":{"$gt":""}}"#,
        r#"{"upToSeq":null}"#,
    ] {
        loaded.sends(Method::PUT, &mark, JSON, nothing).await.ok();
    }
    for value in WRONG_VALUES {
        let is_right = ["null", "0", "-0", "-0.0", "1", "9007199254740993"].contains(&value);
        let answer = loaded
            .sends(Method::PUT, &mark, JSON, format!("{{\"upToSeq\":{value}}}"))
            .await;
        assert!(answer.status == 400 || is_right, "{value}: {answer:?}");
        loaded.sends(Method::PUT, &mark, JSON, value).await;
        loaded.sends(Method::PUT, &mark, FORM, value).await.ok();
        loaded
            .sends(Method::PUT, &mark, "text/plain", value)
            .await
            .ok();
    }
    loaded.ends_well().await;
}

/// Repeats the piece as often as it fits into the largest body.
fn full_of(piece: &str, frame: &str) -> String {
    piece.repeat((MOST - frame.len()) / piece.len())
}

#[apply(each_store)]
#[tokio::test]
async fn absurdly_nested_bodies_are_refused(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    for (path, fields) in loaded.bodies() {
        for (opening, closing) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            for depth in [
                100,
                1_000,
                (MOST - 200) / (opening.len() + closing.len()),
                (MOST - 200) / opening.len(),
            ] {
                let open = opening.repeat(depth);
                let close = closing.repeat(if depth * (opening.len() + closing.len()) < MOST {
                    depth
                } else {
                    0
                });
                for at in 0..fields.len() {
                    let mut fields = fields.clone();
                    fields[at].1 = format!("{open}0{close}");
                    assert_eq!(
                        loaded
                            .sends(Method::POST, &path, JSON, object(&fields))
                            .await
                            .status,
                        400
                    );
                }
                // An array counts as an empty object.
                assert_eq!(
                    loaded
                        .sends(Method::POST, &path, JSON, format!("{open}0{close}"))
                        .await
                        .status,
                    400
                );
            }
        }
    }
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn arrays_as_large_as_a_body_are_refused(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let numbered = |form: fn(usize) -> String| (0..).map(form);
    let distinct: [Box<dyn Iterator<Item = String>>; 4] = [
        Box::new(numbered(|n| n.to_string())),
        Box::new(numbered(|n| format!("{n}e300"))),
        Box::new(numbered(|n| format!("\"{n}\""))),
        Box::new(numbered(|n| format!("\"{n:032x}\""))),
    ];
    let repeated = [
        "0",
        "1e308",
        "null",
        "true",
        "\"\"",
        "\" \"",
        "\"a\"",
        "[]",
        "{}",
        "[[]]",
        "{\"$gt\":\"\"}",
    ];
    let repeated = repeated.map(|piece| {
        Box::new(std::iter::repeat(piece.to_owned())) as Box<dyn Iterator<Item = String>>
    });
    let frame = r#"{"userIds":[],"type":"consumer-to-consumer"}"#;
    for elements in distinct.into_iter().chain(repeated) {
        let mut array = String::new();
        for element in elements {
            if array.len() + element.len() + frame.len() >= MOST {
                break;
            }
            array.push_str(&element);
            array.push(',');
        }
        array.pop();
        let answer = loaded
            .sends(
                Method::POST,
                "/room/initiate",
                JSON,
                frame.replace("[]", &format!("[{array}]")),
            )
            .await;
        assert!(
            answer.body["errors"]["userIds"].is_string(),
            "{:.100}: {:.300}",
            array,
            answer.body.to_string()
        );
    }
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn a_key_may_be_written_many_times_and_the_last_one_counts(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    for (path, fields) in loaded.bodies() {
        let good = object(&fields);
        for (name, _) in &fields {
            for piece in [
                format!("\"{name}\":5,"),
                format!("\"{name}\":{{\"$gt\":\"\"}},"),
                "\"__proto__\":{},\"\":[],".into(),
            ] {
                let many = full_of(&piece, &good);
                loaded
                    .sends(
                        Method::POST,
                        &path,
                        JSON,
                        good.replacen('{', &format!("{{{many}"), 1),
                    )
                    .await
                    .ok();
            }
            let twice = good.replacen('}', &format!(",\"{name}\":5}}"), 1);
            assert!(
                loaded.sends(Method::POST, &path, JSON, twice).await.body["errors"][name]
                    .is_string()
            );
        }
        let others = (0..7_000)
            .map(|n| format!("\"{n}\":[{n}],"))
            .collect::<Vec<_>>()
            .concat();
        loaded
            .sends(
                Method::POST,
                &path,
                JSON,
                good.replacen('{', &format!("{{{others}"), 1),
            )
            .await
            .ok();
    }
    loaded.ends_well().await;
}

#[apply(each_store)]
#[tokio::test]
async fn bytes_that_are_no_text_are_refused(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let body = |text: &[u8]| {
        [
            br#"{"firstName":"Mallory"#,
            text,
            br#"","lastName":"Test","type":"consumer"}"#,
        ]
        .concat()
    };
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
                .sends(Method::POST, "/users", JSON, body(text))
                .await
                .status,
            400,
            "{}",
            text.escape_ascii()
        );
    }
    for text in [&br"\u0000"[..], br"\u001f", br"\u202e", b"\xe2\x80\xa8"] {
        let refused = loaded.sends(Method::POST, "/users", JSON, body(text)).await;
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
                .sends(Method::POST, "/users", JSON, body(text))
                .await
                .ok()["user"]["firstName"],
            name
        );
    }
    let valid = body(b"");
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
    let utf16: Vec<u8> = String::from_utf8(valid)
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

#[apply(each_store)]
#[tokio::test]
async fn forms_of_any_kind_are_answered(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let full = "a".repeat(MOST);
    for (path, _) in loaded.bodies() {
        let forms = [
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
            &full,
        ];
        for form in forms {
            assert_eq!(
                loaded.sends(Method::POST, &path, FORM, form).await.status,
                400,
                "{form:.20}"
            );
        }
        for piece in [
            "&",
            "a=&",
            "userIds=x&",
            "userIds=&",
            "type=consumer&",
            "messageText=a&",
            "%ff=%fe&",
            "a[]=1&",
        ] {
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

fn as_form(text: &str) -> String {
    text.bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect::<Vec<_>>()
        .concat()
}

#[apply(each_store)]
#[tokio::test]
async fn every_message_comes_back_as_it_was_written(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let mut socket = Socket::of(&loaded.bob, &loaded.room).await;
    let path = format!("/room/{}/message", loaded.room);
    for text in all_kinds_of_texts() {
        let forms = [
            (JSON, json!({ "messageText": text }).to_string()),
            (JSON, format!("{{\"messageText\":{}}}", escaped(&text))),
            (FORM, format!("messageText={}", as_form(&text))),
        ];
        for (kind, body) in forms.into_iter().filter(|(_, body)| body.len() <= MOST) {
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

#[apply(each_store)]
#[tokio::test]
async fn every_name_comes_back_as_it_was_written(kind: Kind) {
    let loaded = LoadedServer::begins(kind).await;
    let mut users = Vec::new();
    for text in all_kinds_of_texts() {
        let allowed: Vec<_> = text.chars().filter(|c| !is_disruptive(*c)).collect();
        // Takes as many characters of a long text as a name may have, spread evenly. The leading
        // letter is the base of a combining mark.
        let some = allowed.iter().step_by(allowed.len().div_ceil(199));
        let text: String = ['a'].iter().chain(some).collect();
        for (first, last) in [(text.as_str(), "x"), ("x", text.as_str())] {
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
            users.push(user);
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
