//! The REST API. [`router`] lists its modules; each resource has a module with its requests,
//! handlers and routes.

mod accounts;
mod app;
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
mod path_id;
mod polling;
mod request_context;
mod response;
mod rooms;
mod search;
mod security_headers;
mod sessions;
mod users;
mod websocket;
mod write_timeout;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderName, Method, header},
    middleware,
    response::IntoResponse,
};
use tower::{ServiceBuilder, util::MapResponseLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use crate::{config::Origins, error::Error, sockets::Transport};

pub use app::App;
pub use connections::{Service, serve};
use memory::Memory;
use polling::RequestLimits;

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
            app.authenticator
                .is_secure()
                .then(|| MapResponseLayer::new(security_headers::harden)),
        )
        .layer(cors(
            &app.config.cors_origins,
            app.authenticator.is_secure(),
        ))
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
