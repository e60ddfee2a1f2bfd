//! `send message`, `mark read`, `typing` and `stop typing`.

use serde::Serialize;
use socketioxide::extract::SocketRef;

use super::{Answer, Handlers, done};
use crate::{
    auth::Caller,
    error::Result,
    model::{ClientId, Seq},
    view::{MarkedView, Post, raw},
};

impl Handlers {
    pub(super) async fn send_message(
        &self,
        caller: &Caller,
        room: &str,
        text: String,
        client_id: Option<ClientId>,
    ) -> Result<Answer> {
        #[derive(Serialize)]
        struct Sent<'a> {
            success: bool,
            duplicate: bool,
            post: &'a Post,
        }
        let posted = self.chat.post(caller, room, text, client_id).await?;
        Ok(raw(&Sent {
            success: true,
            duplicate: posted.duplicate,
            post: &posted.post,
        }))
    }

    pub(super) async fn mark_read(
        &self,
        caller: &Caller,
        room: &str,
        up_to: Option<Seq>,
    ) -> Result<Answer> {
        Ok(raw(&MarkedView::from(
            self.chat.mark_read(caller, room, up_to).await?,
        )))
    }

    pub(super) async fn typing(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        room: &str,
        begun: bool,
    ) -> Result<Answer> {
        let room = self.chat.authorize_typing(caller, room).await?;
        self.sockets.types(room.id, caller.user.id, socket, begun);
        Ok(done())
    }
}
