//! The documents: their commands run, their links resolve, and their tables match the code.

mod commands;
mod errors;
mod events;
mod links;
mod markdown;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of a file of the project.
fn read(file: impl AsRef<Path>) -> String {
    let path = project().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the part of a text between two others, which each have to be there.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start:?}"));
    let (part, _) = rest.split_once(end).unwrap_or_else(|| panic!("no {end:?}"));
    part
}
