//! The memory of requests and answers: reserved before it is used, and held until the client has read the answer.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

use crate::{
    address::ClientAddress,
    budget::{COPIES_OF_A_PAGE, COPIES_OF_AN_ANSWER, MemoryBudget, Reservation},
    chat::LOG_BYTES,
};

/// What is no larger is not counted: every connection has buffers of that size anyway, and connections are limited in number.
const SMALL: u64 = 16 * 1024;
/// How many copies of a body there are while it is read and handled.
const COPIES_OF_A_BODY: u64 = 4;
/// The most bytes of a user in a list.
const USER: u64 = 2 * 1024;

/// Closes the connection on which a request came in, when cancelled.
#[derive(Clone, Default)]
pub struct Connection(pub CancellationToken);

/// The memory of requests, and how long their bodies may be.
#[derive(Clone)]
pub struct Memory {
    pub budget: Arc<MemoryBudget>,
    pub max_body: u64,
}

impl Memory {
    /// Answers a request with memory for its body, or refuses it. Its handler takes what the answer needs, once it is known whose it is.
    pub async fn answer(&self, mut request: Request, next: Next) -> Response {
        let reservation = Arc::new(self.budget.begin(ClientAddress::of(request.extensions())));
        if let Err(error) = reservation.take_for_anybody(self.most_of_body(&request)).await {
            return error.into_response();
        }
        let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
        request.extensions_mut().insert(Arc::clone(&reservation));
        let response = next.run(request).await;
        let size = response.body().size_hint().lower();
        if size <= SMALL {
            return response;
        }
        // Whoever asked without a token took nothing for the answer.
        if reservation.is_empty()
            && let Err(error) = reservation.take_for_anybody(size.saturating_mul(COPIES_OF_AN_ANSWER)).await
        {
            return error.into_response();
        }
        reservation.is_unread(size.saturating_mul(COPIES_OF_AN_ANSWER), &connection);
        response.map(|body| held(body, reservation))
    }

    fn most_of_body(&self, request: &Request) -> u64 {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return 0;
        }
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        // A body without a length is read as far as it may go.
        let length: u64 = length.unwrap_or(if request.body().is_end_stream() { 0 } else { self.max_body });
        if length <= SMALL { 0 } else { length.min(self.max_body).saturating_mul(COPIES_OF_A_BODY) }
    }
}

/// The most bytes that a page takes while it is made. `path`: whose page it is.
pub fn most_of_page(path: &str, items: u64, max_body: usize) -> u64 {
    let bytes = if path.starts_with("/room") && !path.ends_with("/members") && !path.ends_with("/presence") {
        items.saturating_add(1).saturating_mul(max_body as u64).min(LOG_BYTES + max_body as u64)
    } else {
        items.saturating_mul(USER)
    };
    if bytes <= SMALL { 0 } else { bytes.saturating_mul(COPIES_OF_A_PAGE) }
}

/// The same body, whose memory is reserved until the last of it was written to the connection, or that was closed.
fn held(body: Body, reservation: Arc<Reservation>) -> Body {
    Body::new(body.map_frame(move |frame| {
        let reservation = Arc::clone(&reservation);
        frame.map_data(move |bytes| Bytes::from_owner(HeldBytes { bytes, _reservation: reservation }))
    }))
}

struct HeldBytes {
    bytes: Bytes,
    _reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
