//! Memory of requests and responses: reserved before it is used, and held until the client has read
//! the response.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use crate::{
    address::ClientAddress,
    budget::{COPIES_OF_A_PAGE, COPIES_OF_AN_ANSWER, MemoryBudget, Reservation},
    chat::LOG_BYTES,
};

/// Sizes up to this, in bytes, are not counted: every connection has buffers of that size anyway,
/// and the number of connections is limited.
pub const SMALL: u64 = 16 * 1024;
/// The number of copies of a body in memory while it is read and handled.
const COPIES_OF_A_BODY: u64 = 4;
/// The maximum size of a user in a list, in bytes.
const USER: u64 = 2 * 1024;

/// Closes the connection of a request when cancelled.
#[derive(Clone, Default)]
pub struct Connection(pub CancellationToken);

/// The memory limits of requests, and the maximum size of their bodies in bytes.
#[derive(Clone)]
pub struct Memory {
    pub budget: Arc<MemoryBudget>,
    pub max_body: u64,
}

impl Memory {
    /// Reserves memory for the request body and runs the handler, or refuses the request. The
    /// handler reserves memory for the response once the user is known.
    pub async fn answer(&self, mut request: Request, next: Next) -> Response {
        let reservation = Arc::new(self.budget.begin(ClientAddress::of(request.extensions())));
        if let Err(error) = reservation
            .take_for_address(Self::most_of_body(&request, self.max_body))
            .await
        {
            return error.into_response();
        }
        let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
        request.extensions_mut().insert(Arc::clone(&reservation));
        if !reservation.is_empty() {
            request = request.map(|body| {
                Body::new(Arriving::new(
                    body,
                    Arc::clone(&reservation),
                    connection.clone(),
                ))
            });
        }
        let response = next.run(request).await;
        let size = response.body().size_hint().lower();
        if size <= SMALL {
            return response;
        }
        // Without a token, the handler has not reserved memory for the response.
        if reservation.is_empty()
            && let Err(error) = reservation
                .take_for_address(size.saturating_mul(COPIES_OF_AN_ANSWER))
                .await
        {
            return error.into_response();
        }
        reservation.set_unread(size.saturating_mul(COPIES_OF_AN_ANSWER), &connection);
        response.map(|body| held(body, reservation))
    }

    /// Returns the maximum memory, in bytes, that the body of a request takes. `max` is the maximum
    /// size of the body.
    pub fn most_of_body(request: &Request, max: u64) -> u64 {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return 0;
        }
        let length = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        // A body without a length is read up to the limit.
        let length: u64 = length.unwrap_or(if request.body().is_end_stream() {
            0
        } else {
            max
        });
        if length <= SMALL {
            0
        } else {
            length.min(max).saturating_mul(COPIES_OF_A_BODY)
        }
    }
}

/// Returns the maximum memory, in bytes, that a page takes while it is built. `path` is the path of
/// the request.
pub fn most_of_page(path: &str, items: u64, max_body: usize) -> u64 {
    let bytes =
        if path.starts_with("/room") && !path.ends_with("/members") && !path.ends_with("/presence")
        {
            items
                .saturating_add(1)
                .saturating_mul(max_body as u64)
                .min(LOG_BYTES + max_body as u64)
        } else {
            items.saturating_mul(USER)
        };
    if bytes <= SMALL {
        0
    } else {
        bytes.saturating_mul(COPIES_OF_A_PAGE)
    }
}

/// A request body for which memory is reserved. Its connection may be closed to free memory from
/// the first time that the body has to be waited for until it is dropped.
pub struct Arriving {
    body: Body,
    reservation: Arc<Reservation>,
    connection: CancellationToken,
    is_awaited: bool,
}

impl Arriving {
    pub fn new(body: Body, reservation: Arc<Reservation>, connection: CancellationToken) -> Self {
        Self {
            body,
            reservation,
            connection,
            is_awaited: false,
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() && !mem::replace(&mut self.is_awaited, true) {
            self.reservation.allow_close(&self.connection);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.reservation.forbid_close();
    }
}

/// Returns the body with a value that is dropped when all of the body has been written to the
/// connection, or the connection is closed.
pub fn held<T: Send + Sync + 'static>(body: Body, held: Arc<T>) -> Body {
    Body::new(HeldBody { body, held })
}

struct HeldBody<T> {
    body: Body,
    held: Arc<T>,
}

impl<T: Send + Sync + 'static> HttpBody for HeldBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = |bytes| {
            Bytes::from_owner(HeldBytes {
                bytes,
                _held: Arc::clone(&self.held),
            })
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    // Known, so that the response has a Content-Length.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct HeldBytes<T> {
    bytes: Bytes,
    _held: Arc<T>,
}

impl<T> AsRef<[u8]> for HeldBytes<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
