//! Tests that measure time and memory. They need the machine to themselves, so all of them are
//! ignored by default and run in turn: `cargo test --test it measured:: -- --ignored --test-threads 1`.

mod erasing;
mod logins;
mod memory;

use tokio::sync::Mutex;

/// Serializes the tests.
static TURN: Mutex<()> = Mutex::const_new(());
