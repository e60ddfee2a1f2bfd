//! Users and their accounts: registers, changes and deletes users, logs them in and out, and ends
//! their sessions. Checks permissions and limits first.

mod login;
mod service;
mod sessions;
mod users;

pub use login::{LoggedIn, LoginClient};
pub use service::{Accounts, Dependencies, DisconnectUsers};
pub use users::{NewLogin, NewUser, RegisteredUser, UserChunks, UserList, UserPage};
