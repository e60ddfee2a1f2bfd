//! Requests for sockets, looked at before the library sees them: whether their client may open one more connection, whether it is a
//! websocket that it asks for, and what it sends when it polls. The library does none of that, and waits for a payload for ever.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use http_body_util::{BodyExt, Collected};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    body,
    memory::{Arriving, Connection, Memory, held},
    websocket,
};
use crate::{
    access::authorization,
    address::ClientAddress,
    descriptors::Descriptors,
    error::{Error, Result},
    limits::Limits,
    sockets::{self, BytesWritten, Framing, Guard, Transport, Violation},
};

/// The most bytes of its first request that a connection may keep: its URI, and the headers that matter.
const HEAD_BYTES: usize = 8 * 1024;

/// What requests may take.
#[derive(Clone)]
pub struct RequestLimits {
    /// The largest payload, in bytes.
    pub bytes: usize,
    /// How long a request may take, or its client to send a payload.
    pub time: Duration,
    /// How often a client may open a connection for sockets, and how many it may have.
    pub rates: Arc<Limits>,
    /// How many connections there may be at all.
    pub descriptors: Arc<Descriptors>,
    /// Where requests for sockets go.
    pub transport: Transport,
    /// The memory of requests.
    pub memory: Memory,
}

/// Answers a request for sockets.
pub async fn check(limits: RequestLimits, request: Request, next: Next) -> Response {
    if !sockets::is_path(request.uri().path()) {
        return next.run(request).await;
    }
    if let Err(error) = authorization(request.headers()) {
        // Later only one would be left, and nobody could tell.
        return error.into_response();
    }
    let asked = Asked::of(&request);
    if !asked.is_known_version {
        return limits.transport.answer(request).await;
    }
    let answered = match (asked.transport, asked.sid, request.method()) {
        (Asks::Websocket, None, &Method::GET) => begin_websocket(&limits, request),
        (Asks::Websocket, Some(sid), &Method::GET) => upgrade(&limits, request, &sid),
        (Asks::Polling, None, &Method::GET) => begin_polling(&limits, request).await,
        (Asks::Polling, Some(sid), &Method::GET) => Ok(poll(&limits, request, &sid).await),
        (Asks::Polling, Some(sid), &Method::POST) => receive(&limits, request, &sid).await,
        _ => Ok(limits.transport.answer(request).await),
    };
    answered.unwrap_or_else(Refusal::into_response)
}

/// The answer to a request that is not carried out.
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

/// A place for a connection that begins with this request, and who watches over it.
fn begin(limits: &RequestLimits, request: &mut Request) -> Result<Arc<Guard>> {
    if sockets::kept_bytes(request) > HEAD_BYTES {
        return Err(Error::Malformed(format!("The head of a request for a socket is larger than {HEAD_BYTES} bytes")));
    }
    let address = ClientAddress::of(request.extensions());
    limits.rates.connection(address)?;
    // The library keeps the request for as long as the connection is open, whether a socket connects on it, is refused, or has left.
    let place = limits.rates.socket(address)?;
    request.extensions_mut().insert(place);
    Ok(limits.transport.guard(address, limits.rates.unconnected(address)?))
}

fn begin_websocket(limits: &RequestLimits, mut request: Request) -> Answered {
    // In this order: what is counted by address counts for requests of any kind.
    let guard = begin(limits, &mut request)?;
    guard.carried_by(&taken(&request));
    let key = allowed_key(limits, &request)?;
    Ok(limits.transport.upgrade(request, &key, guard, None))
}

async fn begin_polling(limits: &RequestLimits, mut request: Request) -> Answered {
    let guard = begin(limits, &mut request)?;
    Ok(limits.transport.begin(request, guard).await)
}

/// Makes a connection the websocket of a session. A client gets one in the place of its polling, and no more: they would be connections that
/// nobody counts.
fn upgrade(limits: &RequestLimits, request: Request, sid: &str) -> Answered {
    let key = allowed_key(limits, &request)?;
    let (Some(guard), Ok(id)) = (limits.transport.session(sid), sid.parse()) else {
        return Ok(unknown());
    };
    if !guard.carried_by(&taken(&request)) {
        return Err(Error::Malformed("This connection has its websocket already".into()).into());
    }
    Ok(limits.transport.upgrade(request, &key, guard, Some(id)))
}

fn taken(request: &Request) -> BytesWritten {
    request.extensions().get().cloned().unwrap_or_default()
}

/// The key of a request for a websocket, if there may be one more.
fn allowed_key(limits: &RequestLimits, request: &Request) -> std::result::Result<HeaderValue, Refusal> {
    let key = websocket::key(request)?;
    if limits.descriptors.allow_websocket() { Ok(key) } else { Err(Error::Busy.into()) }
}

/// What the library answers where it does not know the session.
fn unknown() -> Response {
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (StatusCode::BAD_REQUEST, json, r#"{"code":"1","message":"Session ID unknown"}"#).into_response()
}

/// Answers a poll, and notes what is taken to the client by that.
async fn poll(limits: &RequestLimits, request: Request, sid: &str) -> Response {
    let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
    let guard = limits.transport.session(sid);
    let response = limits.transport.answer(request).await;
    let Some(guard) = guard.filter(|_| response.status().is_success()) else { return response };
    let response = if guard.ended().is_cancelled() { last(&guard, response).await } else { response };
    response.map(|body| {
        let (bytes, over) = (body.size_hint().lower(), CancellationToken::new());
        let cut_off = guard.cut_off().clone();
        let polled = Arc::new(Polled { guard, bytes, _over: over.clone().drop_guard() });
        tokio::spawn(async move {
            tokio::select! {
                () = cut_off.cancelled() => connection.cancel(),
                () = over.cancelled() => {}
            }
        });
        held(body, polled)
    })
}

/// What a poll takes to the client, until it was written to the connection.
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

/// Ends the session once its client has fetched what was sent to it, of which the packet that disconnects it is the last.
async fn last(guard: &Guard, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let payload = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    if payload.ends_with(b"41") {
        guard.end_session();
    }
    Response::from_parts(parts, Body::from(payload))
}

/// Takes what a client sends that polls.
async fn receive(limits: &RequestLimits, request: Request, sid: &str) -> Answered {
    let Some(guard) = limits.transport.session(sid) else {
        return Ok(unknown());
    };
    let memory = Arc::new(limits.memory.budget.begin(ClientAddress::of(request.extensions())));
    let most = Memory::most_of_body(&request, limits.bytes as u64);
    match guard.user() {
        Some(user) => memory.take_for_user(user, most).await?,
        None => memory.take_for_anybody(most).await?,
    }
    let Connection(connection) = request.extensions().get().cloned().unwrap_or_default();
    let framing = framing(&request);
    let (parts, body) = request.into_parts();
    let (most, announced) = (guard.allowance(limits.bytes), body.size_hint().lower());
    // Read to its end also where it is too large: otherwise the client might not get the answer.
    let body = Body::new(Arriving::new(body, Arc::clone(&memory), connection));
    let reading = body::read_of(body, most, limits.bytes);
    let payload = tokio::time::timeout(limits.time, reading).await.map_err(|_| Error::TooSlow)?;
    let payload = payload.map_err(|error| match error {
        Error::TooLarge(_) if announced <= limits.bytes as u64 => ended(&guard, Violation::Unconnected),
        error => error,
    })?;
    let screened = guard.receives(payload.len() as u64).and_then(|()| sockets::screen(payload.into(), framing, &guard));
    let payload = screened.map_err(|violation| ended(&guard, violation))?;
    Ok(limits.transport.answer(Request::from_parts(parts, Body::from(payload))).await)
}

/// Ends a session for what its client has sent.
fn ended(guard: &Arc<Guard>, violation: Violation) -> Error {
    guard.violated(violation);
    Error::Malformed(format!("The session is closed: {violation}"))
}

fn framing(request: &Request) -> Framing {
    let is_binary = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/octet-stream");
    match (parameter(request, "EIO="), is_binary) {
        (Some("3"), true) => Framing::Binary,
        (Some("3"), false) => Framing::Counted,
        _ => Framing::Separated,
    }
}

/// What a request asks for, read from its query as the library reads it.
struct Asked {
    is_known_version: bool,
    transport: Asks,
    sid: Option<String>,
}

enum Asks {
    Polling,
    Websocket,
    Other,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let transport = match parameter(request, "transport=") {
            Some("polling") => Asks::Polling,
            Some("websocket") => Asks::Websocket,
            _ => Asks::Other,
        };
        let sid = query(request).find_map(|pair| pair.strip_prefix("sid=")).map(ToOwned::to_owned);
        Self { is_known_version: matches!(parameter(request, "EIO="), Some("3" | "4")), transport, sid }
    }
}

fn query(request: &Request) -> impl Iterator<Item = &str> {
    request.uri().query().unwrap_or_default().split('&')
}

/// The library reads a value up to the next `=`.
fn parameter<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    query(request).find_map(|pair| pair.strip_prefix(name)).and_then(|value| value.split('=').next())
}
