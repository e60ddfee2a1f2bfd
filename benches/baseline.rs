//! The baseline: a minimal chat server on axum and socketioxide.
//!
//! It answers `POST /room/{id}/message` as Causerie does, with a response of the same length, and
//! emits the same event to the room's sockets. It has no database, checks no token and writes no
//! log. Its throughput is the cost of HTTP, JSON and Socket.IO on this machine; the difference to
//! Causerie's is the cost of Causerie's own work.

use axum::extract::{Path, State};
use axum::routing::post;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};
use tokio::net::TcpListener;

use crate::Outcome;

/// An id of the usual length; its value makes no difference to the work.
const ID: &str = "0197a3b2c4d57e6f8a9b0c1d2e3f4a5b";
const NOW: &str = "2026-01-01T00:00:00.000Z";

/// Serves until it is killed. Prints its address on standard output, as Causerie does.
#[tokio::main]
pub async fn run() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "The baseline listens on http://{} (no database)",
        listener.local_addr()?
    );
    // Without `TCP_NODELAY`, consecutive events wait for the TCP acknowledgement of the first.
    let listener = listener.tap_io(|stream| {
        stream.set_nodelay(true).ok();
    });
    axum::serve(listener, router()).await?;
    Ok(())
}

fn router() -> Router {
    let (layer, io) = SocketIo::builder().build_layer();
    io.ns("/", |socket: SocketRef| {
        // Not inside the future: socketioxide runs it in a separate task, and loses events that
        // arrive before it has run.
        listen(&socket);
        std::future::ready(())
    });
    Router::new()
        .route("/room/{id}/message", post(post_message))
        .with_state(io)
        .layer(layer)
}

fn listen(socket: &SocketRef) {
    socket.on("identity", async |acknowledgement: AckSender| {
        acknowledgement.send(&true).ok();
    });
    socket.on(
        "subscribe",
        async |socket: SocketRef, Data::<String>(room), acknowledgement: AckSender| {
            socket.join(room);
            acknowledgement.send(&true).ok();
        },
    );
}

async fn post_message(
    State(io): State<SocketIo>,
    Path(room): Path<String>,
    Json(draft): Json<Draft>,
) -> Json<Answer> {
    let post = Post::new(&room, draft);
    let event = Event { message: post };
    io.to(room).emit("new message", &event).await.ok();
    Json(Answer {
        success: true,
        post: event.message,
    })
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Draft {
    message_text: String,
}

#[derive(Serialize)]
struct Answer {
    success: bool,
    post: Post,
}

#[derive(Serialize)]
struct Event {
    message: Post,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the contract names them")]
struct Post {
    #[serde(rename = "_id")]
    id: String,
    post_id: &'static str,
    chat_room_id: String,
    seq: u32,
    message: Draft,
    r#type: &'static str,
    posted_by_user: User,
    read_by_recipients: Vec<Reader>,
    chat_room_info: Vec<User>,
    created_at: &'static str,
    updated_at: &'static str,
}

impl Post {
    fn new(room: &str, message: Draft) -> Self {
        Self {
            id: room.to_owned(),
            post_id: ID,
            chat_room_id: room.to_owned(),
            seq: 12_345,
            message,
            r#type: "text",
            posted_by_user: User::MEMBER,
            read_by_recipients: vec![Reader {
                read_at: NOW,
                read_by_user_id: ID,
            }],
            chat_room_info: vec![User::MEMBER, User::MEMBER],
            created_at: NOW,
            updated_at: NOW,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct User {
    #[serde(rename = "_id")]
    id: &'static str,
    first_name: &'static str,
    last_name: &'static str,
    r#type: &'static str,
    created_at: &'static str,
    updated_at: &'static str,
}

impl User {
    /// Has the same name as the users of [`crate::seed::person`].
    const MEMBER: Self = Self {
        id: ID,
        first_name: crate::seed::FIRST_NAME,
        last_name: crate::seed::LAST_NAME,
        r#type: "consumer",
        created_at: NOW,
        updated_at: NOW,
    };
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reader {
    read_at: &'static str,
    read_by_user_id: &'static str,
}
