//! The REST API. [`router`] is its table of contents; each noun has a file with its requests, handlers and routes.

mod accounts;
mod base_path;
mod body;
mod caller;
mod connections;
mod delete;
mod health;
mod keep_alive;
mod login;
mod members;
mod memory;
mod messages;
mod paging;
mod polling;
mod request_context;
mod rooms;
mod search;
mod security_headers;
mod sessions;
mod users;
mod websocket;
mod write_timeout;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts, rejection::PathRejection},
    http::{HeaderName, Method, header, request::Parts},
    middleware,
    response::IntoResponse,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tower::{ServiceBuilder, util::MapResponseLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use crate::{
    access::Access,
    budget::MemoryBudget,
    chat::Chat,
    clock::Clock,
    config::{HttpConfig, Origins},
    descriptors::Descriptors,
    error::{Error, Result},
    limits::Limits,
    model::{User, UserId},
    password::Passwords,
    sessions::Sessions,
    sockets::{SocketHub, Transport},
    store::Store,
};

pub use connections::serve;
use memory::Memory;
use polling::RequestLimits;

/// What the handlers work with.
pub struct App {
    /// Everything that is kept.
    pub store: Arc<dyn Store>,
    /// Does what people ask for in rooms.
    pub chat: Chat,
    /// Decides who may do what.
    pub access: Access,
    /// Begins sessions and lets them go on.
    pub sessions: Sessions,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Knows who comes too often.
    pub limits: Arc<Limits>,
    /// The sockets.
    pub sockets: Arc<dyn SocketHub>,
    /// How many connections there may be.
    pub descriptors: Arc<Descriptors>,
    /// The memory that requests may take.
    pub budget: Arc<MemoryBudget>,
    /// Time and ids.
    pub clock: Clock,
    /// Settings of requests.
    pub config: HttpConfig,
}

impl App {
    /// The user whose id stands in a path or a body, if there is one.
    async fn user(&self, id: &str) -> Result<Option<Arc<User>>> {
        match UserId::parse(id) {
            Some(id) => Ok(self.store.user(id).await?),
            None => Ok(None),
        }
    }
}

/// The same, as every request gets it.
type Shared = Arc<App>;

/// The whole API, with the sockets' path beside it, on which packets may be as large as `max_packet` bytes.
pub fn router(app: App, transport: Transport, max_packet: usize) -> Router {
    let limits = RequestLimits {
        bytes: max_packet,
        time: app.config.request_timeout_ms.into(),
        rates: Arc::clone(&app.limits),
        descriptors: Arc::clone(&app.descriptors),
        transport,
        memory: Memory { budget: Arc::clone(&app.budget), max_body: app.config.max_body_bytes as u64 },
    };
    // One layer made of many: a router wraps each of its routes in every layer anew, and every wrapping costs each request.
    let context = ServiceBuilder::new()
        .option_layer(app.access.is_secure().then(|| MapResponseLayer::new(security_headers::harden)))
        .layer(cors(&app.config.cors_origins, app.access.is_secure()))
        .layer(middleware::from_fn_with_state(limits, request_context::request_context))
        .map_response(IntoResponse::into_response)
        .layer(CatchPanicLayer::custom(request_context::panicked));
    Router::new()
        .merge(users::routes())
        .merge(accounts::routes())
        .merge(login::routes())
        .merge(sessions::routes())
        .merge(rooms::routes())
        .merge(messages::routes())
        .merge(members::routes())
        .merge(search::routes())
        .merge(delete::routes())
        .merge(health::routes())
        .fallback(async || Error::NoEndpoint)
        .method_not_allowed_fallback(async || Error::NoMethod)
        .with_state(Arc::new(app))
        .layer(context)
}

/// Lets web pages call. A list of headers would have to name each that a frontend may ever send. Clients of socket.io 2 poll with
/// credentials, which browsers allow only where the answer says so and names the origin; there are no cookies that this would expose.
fn cors(origins: &Origins, is_secure: bool) -> CorsLayer {
    let origins = match origins {
        Origins::ByMode if is_secure => AllowOrigin::list([]),
        Origins::Any | Origins::ByMode => AllowOrigin::mirror_request(),
        Origins::These(list) => {
            let list = list.clone();
            AllowOrigin::predicate(move |origin, _| list.contains(origin))
        }
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static(request_context::REQUEST_ID), header::RETRY_AFTER])
        .max_age(Duration::from_hours(1))
}

/// The parameters of a path, decoded. What they name, if anything, is for the handler to find out.
struct PathId<T = String>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathId<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path: std::result::Result<axum::extract::Path<T>, PathRejection> = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|_| Error::Malformed("The path of the request is not valid UTF-8".into()))
    }
}

/// `{success: true}` and what else there is to say.
#[derive(Serialize)]
struct Success {
    success: bool,
    #[serde(flatten)]
    fields: Value,
}

fn success(fields: Value) -> Json<Success> {
    Json(Success { success: true, fields })
}
