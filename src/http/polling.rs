//! Checks requests to the Socket.IO endpoint before socketioxide handles them: connection limits,
//! the websocket handshake, and the payloads of polling clients. The library checks none of these,
//! and waits for a payload without a timeout.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use http_body_util::{BodyExt, Collected};
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    body,
    memory::{Arriving, Connection, Memory, SMALL, held},
    websocket,
};
use crate::{
    address::ClientAddress,
    auth::authorization,
    descriptors::Descriptors,
    error::{Error, Result},
    limits::Limits,
    sockets::{self, BytesWritten, Framing, Guard, Transport, Violation},
};

/// The maximum size, in bytes, of the parts of its first request that a connection keeps: the URI
/// and the headers that matter.
const HEAD_BYTES: usize = 8 * 1024;

/// Limits that apply to every request.
#[derive(Clone)]
pub struct RequestLimits {
    /// The maximum size of a payload, in bytes.
    pub bytes: usize,
    /// The timeout of a request, and of receiving a payload.
    pub time: Duration,
    /// Rate limits of opening socket connections, and limits of their number.
    pub rates: Arc<Limits>,
    /// Limits the number of connections by file descriptors.
    pub descriptors: Arc<Descriptors>,
    /// Handles requests to the Socket.IO endpoint.
    pub transport: Transport,
    /// The memory limits of requests.
    pub memory: Memory,
}

/// Handles a request to the Socket.IO endpoint.
pub async fn check(limits: RequestLimits, request: Request, next: Next) -> Response {
    if !sockets::is_path(request.uri().path()) {
        return next.run(request).await;
    }
    if let Err(error) = authorization(request.headers()) {
        // Checked here, because later stages see only one `Authorization` header and cannot detect
        // duplicates.
        return error.into_response();
    }
    let parameters = Parameters::of(&request);
    if !parameters.is_known_version {
        return limits.transport.answer(request).await;
    }
    let answered = match (parameters.transport, parameters.sid, request.method()) {
        (TransportName::Websocket, None, &Method::GET) => begin_websocket(&limits, request),
        (TransportName::Websocket, Some(sid), &Method::GET) => upgrade(&limits, request, &sid),
        (TransportName::Polling, None, &Method::GET) => begin_polling(&limits, request).await,
        (TransportName::Polling, Some(sid), &Method::GET) => Ok(poll(&limits, request, &sid).await),
        (TransportName::Polling, Some(sid), &Method::POST) => receive(&limits, request, &sid).await,
        _ => Ok(limits.transport.answer(request).await),
    };
    answered.unwrap_or_else(Refusal::into_response)
}

/// The response to a request that is refused.
enum Refusal {
    Error(Error),
    Answer(Box<Response>),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Box<Response>> for Refusal {
    fn from(answer: Box<Response>) -> Self {
        Self::Answer(answer)
    }
}

impl Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Error(error) => error.into_response(),
            Self::Answer(answer) => *answer,
        }
    }
}

type Answered = std::result::Result<Response, Refusal>;

/// Applies the connection limits to a connection that begins with this request, and returns the
/// guard that monitors it.
fn begin(limits: &RequestLimits, request: &mut Request) -> Result<Arc<Guard>> {
    if sockets::kept_bytes(request) > HEAD_BYTES {
        return Err(Error::Malformed(format!(
            "The head of a request for a socket is larger than {HEAD_BYTES} bytes"
        )));
    }
    let address = ClientAddress::of(request.extensions());
    limits.rates.connection(address)?;
    // The library keeps the request for as long as the connection is open, whether a socket
    // connects on it, is refused, or has disconnected. The permit is stored in the request, so it
    // is held for the same time.
    let permit = limits.rates.socket(address)?;
    request.extensions_mut().insert(permit);
    Ok(limits
        .transport
        .guard(address, limits.rates.unconnected(address)?))
}

fn begin_websocket(limits: &RequestLimits, mut request: Request) -> Answered {
    // The limits by address come first, so that they count requests of any kind.
    let guard = begin(limits, &mut request)?;
    guard.carried_by(&bytes_written(&request));
    let key = allowed_key(limits, &request)?;
    Ok(limits.transport.upgrade(request, &key, guard, false))
}

async fn begin_polling(limits: &RequestLimits, mut request: Request) -> Answered {
    let guard = begin(limits, &mut request)?;
    Ok(limits.transport.begin(request, guard).await)
}

/// Upgrades a connection to the websocket of an existing session. A client gets one websocket in
/// place of its polling and no more: no limit would count the others.
fn upgrade(limits: &RequestLimits, request: Request, sid: &str) -> Answered {
    let key = allowed_key(limits, &request)?;
    let Some(guard) = limits.transport.session(sid) else {
        return Ok(unknown());
    };
    if !guard.carried_by(&bytes_written(&request)) {
        return Err(Error::Malformed("This connection has its websocket already".into()).into());
    }
    Ok(limits.transport.upgrade(request, &key, guard, true))
}

fn bytes_written(request: &Request) -> BytesWritten {
    request.extensions().get().cloned().unwrap_or_default()
}

/// Returns the key of a websocket handshake.
///
/// Errors: the handshake is invalid, or no further websocket is allowed (`Busy`).
fn allowed_key(
    limits: &RequestLimits,
    request: &Request,
) -> std::result::Result<HeaderValue, Refusal> {
    let key = websocket::key(request)?;
    if limits.descriptors.allow_websocket() {
        Ok(key)
    } else {
        Err(Error::Busy.into())
    }
}

/// An error of Engine.IO, in the form of the library.
#[derive(Serialize)]
struct EngineError {
    code: &'static str,
    message: &'static str,
}

/// Returns the response that the library gives for an unknown session.
fn unknown() -> Response {
    let error = EngineError {
        code: "1",
        message: "Session ID unknown",
    };
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
}

/// Answers a poll, and reports to the guard how many bytes the response took to the client.
async fn poll(limits: &RequestLimits, request: Request, sid: &str) -> Response {
    let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
    let guard = limits.transport.session(sid);
    let response = limits.transport.answer(request).await;
    let Some(guard) = guard.filter(|_| response.status().is_success()) else {
        return response;
    };
    let response = if guard.ended().is_cancelled() {
        last(&guard, response).await
    } else {
        response
    };
    let bytes = response.body().size_hint().lower();
    if bytes <= SMALL {
        guard.polled(bytes);
        return response;
    }
    response.map(|body| {
        let over = CancellationToken::new();
        let cut_off = guard.cut_off().clone();
        let polled = Arc::new(Polled {
            guard,
            bytes,
            _over: over.clone().drop_guard(),
        });
        tokio::spawn(async move {
            tokio::select! {
                () = cut_off.cancelled() => connection.cancel(),
                () = over.cancelled() => {}
            }
        });
        held(body, polled)
    })
}

/// A large response to a poll, until it is written to the connection. Reports its size to the guard
/// when dropped.
struct Polled {
    guard: Arc<Guard>,
    bytes: u64,
    _over: DropGuard,
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.guard.polled(self.bytes);
    }
}

/// Ends the session if the client fetches its last packet, which disconnects the client (`41`).
async fn last(guard: &Guard, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let payload = body
        .collect()
        .await
        .map(Collected::to_bytes)
        .unwrap_or_default();
    if payload.ends_with(b"41") {
        guard.end_session();
    }
    Response::from_parts(parts, Body::from(payload))
}

/// Receives the payload of a polling client.
async fn receive(limits: &RequestLimits, request: Request, sid: &str) -> Answered {
    let Some(guard) = limits.transport.session(sid) else {
        return Ok(unknown());
    };
    let memory = Arc::new(
        limits
            .memory
            .budget
            .begin(ClientAddress::of(request.extensions())),
    );
    let most = Memory::most_of_body(&request, limits.bytes as u64);
    match guard.user() {
        Some(user) => memory.take_for_user(user, most).await?,
        None => memory.take_for_address(most).await?,
    }
    let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
    let framing = framing(&request);
    let (parts, body) = request.into_parts();
    let (most, announced) = (guard.allowance(limits.bytes), body.size_hint().lower());
    // An oversized payload is read to its end too: otherwise the client might not get the response.
    let body = Body::new(Arriving::new(body, Arc::clone(&memory), connection));
    let reading = body::read_of(body, most, limits.bytes);
    let payload = tokio::time::timeout(limits.time, reading)
        .await
        .map_err(|_| Error::TooSlow)?;
    let payload = payload.map_err(|error| match error {
        Error::TooLarge(_) if announced <= limits.bytes as u64 => {
            ended(&guard, Violation::Unconnected)
        }
        error => error,
    })?;
    let screened = guard
        .receives(payload.len() as u64)
        .and_then(|()| sockets::screen(payload.into(), framing, &guard));
    let payload = screened.map_err(|violation| ended(&guard, violation))?;
    Ok(limits
        .transport
        .answer(Request::from_parts(parts, Body::from(payload)))
        .await)
}

/// Ends a session because of what its client sent. Returns the error for the response.
fn ended(guard: &Arc<Guard>, violation: Violation) -> Error {
    guard.violated(violation);
    Error::Malformed(format!("The session is closed: {violation}"))
}

fn framing(request: &Request) -> Framing {
    let is_binary = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/octet-stream");
    match (parameter(request, "EIO="), is_binary) {
        (Some("3"), true) => Framing::Binary,
        (Some("3"), false) => Framing::Counted,
        _ => Framing::Separated,
    }
}

/// The parameters of a request, parsed from the query as the library parses them.
struct Parameters {
    is_known_version: bool,
    transport: TransportName,
    sid: Option<String>,
}

enum TransportName {
    Polling,
    Websocket,
    Other,
}

impl Parameters {
    fn of(request: &Request) -> Self {
        let transport = match parameter(request, "transport=") {
            Some("polling") => TransportName::Polling,
            Some("websocket") => TransportName::Websocket,
            _ => TransportName::Other,
        };
        let sid = query(request)
            .find_map(|pair| pair.strip_prefix("sid="))
            .map(ToOwned::to_owned);
        Self {
            is_known_version: matches!(parameter(request, "EIO="), Some("3" | "4")),
            transport,
            sid,
        }
    }
}

fn query(request: &Request) -> impl Iterator<Item = &str> {
    request.uri().query().unwrap_or_default().split('&')
}

/// Returns the value that follows `name` in the query. Like the library, reads it up to the next
/// `=`.
fn parameter<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    query(request)
        .find_map(|pair| pair.strip_prefix(name))
        .and_then(|value| value.split('=').next())
}
