//! The contract of `Store`, which every database has to pass. The tests open the store directly, on
//! SQLite, on a MongoDB replica set and on a standalone MongoDB server.

mod accounts;
mod edits;
mod erasing;
mod log;
mod members;
mod migrations;
mod presence;
mod read_marks;
mod room_costs;
mod rooms;
mod scripts;
mod search;
mod search_costs;
mod search_index;
mod search_upgrade;
mod sessions;
mod unread;
mod users;
