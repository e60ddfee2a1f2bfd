//! The commands that keep the data: `backup`, `restore`, `export`, `import` and `check`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use causerie::{
    clock::Clock,
    config::Config,
    operator::{self, DataError, ExportTotals},
};
use tokio::runtime::Runtime;

/// Copy the SQLite database to a new file. The server may be running, and does not wait
///
/// The copy holds the key that signs tokens, so only its owner may read it. It has been checked when
/// the command ends. For MongoDB, use mongodump.
#[derive(clap::Args)]
pub struct Backup {
    /// The file to create
    file: PathBuf,
}

/// Put a backup in the place of the SQLite database. The server must not be running
///
/// The backup is checked and copied. For MongoDB, use mongorestore.
#[derive(clap::Args)]
pub struct Restore {
    /// The backup
    file: PathBuf,
    /// Replace the database even if it has data. It is kept beside the new one, and its name is
    /// printed
    #[arg(long)]
    replace: bool,
}

/// Write all data except sessions to a new text file, for any database. The server may be running
///
/// The file has one JSON object per line. It holds the key that signs tokens and the hashes of the
/// passwords, so only its owner may read it.
#[derive(clap::Args)]
pub struct Export {
    /// The file to create
    file: PathBuf,
}

/// Read an exported file into an empty database. The server must not be running
///
/// If it is interrupted, the same command continues it. Ids and sequence numbers stay the same.
/// Users who logged in with a password have to log in again.
#[derive(clap::Args)]
pub struct Import {
    /// The exported file
    file: PathBuf,
}

/// Check that the logs are complete, and that everything else that is stored agrees with them. The
/// server may be running
///
/// Prints one line for each finding, and exits with 1 if there are any.
#[derive(clap::Args)]
pub struct Check {}

impl Backup {
    /// Makes the backup, and prints its size.
    pub fn run(&self, config: &Config) -> Result<(), DataError> {
        let bytes = operator::back_up(&self.file, config)?;
        print(&format!("{}: {bytes} bytes", self.file.display()));
        Ok(())
    }
}

impl Restore {
    /// Restores the backup, and prints where the former database is kept.
    pub fn run(&self, config: &Config) -> Result<(), DataError> {
        let kept = operator::restore(&self.file, self.replace, config, &Clock::system())?;
        if let Some(kept) = kept {
            print(&kept.display().to_string());
        }
        Ok(())
    }
}

impl Export {
    /// Exports the data, and prints how much it is.
    pub fn run(&self, config: &Config, runtime: &Runtime) -> Result<(), DataError> {
        let clock = Clock::system();
        let totals = runtime.block_on(operator::export(&self.file, config, &clock))?;
        print_totals(&totals);
        Ok(())
    }
}

impl Import {
    /// Imports the data, and prints how much it is.
    pub fn run(&self, config: &Config, runtime: &Runtime) -> Result<(), DataError> {
        let totals = runtime.block_on(operator::import(&self.file, config))?;
        print_totals(&totals);
        Ok(())
    }
}

impl Check {
    /// Checks the data, and prints each finding.
    pub fn run(config: &Config, runtime: &Runtime) -> Result<(), DataError> {
        runtime.block_on(operator::check(config, print))
    }
}

fn print_totals(totals: &ExportTotals) {
    let ExportTotals {
        users,
        rooms,
        entries,
        messages,
        marks,
    } = totals;
    print(&format!(
        "{users} users, {rooms} rooms, {entries} entries, {messages} of them messages, {marks} read marks"
    ));
}

fn print(line: &str) {
    // An error is ignored: the command has done its work even if the result cannot be printed.
    let _ = writeln!(io::stdout(), "{line}");
}
