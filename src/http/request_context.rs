//! Middleware around every request: request id, log line, timeout, and a response even if a handler
//! panics.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::{
    base_path,
    polling::{self, RequestLimits},
};
use crate::{
    error::{Error, Fault},
    sockets,
};

/// The response header with the id of the request.
pub const REQUEST_ID: &str = "x-request-id";

/// Assigns an id to the request, enforces the timeout, and logs one line when the response is
/// ready. An internal error is logged with its cause; the response contains only the request id.
pub async fn request_context(
    State(limits): State<RequestLimits>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = Uuid::new_v4().simple().to_string();
    let method = request.method().clone();
    let route = Route::of(&request);
    let mut response = match route {
        // No timeout for the whole request: a poll waits until there is something to send.
        Route::Sockets => polling::check(limits, request, next).await,
        Route::None if base_path::is_outside(request.extensions()) => {
            Error::NoEndpoint.into_response()
        }
        Route::Api(_) | Route::None => {
            tokio::time::timeout(limits.time, limits.memory.answer(request, next))
                .await
                .unwrap_or_else(|_| Error::TooSlow.into_response())
        }
    };
    if let Some(Fault(cause)) = response.extensions_mut().remove() {
        tracing::error!(request = id, cause = %cause, "request failed");
        response = with_id(response, &id);
    }
    route.log(&method, &response, started.elapsed(), &id);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Returns the error response with the id of its request in the body.
fn with_id(response: Response, id: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let error = match parts.status {
        StatusCode::SERVICE_UNAVAILABLE => Error::Unavailable(Fault("".into())),
        _ => Error::internal(""),
    };
    let body = error.body().with_request_id(id);
    (parts.status, parts.headers, Json(body)).into_response()
}

/// The route of a request in the log: the pattern of the API, never text from the client.
enum Route {
    Api(MatchedPath),
    Sockets,
    None,
}

impl Route {
    fn of(request: &Request) -> Self {
        match request.extensions().get::<MatchedPath>() {
            _ if base_path::is_outside(request.extensions()) => Self::None,
            Some(path) => Self::Api(path.clone()),
            None if request.uri().path().starts_with(sockets::PATH) => Self::Sockets,
            None => Self::None,
        }
    }

    fn log(&self, method: &Method, response: &Response, took: Duration, id: &str) {
        let (status, ms) = (response.status().as_u16(), rounded_ms(took));
        match self {
            // Health checks arrive every few seconds.
            Self::Api(path)
                if is_health_check(method, path.as_str()) && response.status().is_success() =>
            {
                tracing::debug!(%method, route = path.as_str(), status, ms, request = id, "request");
            }
            Self::Api(path) => {
                tracing::info!(%method, route = path.as_str(), status, ms, request = id, "request");
            }
            Self::None => tracing::info!(%method, route = "-", status, ms, request = id, "request"),
            // A polling client would flood the log.
            Self::Sockets => {
                tracing::debug!(%method, route = sockets::PATH, status, ms, request = id, "request");
            }
        }
    }
}

fn is_health_check(method: &Method, route: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && matches!(route, "/health" | "/ready")
}

/// Returns milliseconds, rounded to the microsecond.
fn rounded_ms(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns the response after a panic.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer that calls it hands the panic over"
)]
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    Error::internal(format!("panic: {}", text.unwrap_or("unknown cause"))).into_response()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use axum::{Router, body::Body, middleware, routing::get};
    use http_body_util::BodyExt;
    use serde_json::json;
    use socketioxide::SocketIo;
    use tokio_util::sync::CancellationToken;
    use tower::{ServiceBuilder, ServiceExt};
    use tower_http::catch_panic::CatchPanicLayer;

    use super::{super::memory::Memory, *};
    use crate::{
        budget::MemoryBudget,
        clock::Clock,
        config::{AccessMode, Config},
        descriptors::Descriptors,
        limits::Limits,
        sockets::Transport,
    };

    #[tokio::test]
    async fn a_panic_is_a_500_that_names_the_request_and_nothing_else() {
        async fn panics() {
            panic!("a secret of ours");
        }
        let config = Config::load(None, &HashMap::new()).unwrap();
        let rates = Limits::new(&config.limits, AccessMode::Open, Clock::system());
        let memory = Memory {
            budget: MemoryBudget::new(&config.memory, AccessMode::Open),
            max_body: 1,
        };
        let rates = Arc::new(rates);
        let (layer, _) = SocketIo::new_layer();
        let limits = RequestLimits {
            bytes: 1,
            time: Duration::from_secs(1),
            rates: Arc::clone(&rates),
            descriptors: Descriptors::new(),
            transport: Transport::new(
                &layer,
                rates,
                Arc::clone(&memory.budget),
                CancellationToken::new(),
            ),
            memory,
        };
        let context = ServiceBuilder::new()
            .layer(middleware::from_fn_with_state(limits, request_context))
            .map_response(IntoResponse::into_response)
            .layer(CatchPanicLayer::custom(panicked));
        let router = Router::new().route("/", get(panics)).layer(context);
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let id = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        let body: serde_json::Value =
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes())
                .unwrap();
        assert_eq!(
            body,
            json!({
                "success": false,
                "code": "internal_error",
                "message": "Something went wrong on our side",
                "requestId": id,
            })
        );
    }
}
