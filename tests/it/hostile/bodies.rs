//! JSON bodies that no client should send.

use reqwest::Method;

use crate::support::{
    databases::Kind,
    loaded_server::{FORM, JSON, LoadedServer, MAX_BODY, full_of},
};

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

/// Texts that are valid neither as a body nor as its fields.
const WRONG_BODIES: [&str; 4] = ["", "{", "\u{0}", r#"{"userId":{"$gt":""}}"#];

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

#[tokio::test]
async fn values_of_a_wrong_type_are_refused_in_every_field() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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

#[tokio::test]
async fn a_body_that_a_request_does_not_have_is_ignored() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let read = format!("/room/{}", loaded.room);
    for (method, path) in [
        (Method::GET, &*read),
        (Method::GET, "/room"),
        (Method::GET, "/users"),
        (Method::DELETE, "/users/nobody"),
        (Method::DELETE, "/delete/room/none"),
        (Method::DELETE, "/delete/message/none"),
    ] {
        for body in WRONG_VALUES.iter().chain(&WRONG_BODIES) {
            for kind in [JSON, FORM, "text/plain"] {
                loaded.sends(method.clone(), path, kind, *body).await.ok();
            }
        }
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn an_optional_json_body_is_empty_or_an_object_or_an_array() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let login = format!("/login/{}", loaded.bob.id);
    for body in WRONG_VALUES.iter().chain(&WRONG_BODIES) {
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
    loaded.ends_well().await;
}

#[tokio::test]
async fn an_optional_position_of_a_wrong_type_is_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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

#[tokio::test]
async fn deeply_nested_bodies_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for (path, fields) in loaded.bodies() {
        for (opening, closing) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            for depth in [
                100,
                1_000,
                (MAX_BODY - 200) / (opening.len() + closing.len()),
                (MAX_BODY - 200) / opening.len(),
            ] {
                let open = opening.repeat(depth);
                let close = closing.repeat(if depth * (opening.len() + closing.len()) < MAX_BODY {
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

/// Joins as many elements by commas as have fewer than `most` bytes together.
fn joined_up_to(most: usize, elements: impl Iterator<Item = String>) -> String {
    let mut joined = String::new();
    for element in elements {
        if joined.len() + element.len() >= most {
            break;
        }
        joined.push_str(&element);
        joined.push(',');
    }
    joined.pop();
    joined
}

#[tokio::test]
async fn arrays_as_large_as_a_body_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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
        let array = joined_up_to(MAX_BODY - frame.len(), elements);
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

#[tokio::test]
async fn the_last_of_repeated_keys_counts() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
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
