//! The connections: accepted one by one, each served by a task of its own, all asked to end when the server stops.

use std::{io, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tower::Layer;
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};

/// How long to wait before accepting again when the system has no room for one more connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The largest head of a request, in bytes, and the piece in which bodies are read.
const READ_BUFFER: usize = 64 * 1024;

/// Serves `router` to whoever connects, until `shutdown`. Answers the connections that are still open: nothing new comes in on them once
/// they are asked to shut down.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    shutdown: impl Future<Output = ()>,
) -> GracefulShutdown {
    // Outside of the router, since it changes the path by which the router chooses.
    let service = NormalizePathLayer::trim_trailing_slash().layer(router);
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(READ_BUFFER);
    let open = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return open,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => spawn(stream, service.clone(), &http, &open),
                Err(error) => refused(&error).await,
            },
        }
    }
}

fn spawn(stream: TcpStream, service: NormalizePath<Router>, http: &auto::Builder<TokioExecutor>, open: &GracefulShutdown) {
    // Without it small answers wait for the acknowledgement of the one before. Where it fails the connection is gone already.
    let _ = stream.set_nodelay(true);
    let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let connection = open.watch(connection.into_owned());
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    });
}

async fn refused(error: &io::Error) {
    // A client that gave up before it was accepted concerns nobody; anything else lasts for a while.
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(ACCEPT_RETRY).await;
    }
}
