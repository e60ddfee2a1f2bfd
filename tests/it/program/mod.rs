//! The program as its operator sees it.

mod base_path;
mod checker;
mod compose;
mod crash;
mod create_user;
mod operation;
mod settings;
mod sqlite_files;
mod start;
