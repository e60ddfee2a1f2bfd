//! The REST API.

mod accounts;
mod bodies;
mod cancelled_requests;
mod clocks;
mod delete;
mod deleted_members;
mod edits;
mod groups;
mod idle_connections;
mod large_rooms;
mod largest_rooms;
mod login;
mod long_pages;
mod messages;
mod read_marks;
mod room_list;
mod rooms;
mod search;
mod search_access;
mod sending;
mod sync;
mod unicode;
mod unread;
mod users;
