//! The program as its operator sees it.

mod backup;
mod base_path;
mod check;
mod checker;
mod compose;
mod crash;
mod create_user;
mod import;
mod operation;
mod settings;
mod sqlite_files;
mod start;
mod transfer;
