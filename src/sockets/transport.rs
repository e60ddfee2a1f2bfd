//! The transports of Socket.IO: hands requests and websockets to the library, each with the [`Guard`] that watches over its connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use socketioxide::{layer::SocketIoLayer, service::SocketIoService, socket::Sid};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};
use tungstenite::handshake::derive_accept_key;

use super::{PATH, frame_filter::FilteredStream, guard::Guard, handshake::compact_request};
use crate::{
    address::ClientAddress,
    budget::MemoryBudget,
    error::Error,
    limits::{Limits, Permit},
};

/// What the library passes on: nothing, since it gets no other requests.
type Nothing = ServiceFn<fn(Request) -> Ready<Result<Response, Infallible>>>;

/// How many sessions are noted before it is looked for those that are over.
const MIN_SESSIONS: usize = 1_024;

/// Hands requests and websockets to the library.
#[derive(Clone)]
pub struct Transport {
    sessions: Sessions,
    limits: Arc<Limits>,
    budget: Arc<MemoryBudget>,
    stopping: CancellationToken,
}

/// The sessions of clients that have begun with polling.
#[derive(Clone)]
pub struct Sessions {
    service: SocketIoService<Nothing>,
    noted: Arc<Mutex<Noted>>,
}

#[derive(Default)]
struct Noted {
    guards: HashMap<Sid, Weak<Guard>>,
    /// How many there were when it was last looked for those that are over.
    left: usize,
}

impl Transport {
    /// The transports of these sockets. Connections end with `stopping`.
    #[must_use]
    pub fn new(layer: &SocketIoLayer, limits: Arc<Limits>, budget: Arc<MemoryBudget>, stopping: CancellationToken) -> Self {
        let nothing: fn(Request) -> _ = |_| ready(Ok(Error::NoEndpoint.into_response()));
        let sessions = Sessions { service: layer.layer(service_fn(nothing)), noted: Arc::default() };
        Self { sessions, limits, budget, stopping }
    }

    /// Watches over the connection that begins with a request from this address.
    #[must_use]
    pub fn guard(&self, address: ClientAddress, place: Permit) -> Arc<Guard> {
        Guard::begin(Arc::clone(&self.limits), Arc::clone(&self.budget), address, place, &self.stopping)
    }

    /// Who watches over the session with this id.
    #[must_use]
    pub fn session(&self, sid: &str) -> Option<Arc<Guard>> {
        self.sessions.noted().guards.get(&sid.parse().ok()?)?.upgrade()
    }

    /// Begins a session of polling that `guard` watches over.
    pub async fn begin(&self, mut request: Request, guard: Arc<Guard>) -> Response {
        request.extensions_mut().insert(Arc::clone(&guard));
        let (parts, body) = self.answer(compact_request(request)).await.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if let Some(sid) = opened(&body) {
            self.sessions.note(sid, &guard);
            guard.polls(sid, self.sessions.clone());
        }
        Response::from_parts(parts, Body::from(body))
    }

    /// Answers a request of a session.
    pub async fn answer(&self, mut request: Request) -> Response {
        // The library would upgrade what it takes for an upgrade, and nobody would watch over it.
        request.extensions_mut().remove::<OnUpgrade>();
        let Ok(response) = self.sessions.service.clone().oneshot(request).await;
        response.into_response()
    }

    /// Makes a connection a websocket, that of the session where there is one.
    pub fn upgrade(&self, mut request: Request, key: &HeaderValue, guard: Arc<Guard>, session: Option<Sid>) -> Response {
        let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
            return Error::Malformed("The key of the websocket is not valid".into()).into_response();
        };
        let upgrade = hyper::upgrade::on(&mut request);
        request.extensions_mut().insert(Arc::clone(&guard));
        let (parts, _) = compact_request(request).into_parts();
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            // Otherwise the client has gone before it had the answer.
            if let Ok(stream) = upgrade.await {
                let stream = FilteredStream::new(TokioIo::new(stream), guard, session.map(|sid| (sid, sessions.clone())));
                let websocket = (stream, Request::from_parts(parts, ()));
                // Of the request everything is known to be right that could be wrong.
                let _ = sessions.service.clone().call(websocket).await;
            }
        });
        let switching = (
            StatusCode::SWITCHING_PROTOCOLS,
            [
                (header::UPGRADE, HeaderValue::from_static("websocket")),
                (header::CONNECTION, HeaderValue::from_static("Upgrade")),
                (header::SEC_WEBSOCKET_ACCEPT, accept),
            ],
        );
        switching.into_response()
    }

    /// Ends all sessions of polling.
    pub async fn close(&self) {
        let sids: Vec<_> = self.sessions.noted().guards.drain().map(|(sid, _)| sid).collect();
        for sid in sids {
            self.sessions.end(sid).await;
        }
    }
}

impl Sessions {
    /// Ends a session that has not become a websocket. The library has no such function, but does what a client asks for.
    pub async fn end(&self, sid: Sid) {
        let uri = format!("{PATH}/?EIO=4&transport=polling&sid={sid}");
        if let Ok(request) = Request::post(uri).body(Body::from("1")) {
            let Ok(_) = self.service.clone().oneshot(request).await;
        }
        self.noted().guards.remove(&sid);
    }

    fn note(&self, sid: Sid, guard: &Arc<Guard>) {
        let mut noted = self.noted();
        if noted.guards.len() >= MIN_SESSIONS.max(2 * noted.left) {
            noted.guards.retain(|_, guard| guard.strong_count() > 0);
            noted.left = noted.guards.len();
        }
        noted.guards.insert(sid, Arc::downgrade(guard));
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id of the session that the library has opened with this answer.
fn opened(answer: &Bytes) -> Option<Sid> {
    let answer = str::from_utf8(answer).ok()?;
    let (_, behind) = answer.split_once("\"sid\":\"")?;
    behind.split('"').next()?.parse().ok()
}
