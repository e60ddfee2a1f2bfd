//! `causerie check`: whether everything that the database stores agrees with the logs.

use super::{backup::refuse_missing, error::DataError, progress::Progress};
use crate::{
    config::Config,
    store::{self, Store},
};

/// How many rooms are listed at once.
const PAGE: u64 = 1_000;

/// Checks the database, also while servers work on it, and passes each finding to `report`, as one
/// line.
///
/// Errors: [`DataError::Findings`] if anything was found.
pub async fn check(config: &Config, report: impl FnMut(&str)) -> Result<(), DataError> {
    refuse_missing(&config.database)?;
    let store = store::open_shared(&config.database, &config.mongodb).await?;
    let findings = check_all(&store, report).await;
    store.database.close().await;
    match findings? {
        0 => Ok(()),
        findings => Err(DataError::Findings(findings)),
    }
}

/// Returns the number of findings.
async fn check_all(store: &Store, mut report: impl FnMut(&str)) -> Result<u64, DataError> {
    let mut count = 0;
    let mut report_all = |findings: Vec<String>| {
        count += findings.len() as u64;
        for finding in &findings {
            report(finding);
        }
    };
    report_all(store.check.check_database().await?);
    let (_, rooms) = store.transfer.count_users_and_rooms().await?;
    let progress = Progress::new("checking", rooms);
    let mut after = None;
    loop {
        let rooms = store.transfer.rooms(after, PAGE).await?;
        let Some(last) = rooms.last() else { break };
        after = Some(*last);
        for room in rooms {
            report_all(store.check.check_room(room).await?);
            progress.add(1);
        }
    }
    Ok(count)
}
