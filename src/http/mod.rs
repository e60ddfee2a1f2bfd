//! The REST API. [`router`] lists its modules; each resource has a module with its requests,
//! handlers and routes.

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

/// The state shared by all handlers.
pub struct App {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Operations on rooms and messages.
    pub chat: Chat,
    /// Access control.
    pub access: Access,
    /// Begins and refreshes sessions.
    pub sessions: Sessions,
    /// Hashes and verifies passwords.
    pub passwords: Passwords,
    /// Rate limits and quotas.
    pub limits: Arc<Limits>,
    /// The sockets.
    pub sockets: Arc<dyn SocketHub>,
    /// Limits the number of connections by file descriptors.
    pub descriptors: Arc<Descriptors>,
    /// The memory limits of requests.
    pub budget: Arc<MemoryBudget>,
    /// The clock, which also generates ids.
    pub clock: Clock,
    /// Settings of HTTP requests.
    pub config: HttpConfig,
}

impl App {
    /// Returns the user with an id from a path or a body, if there is one.
    async fn user(&self, id: &str) -> Result<Option<Arc<User>>> {
        match UserId::parse(id) {
            Some(id) => Ok(self.store.user(id).await?),
            None => Ok(None),
        }
    }
}

/// The state as handlers receive it.
type Shared = Arc<App>;

/// Builds the router of the REST API and the Socket.IO endpoint. `max_packet` is the maximum size
/// of a packet on that endpoint, in bytes.
pub fn router(app: App, transport: Transport, max_packet: usize) -> Router {
    let limits = RequestLimits {
        bytes: max_packet,
        time: app.config.request_timeout_ms.into(),
        rates: Arc::clone(&app.limits),
        descriptors: Arc::clone(&app.descriptors),
        transport,
        memory: Memory {
            budget: Arc::clone(&app.budget),
            max_body: app.config.max_body_bytes as u64,
        },
    };
    // Combined into one layer: a router applies each layer to every route separately, and each
    // wrapper adds a cost to every request.
    let context = ServiceBuilder::new()
        .option_layer(
            app.access
                .is_secure()
                .then(|| MapResponseLayer::new(security_headers::harden)),
        )
        .layer(cors(&app.config.cors_origins, app.access.is_secure()))
        .layer(middleware::from_fn_with_state(
            limits,
            request_context::request_context,
        ))
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

/// Builds the CORS layer.
///
/// Request headers are mirrored: a list would have to name every header that a frontend may send.
/// Credentials are allowed because clients of socket.io 2 poll with credentials, which browsers
/// permit only if the response allows them and names the origin. This exposes no cookies, because
/// there are none.
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
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            HeaderName::from_static(request_context::REQUEST_ID),
            header::RETRY_AFTER,
        ])
        .max_age(Duration::from_hours(1))
}

/// Extracts the decoded parameters of a path. The handler checks whether what they name exists.
struct PathId<T = String>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathId<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path: std::result::Result<axum::extract::Path<T>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0))
            .map_err(|_| Error::Malformed("The path of the request is not valid UTF-8".into()))
    }
}

/// A response body of `{success: true}` and further fields.
#[derive(Serialize)]
struct Success {
    success: bool,
    #[serde(flatten)]
    fields: Value,
}

fn success(fields: Value) -> Json<Success> {
    Json(Success {
        success: true,
        fields,
    })
}
