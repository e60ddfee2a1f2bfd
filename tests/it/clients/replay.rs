//! Replays the transcript of the original application step by step: the server's responses contain
//! every field of the recorded ones, with the same values except for ids, dates and tokens. Ids are
//! bound when they first occur and must stay the same afterwards.

use std::collections::HashMap;

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    each_store,
    support::{answer::Answer, databases::Kind, harness::TestServer},
};

/// Maps the ids and tokens of the transcript to those of this server.
#[derive(Default)]
struct Bindings {
    ids: HashMap<String, String>,
    tokens: HashMap<String, String>,
}

impl Bindings {
    fn translate(&self, text: &str) -> String {
        self.ids
            .iter()
            .fold(text.to_owned(), |text, (theirs, ours)| {
                text.replace(theirs, ours)
            })
    }

    /// Checks that the server's value contains that of the transcript. The error gives the place
    /// where it does not.
    fn compare(&mut self, place: &str, theirs: &Value, ours: &Value) -> Result<(), String> {
        match (theirs, ours) {
            (Value::Object(theirs), Value::Object(ours)) => {
                for (key, value) in theirs.iter().filter(|(key, _)| *key != "__v") {
                    let ours = ours
                        .get(key)
                        .ok_or_else(|| format!("{place}.{key} is missing"))?;
                    match (key.as_str(), value, ours) {
                        // The original application returns these in no particular order.
                        ("chatRoomInfo" | "roomInfo", Value::Array(theirs), Value::Array(ours)) => {
                            self.compare_sets(key, theirs, ours)?;
                        }
                        _ => self.compare(&format!("{place}.{key}"), value, ours)?,
                    }
                }
                Ok(())
            }
            (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => theirs
                .iter()
                .zip(ours)
                .enumerate()
                .try_for_each(|(n, (theirs, ours))| {
                    self.compare(&format!("{place}[{n}]"), theirs, ours)
                }),
            (Value::String(theirs), Value::String(ours)) => self.compare_texts(place, theirs, ours),
            _ if theirs == ours => Ok(()),
            _ => Err(format!("{place}: {theirs} there, {ours} here")),
        }
    }

    fn compare_sets(
        &mut self,
        place: &str,
        theirs: &[Value],
        ours: &[Value],
    ) -> Result<(), String> {
        if theirs.len() != ours.len() {
            return Err(format!(
                "{place}: {} there, {} here",
                theirs.len(),
                ours.len()
            ));
        }
        for theirs in theirs {
            if !ours
                .iter()
                .any(|ours| self.compare(place, theirs, ours).is_ok())
            {
                return Err(format!("{place}: nothing like {theirs}"));
            }
        }
        Ok(())
    }

    fn compare_texts(&mut self, place: &str, theirs: &str, ours: &str) -> Result<(), String> {
        let same = if is_id(theirs) && is_id(ours) {
            self.ids
                .entry(theirs.to_owned())
                .or_insert_with(|| ours.to_owned())
                == ours
        } else if is_date(theirs) {
            is_date(ours)
        } else if theirs.starts_with("eyJ") {
            ours.starts_with("eyJ") && ours.split('.').count() == 3
        } else {
            theirs == ours
        };
        if same {
            Ok(())
        } else {
            Err(format!("{place}: {theirs:?} there, {ours:?} here"))
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_date(text: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(c, p)| {
            if p == b'd' {
                c.is_ascii_digit()
            } else {
                c == p
            }
        })
}

#[apply(each_store)]
#[tokio::test]
async fn responses_match_the_transcript_of_the_original_application(kind: Kind) {
    let server = TestServer::start(kind).await;
    let transcript: Vec<Value> = serde_json::from_str(include_str!("reference.json")).unwrap();
    let mut bindings = Bindings::default();
    for step in &transcript {
        let name = step["step"].as_str().unwrap();
        if name == "users list" {
            create_those_unknown(&server, &bindings, &step["answer"]["users"]).await;
        }
        let method: Method = step["method"].as_str().unwrap().parse().unwrap();
        let mut request =
            server.request(method, &bindings.translate(step["path"].as_str().unwrap()));
        if let Some(token) = bindings.tokens.get(step["auth"].as_str().unwrap()) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !step["body"].is_null() {
            let body: Value =
                serde_json::from_str(&bindings.translate(&step["body"].to_string())).unwrap();
            request = request.json(&body);
        }
        let answer = Answer::of(request).await;
        assert_eq!(
            json!(answer.status),
            step["status"],
            "{name}: {}",
            answer.body
        );
        assert!(
            answer.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("application/json"),
            "{name}"
        );
        bindings
            .compare(name, &step["answer"], &answer.body)
            .unwrap();
        if let (Some(number), Some(token)) = (
            name.strip_prefix("login "),
            answer.body["authorization"].as_str(),
        ) {
            bindings
                .tokens
                .insert(format!("t{number}"), token.to_owned());
        }
    }
}

/// Creates the listed users that the transcript does not: it is a part of a longer one, in which
/// they were created.
async fn create_those_unknown(server: &TestServer, bindings: &Bindings, users: &Value) {
    for user in users
        .as_array()
        .unwrap()
        .iter()
        .filter(|user| !bindings.ids.contains_key(user["_id"].as_str().unwrap()))
    {
        let body = json!({ "firstName": user["firstName"], "lastName": user["lastName"], "type": user["type"] });
        server.post("/users", &body).await.ok();
    }
}
