//! The commands of the program that work on a database.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;

use crate::support::{databases::Database, program::run};

/// Runs a command on this database.
pub fn command(arguments: &[&str], database: &Database) -> Output {
    let folder = TempDir::new().unwrap();
    run(
        folder.path(),
        arguments,
        &[("CAUSERIE_DATABASE", &database.url)],
    )
}

/// Checks that a command succeeded, and returns what it printed.
#[track_caller]
pub fn succeeded(output: &Output) -> String {
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.is_empty(),
        "{text}{printed}"
    );
    printed
}

/// Checks that a command was refused with one line that has this text.
#[track_caller]
pub fn refused(output: &Output, mention: &str) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with("causerie: ") && text.lines().count() == 1 && text.contains(mention),
        "{text:?} should mention {mention:?}"
    );
    assert!(output.stdout.is_empty());
}

/// A folder for exports.
pub struct Exports(TempDir);

impl Exports {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns the number of files in the folder.
    pub fn count(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }

    /// Exports a database. Returns the file and what was printed.
    #[track_caller]
    pub fn export(&self, name: &str, database: &Database) -> (PathBuf, String) {
        let file = self.path(name);
        let printed = succeeded(&command(&["export", file.to_str().unwrap()], database));
        (file, printed)
    }
}

pub fn import(file: &Path, database: &Database) -> Output {
    command(&["import", file.to_str().unwrap()], database)
}
