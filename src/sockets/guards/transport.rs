//! The transports of Socket.IO: passes requests and websockets to socketioxide, each with the
//! [`Guard`] of its connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Weak},
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
use parking_lot::Mutex;
use socketioxide::{layer::SocketIoLayer, service::SocketIoService, socket::Sid};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};
use tungstenite::handshake::derive_accept_key;

use super::{
    connection_guard::{Guard, NewConnection},
    frame_filter::FilteredStream,
    handshake::compact_request,
};
use crate::{
    address::ClientAddress,
    budget::MemoryBudget,
    error::Error,
    limits::{Limits, Permit},
    sockets::PATH,
};

/// The inner service of socketioxide. It is never called, because only requests for sockets get
/// there.
type FallbackService = ServiceFn<fn(Request) -> Ready<Result<Response, Infallible>>>;

/// Number of tracked sessions before ended ones are removed.
const MIN_SESSIONS: usize = 1_024;

/// Passes requests and websockets to socketioxide.
#[derive(Clone)]
pub struct Transport {
    sessions: Sessions,
    limits: Arc<Limits>,
    budget: Arc<MemoryBudget>,
    stopping: CancellationToken,
}

/// The sessions of clients that began with polling.
#[derive(Clone)]
pub struct Sessions {
    service: SocketIoService<FallbackService>,
    guards: Arc<Mutex<Guards>>,
}

/// The guards of the sessions that have not ended.
#[derive(Default)]
struct Guards {
    by_session: HashMap<Sid, Weak<Guard>>,
    /// Number of sessions left after ended ones were last removed.
    left: usize,
}

impl Transport {
    /// Creates the transports for the sockets of `layer`. Cancelling `stopping` ends all
    /// connections.
    #[must_use]
    pub fn new(
        layer: &SocketIoLayer,
        limits: Arc<Limits>,
        budget: Arc<MemoryBudget>,
        stopping: CancellationToken,
    ) -> Self {
        let fallback: fn(Request) -> _ = |_| ready(Ok(Error::NoEndpoint.into_response()));
        let sessions = Sessions {
            service: layer.layer(service_fn(fallback)),
            guards: Arc::default(),
        };
        Self {
            sessions,
            limits,
            budget,
            stopping,
        }
    }

    /// Creates the guard for a new connection from this address.
    #[must_use]
    pub fn guard(&self, address: ClientAddress, permit: Permit) -> Arc<Guard> {
        Guard::begin(NewConnection {
            limits: Arc::clone(&self.limits),
            budget: Arc::clone(&self.budget),
            address,
            permit,
            stopping: &self.stopping,
        })
    }

    /// Returns the guard of the session with this id.
    #[must_use]
    pub fn session(&self, sid: &str) -> Option<Arc<Guard>> {
        self.sessions
            .guards
            .lock()
            .by_session
            .get(&sid.parse().ok()?)?
            .upgrade()
    }

    /// Begins a polling session with this guard.
    pub async fn begin(&self, mut request: Request, guard: Arc<Guard>) -> Response {
        request.extensions_mut().insert(Arc::clone(&guard));
        let (parts, body) = self.answer(compact_request(request)).await.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        if let Some(sid) = opened(&body) {
            self.sessions.add(sid, &guard);
            let sessions = self.sessions.clone();
            guard.polls(Arc::new(move || {
                let sessions = sessions.clone();
                tokio::spawn(async move { sessions.end(sid).await });
            }));
        }
        Response::from_parts(parts, Body::from(body))
    }

    /// Handles a request of a polling session.
    pub async fn answer(&self, mut request: Request) -> Response {
        // socketioxide would upgrade any request that looks like an upgrade, without a guard.
        request.extensions_mut().remove::<OnUpgrade>();
        let Ok(response) = self.sessions.service.clone().oneshot(request).await;
        response.into_response()
    }

    /// Upgrades a connection to a websocket. `is_upgrade` says whether it continues the polling
    /// session of this guard.
    pub fn upgrade(
        &self,
        mut request: Request,
        key: &HeaderValue,
        guard: Arc<Guard>,
        is_upgrade: bool,
    ) -> Response {
        let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
            return Error::Malformed("The key of the websocket is not valid".into())
                .into_response();
        };
        let upgrade = hyper::upgrade::on(&mut request);
        request.extensions_mut().insert(Arc::clone(&guard));
        let (parts, _) = compact_request(request).into_parts();
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            // Fails if the client has disconnected before it received the answer.
            if let Ok(stream) = upgrade.await {
                let stream = FilteredStream::new(TokioIo::new(stream), guard, is_upgrade);
                let websocket = (stream, Request::from_parts(parts, ()));
                // The result is ignored, because the request was validated before.
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

    /// Ends all polling sessions.
    pub async fn close(&self) {
        let sids: Vec<_> = self
            .sessions
            .guards
            .lock()
            .by_session
            .drain()
            .map(|(sid, _)| sid)
            .collect();
        for sid in sids {
            self.sessions.end(sid).await;
        }
    }
}

impl Sessions {
    /// Ends a session that was not upgraded to a websocket. socketioxide has no function for this,
    /// so it is sent the packet with which a client ends its session.
    pub async fn end(&self, sid: Sid) {
        let uri = format!("{PATH}/?EIO=4&transport=polling&sid={sid}");
        if let Ok(request) = Request::post(uri).body(Body::from("1")) {
            let Ok(_) = self.service.clone().oneshot(request).await;
        }
        self.guards.lock().by_session.remove(&sid);
    }

    fn add(&self, sid: Sid, guard: &Arc<Guard>) {
        let mut guards = self.guards.lock();
        if guards.by_session.len() >= MIN_SESSIONS.max(2 * guards.left) {
            guards
                .by_session
                .retain(|_, guard| guard.strong_count() > 0);
            guards.left = guards.by_session.len();
        }
        guards.by_session.insert(sid, Arc::downgrade(guard));
    }
}

/// Returns the id of the session that socketioxide has opened with this answer.
fn opened(answer: &Bytes) -> Option<Sid> {
    let answer = str::from_utf8(answer).ok()?;
    let (_, rest) = answer.split_once("\"sid\":\"")?;
    rest.split('"').next()?.parse().ok()
}
