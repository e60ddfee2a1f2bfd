//! The memory of requests and answers: reserved before a handler runs, and held until the client has read the answer.

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

use super::paging::Paging;
use crate::{
    address::ClientAddress,
    budget::{MemoryBudget, Reservation},
    chat::LOG_BYTES,
};

/// What is no larger is not counted: every connection has buffers of that size anyway, and connections are limited in number.
const SMALL: u64 = 16 * 1024;
/// How many copies of a page there are while it is read, written and put together.
const COPIES_OF_A_PAGE: u64 = 3;
/// How many copies of a body there are while it is read and handled.
const COPIES_OF_A_BODY: u64 = 4;
/// What an answer takes that waits to be read: a buffer grows to twice its size.
const COPIES_OF_AN_ANSWER: u64 = 2;

/// Closes the connection on which a request came in, when cancelled.
#[derive(Clone, Default)]
pub struct Connection(pub CancellationToken);

/// The memory of requests, and what they may take of it.
#[derive(Clone)]
pub struct Memory {
    pub budget: Arc<MemoryBudget>,
    pub max_body: u64,
    pub max_page: u64,
}

impl Memory {
    /// Answers a request with as much memory as it may take, or refuses it.
    pub async fn answer(&self, mut request: Request, next: Next) -> Response {
        let most = self.most(&request);
        if most <= SMALL {
            return next.run(request).await;
        }
        let reservation = match self.budget.reserve(ClientAddress::of(request.extensions()), most).await {
            Ok(reservation) => Arc::new(reservation),
            Err(error) => return error.into_response(),
        };
        let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
        request.extensions_mut().insert(Arc::clone(&reservation));
        let response = next.run(request).await;
        match response.body().size_hint().exact() {
            Some(size) if size <= SMALL => response,
            size => {
                reservation.is_unread(size.map_or(most, |size| size.saturating_mul(COPIES_OF_AN_ANSWER)), connection);
                response.map(|body| held(body, reservation))
            }
        }
    }

    /// The most bytes that a request and its answer take.
    fn most(&self, request: &Request) -> u64 {
        match *request.method() {
            Method::GET | Method::HEAD => {
                let items = Paging::of(request.uri(), self.max_page).limit_of(request.uri().path()).saturating_add(1);
                let page = items.saturating_mul(self.max_body).min(LOG_BYTES + self.max_body);
                page.saturating_mul(COPIES_OF_A_PAGE)
            }
            Method::POST | Method::PUT | Method::PATCH => {
                let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
                // A body without a length is read as far as it goes; one of a few bytes is nothing to count.
                let length: u64 = length.unwrap_or(if request.body().is_end_stream() { 0 } else { self.max_body });
                if length <= SMALL { 0 } else { length.min(self.max_body).saturating_mul(COPIES_OF_A_BODY) }
            }
            _ => 0,
        }
    }
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
