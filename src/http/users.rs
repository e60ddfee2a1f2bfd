//! Users: create, list, get, delete.

use axum::{
    Json, Router,
    body::{Body as HttpBody, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::{
    App, PathId, Shared, Success,
    accounts::{self, Login},
    body::{Body, Fields, Input},
    caller::MaybeAuthenticated,
    paging::Paging,
    success,
};
use crate::{
    chat::run_detached,
    error::{Error, Result},
    model::{User, UserType},
    store::{StoreError, UserCursor},
};

/// The number of users per read when all users are listed.
const CHUNK: u64 = 500;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{userId}", get(find).delete(delete))
}

struct NewUser {
    first_name: String,
    last_name: String,
    kind: UserType,
    login: Option<Login>,
}

impl Input for NewUser {
    fn read(fields: &mut Fields) -> Option<Self> {
        let first_name = fields.name("firstName");
        let last_name = fields.name("lastName");
        let kind = fields.one_of("type", UserType::ALL, UserType::as_str);
        let login = Login::read(fields);
        Some(Self {
            first_name: first_name?,
            last_name: last_name?,
            kind: kind?,
            login,
        })
    }
}

async fn create(
    State(app): State<Shared>,
    MaybeAuthenticated(caller): MaybeAuthenticated,
    Body(new): Body<NewUser>,
) -> Result<Json<Success>> {
    app.limits.registration(caller.address)?;
    app.access.authorize_register(&caller, new.kind)?;
    let now = app.clock.monotonic_now();
    let user = User {
        id: app.clock.new_id(now).into(),
        first_name: new.first_name,
        last_name: new.last_name,
        kind: new.kind,
        created_at: now,
        updated_at: now,
        deleted: false,
    };
    let credentials = match new.login {
        Some(login) => Some(login.credentials(&app, &user).await?),
        None => None,
    };
    let mut answer = json!({ "user": user });
    if let Some(credentials) = &credentials {
        answer["user"]["username"] = json!(credentials.username);
    }
    if !app.store.add_user(user, credentials).await? {
        return Err(accounts::taken());
    }
    Ok(success(answer))
}

async fn find(
    State(app): State<Shared>,
    MaybeAuthenticated(caller): MaybeAuthenticated,
    PathId(id): PathId,
) -> Result<Json<Success>> {
    app.access.authorize_list_users(&caller)?;
    Ok(success(
        json!({ "user": app.user(&id).await?.ok_or(Error::NoUser)? }),
    ))
}

async fn delete(
    State(app): State<Shared>,
    MaybeAuthenticated(caller): MaybeAuthenticated,
    PathId(id): PathId,
) -> Result<Json<Success>> {
    let deleted = match app.access.authorize_delete_user(&caller, &id)? {
        Some(user) => {
            let delete = async move {
                let deleted = app.store.delete_user(user, app.clock.monotonic_now()).await;
                // Also if the deletion failed halfway: the sockets of a user who still exists
                // reconnect.
                app.sockets.close_user(user);
                let deleted = deleted?;
                tracing::info!(address = %caller.address, %user, deleted, "user and all sessions deleted");
                Ok(deleted)
            };
            run_detached(delete).await?
        }
        None => false,
    };
    Ok(success(
        json!({ "message": format!("Deleted a count of {} user.", u8::from(deleted)) }),
    ))
}

/// Lists users. In secure mode only page by page: anyone who can register could otherwise request
/// the list of all users over and over.
async fn list(
    State(app): State<Shared>,
    MaybeAuthenticated(caller): MaybeAuthenticated,
    paging: Paging,
) -> Result<Response> {
    app.access.authorize_list_users(&caller)?;
    if paging.given || app.access.is_secure() {
        let limit = if paging.given {
            paging.limit()
        } else {
            app.config.max_page
        };
        let users = app.store.list_users(None, paging.skip(), limit).await?;
        return Ok(success(json!({ "users": users })).into_response());
    }
    // Reads the first users before the response begins, so that an unavailable database results in
    // a 503 instead of a truncated response.
    let first = app.store.list_users(None, 0, CHUNK).await?;
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        all_users(app, first),
    )
        .into_response())
}

/// Streams all users, beginning with `first`, as they are read: they may not all fit into memory.
fn all_users(app: Shared, first: Vec<User>) -> HttpBody {
    let chunks = stream::try_unfold((app, Some(first)), async |(app, chunk)| {
        let Some(chunk) = chunk else { return Ok(None) };
        let next = match chunk.last() {
            Some(last) if chunk.len() as u64 == CHUNK => {
                Some(following(&app, (last.created_at, last.id)).await?)
            }
            _ => None,
        };
        Ok::<_, StoreError>(Some((as_items(&chunk, next.is_some()), (app, next))))
    });
    let opening = stream::iter([Ok(Bytes::from_static(b"{\"success\":true,\"users\":["))]);
    let closing = stream::iter([Ok(Bytes::from_static(b"]}"))]);
    HttpBody::from_stream(opening.chain(chunks).chain(closing))
}

async fn following(app: &App, cursor: UserCursor) -> std::result::Result<Vec<User>, StoreError> {
    app.store
        .list_users(Some(cursor), 0, CHUNK)
        .await
        .inspect_err(|error| tracing::error!(%error, "failed to complete list of users"))
}

/// Serializes the users as elements of a JSON array, with a trailing comma if more may follow.
fn as_items(users: &[User], more: bool) -> Bytes {
    let json = serde_json::to_vec(users).expect("users serialize");
    let mut items = json[1..json.len() - 1].to_vec();
    if more {
        items.push(b',');
    }
    items.into()
}
