//! Operations on rooms, by REST and by socket: checks permissions and limits, executes the
//! operation and announces it to subscribers.

mod conversation;
mod members;
mod messages;
mod page;
mod recents;
mod rooms;
mod search;
mod service;
mod subscriptions;

pub use conversation::{Conversation, LogRange};
pub use members::{MemberPage, MemberPresence, RoomDetails};
pub use messages::Posted;
pub use page::LOG_BYTES;
pub use recents::Recents;
pub use rooms::NewRoom;
pub use search::{SearchRequest, SearchResults};
pub use service::{Chat, Dependencies};
