//! The socket events in the documents: their names are those in `src/sockets`.

use std::collections::BTreeSet;

use yaml_rust2::{Yaml, YamlLoader};

use crate::documents::{
    between,
    markdown::{code_spans, rows},
    read,
};

#[test]
fn the_documents_have_every_event_of_clients() {
    let source = read("src/sockets/commands.rs");
    let commands = between(&source, "match event {", "Err(Error::UnknownEvent)");
    let names = names(commands.lines().filter_map(|line| {
        let (pattern, _) = line.split_once("=>")?;
        pattern.trim().starts_with('"').then_some(pattern)
    }));
    assert_eq!(in_asyncapi("receive"), names, "docs/asyncapi.yaml");
    assert_eq!(in_table("Events from the client"), names, "docs/sockets.md");
}

#[test]
fn the_documents_have_every_event_of_the_server() {
    let source = read("src/sockets/events.rs");
    let events = between(&source, "fn name(", "\n    }\n");
    let names = names(events.split("=>").skip(1));
    assert_eq!(in_asyncapi("send"), names, "docs/asyncapi.yaml");
    assert_eq!(in_table("Events from the server"), names, "docs/sockets.md");
}

#[test]
fn every_reference_of_the_asyncapi_document_resolves() {
    let document = asyncapi();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        assert!(!target(&document, reference).is_badvalue(), "{reference}");
    }
}

#[test]
fn every_event_of_clients_in_the_asyncapi_document_may_be_refused() {
    let document = asyncapi();
    for (name, operation) in operations(&document, "receive") {
        let mut replies = operation["reply"]["messages"].as_vec().unwrap().iter();
        assert!(
            replies.any(|reply| resolve(&document, reply)["name"].as_str() == Some("refused")),
            "{name}"
        );
    }
}

pub fn asyncapi() -> Yaml {
    YamlLoader::load_from_str(&read("docs/asyncapi.yaml"))
        .unwrap()
        .remove(0)
}

/// Returns the texts in quotes. There has to be one.
fn names<'a>(sources: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let names: BTreeSet<_> = sources
        .flat_map(|source| source.split('"').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert!(!names.is_empty());
    names
}

/// Returns the names of the events of operations with this action, which is that of the server.
fn in_asyncapi(action: &str) -> BTreeSet<String> {
    let document = asyncapi();
    operations(&document, action)
        .flat_map(|(_, operation)| operation["messages"].as_vec().unwrap())
        .map(|message| {
            let name = resolve(&document, message)["name"].as_str();
            name.unwrap().to_owned()
        })
        .collect()
}

/// Returns the names of the events in a table of the document about sockets.
fn in_table(title: &str) -> BTreeSet<String> {
    let document = read("docs/sockets.md");
    rows(&document, title)
        .iter()
        .flat_map(|row| code_spans(row[0]))
        .map(str::to_owned)
        .collect()
}

fn operations<'a>(document: &'a Yaml, action: &str) -> impl Iterator<Item = (&'a str, &'a Yaml)> {
    let operations = document["operations"].as_hash().unwrap().iter();
    operations
        .filter(move |(_, operation)| operation["action"].as_str() == Some(action))
        .map(|(name, operation)| (name.as_str().unwrap(), operation))
}

/// Follows references to what they refer to.
fn resolve<'a>(document: &'a Yaml, node: &'a Yaml) -> &'a Yaml {
    match node["$ref"].as_str() {
        Some(reference) => resolve(document, target(document, reference)),
        None => node,
    }
}

/// Returns what a reference refers to, or `BadValue`.
fn target<'a>(document: &'a Yaml, reference: &str) -> &'a Yaml {
    let path = reference.strip_prefix("#/").unwrap();
    path.split('/').fold(document, |node, key| &node[key])
}

fn collect_references<'a>(node: &'a Yaml, references: &mut Vec<&'a str>) {
    references.extend(node["$ref"].as_str());
    for value in node.as_hash().into_iter().flat_map(|hash| hash.values()) {
        collect_references(value, references);
    }
    for item in node.as_vec().into_iter().flatten() {
        collect_references(item, references);
    }
}
