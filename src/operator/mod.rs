//! Commands of the operator that work on the database directly, most of them even while a server is
//! running on it.

mod backup;
mod check;
mod error;
mod export;
mod format;
mod import;
mod new_user;
mod progress;
mod reader;

pub use backup::{back_up, restore};
pub use check::check;
pub use error::DataError;
pub use export::export;
pub use format::ExportTotals;
pub use import::import;
pub use new_user::{NewUser, NotAdded};
