//! Accepts connections, serves each in its own task, and shuts them down when the server stops.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer, ServiceExt};
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};

use super::{
    base_path,
    keep_alive::{Activity, Answering, Timed, Timeouts},
    memory::Connection,
    write_timeout::WriteTimeout,
};
use crate::{
    address::Peer,
    config::{BasePath, Config, HttpConfig},
    descriptors::{Descriptor, Descriptors},
    limits::{ConnectionLimiter, Permit},
    refusals,
    sockets::BytesWritten,
};

/// Delay before accepting again after an error of the operating system.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a client may accept no data before its connection is closed.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// The size of the read buffer, in bytes. It limits the size of a request head too; a head that
/// arrives all at once may be slightly larger.
const READ_BUFFER: usize = 64 * 1024;

/// The open connections.
#[derive(Default)]
pub struct Connections {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Connections {
    /// Lets requests in progress finish, accepts no further ones, and waits until all connections
    /// are closed.
    pub async fn shutdown(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Serves a connection in a task of its own.
    fn spawn(&self, accepted: Accepted, serving: &Serving) {
        let Accepted {
            stream,
            peer,
            descriptor,
            permit,
        } = accepted;
        // Without it, small responses wait for the acknowledgement of the previous one. If the call
        // fails, the connection is already closed.
        let _ = stream.set_nodelay(true);
        let requests = Requests {
            peer,
            activity: Activity::new(),
            written: BytesWritten::default(),
            closing: CancellationToken::new(),
            base_path: Arc::clone(&serving.base_path),
            service: serving.service.clone(),
        };
        let stream = Timed::new(stream, serving.timeouts, requests.activity.clone());
        let stream = TokioIo::new(
            WriteTimeout::new(stream, requests.written.clone(), WRITE_PATIENCE).holding(descriptor),
        );
        let closed = requests.closing.clone();
        let service = service_fn(move |request| requests.answer(request));
        let connection = serving
            .http
            .serve_connection(stream, service)
            .with_upgrades();
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            // Held until the connection ends or becomes a websocket, which has limits of its own.
            let _permit = permit;
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = closed.cancelled() => {
                    tracing::debug!("closed connection: client does not read or send");
                    return;
                }
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection error");
            }
        });
    }
}

/// A connection that was accepted, and what it takes of limited resources.
struct Accepted {
    stream: TcpStream,
    peer: Peer,
    descriptor: Descriptor,
    permit: Permit,
}

/// Answers the requests on one connection.
struct Requests {
    peer: Peer,
    activity: Activity,
    written: BytesWritten,
    /// Closes the connection when cancelled.
    closing: CancellationToken,
    base_path: Arc<BasePath>,
    service: NormalizePath<Router>,
}

impl Requests {
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Answering<Body>>, Infallible>> + use<> {
        let in_flight = self.activity.begin();
        let client = self.peer.client(request.headers());
        request.extensions_mut().insert(client);
        request.extensions_mut().insert(self.written.clone());
        request
            .extensions_mut()
            .insert(Connection(self.closing.clone()));
        let (mut parts, body) = request.into_parts();
        base_path::take_off(&self.base_path, &mut parts.uri, &mut parts.extensions);
        let (service, activity) = (self.service.clone(), self.activity.clone());
        async move {
            let response: Response = service.oneshot(Request::from_parts(parts, body)).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                activity.upgrade();
            }
            Ok(response.map(|body| Answering::new(body, in_flight)))
        }
    }
}

/// What connections are served with.
pub struct Service<'a> {
    /// Answers the requests.
    pub router: Router,
    /// The settings.
    pub config: &'a Config,
    /// Limits the number of connections by file descriptors.
    pub descriptors: &'a Arc<Descriptors>,
}

/// The configuration of served connections.
struct Serving {
    http: http1::Builder,
    timeouts: Timeouts,
    base_path: Arc<BasePath>,
    service: NormalizePath<Router>,
}

impl Serving {
    fn new(config: &HttpConfig, router: Router) -> Self {
        // Not the builder that detects the HTTP version: it also accepts HTTP/2, and waits for the
        // first bytes without a timeout.
        let mut http = http1::Builder::new();
        // Disabled because hyper has a single timeout for idle connections and heads. [`Timed`]
        // replaces it.
        http.header_read_timeout(None).max_buf_size(READ_BUFFER);
        let timeouts = Timeouts {
            keep_alive: config.keep_alive_timeout_ms.into(),
            head: config.header_timeout_ms.into(),
        };
        Self {
            http,
            timeouts,
            base_path: Arc::new(config.base_path.clone()),
            // Wraps the router, because it changes the path that the router matches.
            service: NormalizePathLayer::trim_trailing_slash().layer(router),
        }
    }
}

/// Accepts connections and serves them until `shutdown` completes. Returns the connections that are
/// still open; no request begins on them once they are asked to shut down.
pub async fn serve(
    listener: TcpListener,
    service: Service<'_>,
    shutdown: impl Future<Output = ()>,
) -> Connections {
    let Service {
        router,
        config,
        descriptors,
    } = service;
    let limiter = ConnectionLimiter::new(config.limits.connections_per_address, config.access);
    let config = &config.http;
    let proxies = Arc::new(config.trusted_proxies.clone());
    let serving = Serving::new(config, router);
    let open = Connections::default();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return open,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let peer = Peer::new(address.ip(), &proxies);
                    let permit = peer.direct().map_or_else(|| Some(Permit::default()), |address| limiter.take(address));
                    // Without a descriptor or a permit, the stream is dropped and thereby closed: a
                    // response would use more of the exhausted resource.
                    match (descriptors.take(), permit) {
                        (Some(descriptor), Some(permit)) => open.spawn(Accepted { stream, peer, descriptor, permit }, &serving),
                        (None, _) => {
                            if refusals::is_first(address.ip().into(), "connections closed for want of file descriptors") {
                                tracing::warn!(address = %address.ip(), "closed connection: file descriptors nearly exhausted");
                            }
                        }
                        (_, None) => tracing::debug!(address = %address.ip(), "closed connection: too many connections from one address"),
                    }
                }
                Err(error) => refused(&error).await,
            },
        }
    }
}

async fn refused(error: &io::Error) {
    // A client that disconnected before it was accepted needs no action; any other error lasts for
    // a while.
    if !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    ) {
        tracing::warn!(%error, "failed to accept connection");
        tokio::time::sleep(ACCEPT_RETRY).await;
    }
}
