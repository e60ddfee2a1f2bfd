//! The errors in the documents: the codes and statuses are those of `causerie::error::Error`.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::StatusCode;

use crate::documents::{
    between,
    events::asyncapi,
    markdown::{code_spans, rows},
    read,
};

/// The codes that no client gets: `connect_error` has only the text of the error.
const NOT_SENT: [&str; 1] = ["socket_slot_taken"];

#[test]
fn the_api_document_has_every_error_with_its_status() {
    let mut documented = BTreeSet::new();
    for row in rows(&read("docs/api.md"), "Errors") {
        let status: u16 = row[0].parse().unwrap();
        for code in code_spans(row[1]) {
            assert!(
                documented.insert((code.to_owned(), status)),
                "{code} {status} twice"
            );
        }
    }
    let sent: BTreeSet<_> = codes()
        .into_iter()
        .filter(|(code, _)| !NOT_SENT.contains(&code.as_str()))
        .collect();
    let lacking: Vec<_> = sent.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&sent).collect();
    assert!(
        lacking.is_empty() && unknown.is_empty(),
        "docs/api.md lacks {lacking:?}, and has {unknown:?}"
    );
}

#[test]
fn the_codes_of_socket_events_are_known_and_in_the_asyncapi_document() {
    let asyncapi = asyncapi();
    let listed = &asyncapi["components"]["schemas"]["ErrorCode"]["enum"];
    let listed: BTreeSet<_> = listed
        .as_vec()
        .unwrap()
        .iter()
        .map(|code| code.as_str().unwrap().to_owned())
        .collect();
    let codes = codes();
    let unknown: Vec<_> = listed
        .iter()
        .filter(|code| !codes.contains_key(*code) || NOT_SENT.contains(&code.as_str()))
        .collect();
    assert!(unknown.is_empty(), "docs/asyncapi.yaml has {unknown:?}");
    let mut of_sockets = BTreeSet::new();
    for row in rows(&read("docs/sockets.md"), "Acknowledgements") {
        of_sockets.extend(code_spans(row[0]).map(str::to_owned));
    }
    for row in rows(&read("docs/api.md"), "Errors") {
        if row[3].starts_with("sockets only") {
            of_sockets.extend(code_spans(row[1]).map(str::to_owned));
        }
    }
    let lacking: Vec<_> = of_sockets.difference(&listed).collect();
    assert!(lacking.is_empty(), "docs/asyncapi.yaml lacks {lacking:?}");
}

/// Returns the status of each code. It is read from the source: the variants cannot be listed, and
/// the status of an error is visible only in its response.
fn codes() -> BTreeMap<String, u16> {
    let source = read("src/error/mod.rs");
    let table = between(&source, "fn status_and_code", "\n    }\n");
    let mut codes = BTreeMap::new();
    for arm in table.split("=>").skip(1) {
        let status = between(arm, "(StatusCode::", ",");
        let code = between(arm, "\"", "\"");
        let former = codes.insert(code.to_owned(), number_of(status));
        assert_eq!(former, None, "{code} twice");
    }
    assert!(codes.len() > 40, "{codes:?}");
    codes
}

/// Returns the number of a status by the name of its constant.
fn number_of(constant: &str) -> u16 {
    let reason = constant.replace('_', " ");
    (400..600)
        .find(|number| {
            let known = StatusCode::from_u16(*number).unwrap().canonical_reason();
            known.is_some_and(|known| known.eq_ignore_ascii_case(&reason))
        })
        .unwrap_or_else(|| panic!("{constant} is no status of an error"))
}
