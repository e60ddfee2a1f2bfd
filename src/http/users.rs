//! Users: create, list, get, delete.

use std::{mem, sync::Arc};

use axum::{
    Router,
    body::{Body as HttpBody, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    paging::Paging,
    path_id::PathId,
    response::{Answer, success},
};
use crate::{
    accounts::{NewLogin, NewUser, RegisteredUser, UserChunks, UserList, UserPage},
    auth::MaybeAuthenticated,
    error::Result,
    model::{User, UserType, Username},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{userId}", get(find).delete(delete))
}

impl Input for NewUser {
    fn read(fields: &mut Fields) -> Option<Self> {
        let first_name = fields.name("firstName");
        let last_name = fields.name("lastName");
        let kind = fields.one_of("type", UserType::ALL, UserType::as_str);
        let login = read_login(fields);
        Some(Self {
            first_name: first_name?,
            last_name: last_name?,
            kind: kind?,
            login,
        })
    }
}

/// Reads username and password if either is present. In secure mode both are required.
fn read_login(fields: &mut Fields) -> Option<NewLogin> {
    if !fields.is_secure() && fields.is_missing("username") && fields.is_missing("password") {
        return None;
    }
    let username = fields.parsed("username", |text| Username::parse(&text), Username::FORM);
    let password = fields.new_password("password");
    Some(NewLogin {
        username: username?,
        password: password?,
    })
}

#[derive(Serialize)]
struct Created {
    user: NamedUser,
}

/// A user with the username, if there is one.
#[derive(Serialize)]
struct NamedUser {
    #[serde(flatten)]
    user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<Username>,
}

async fn create(
    State(app): State<Shared>,
    sender: MaybeAuthenticated,
    Body(new): Body<NewUser>,
) -> Answer<Created> {
    let RegisteredUser { user, username } = app.accounts.register(&sender, new).await?;
    let user = NamedUser { user, username };
    Ok(success(Created { user }))
}

#[derive(Serialize)]
struct Found {
    user: Arc<User>,
}

async fn find(
    State(app): State<Shared>,
    sender: MaybeAuthenticated,
    PathId(id): PathId,
) -> Answer<Found> {
    let user = app.accounts.find(&sender, &id).await?;
    Ok(success(Found { user }))
}

#[derive(Serialize)]
struct Deleted {
    message: String,
}

async fn delete(
    State(app): State<Shared>,
    sender: MaybeAuthenticated,
    PathId(id): PathId,
) -> Answer<Deleted> {
    let deleted = app.accounts.delete(&sender, &id).await?;
    let message = format!("Deleted a count of {} user.", u8::from(deleted));
    Ok(success(Deleted { message }))
}

#[derive(Serialize)]
struct Listed {
    users: Vec<User>,
}

/// Lists a page of the users or, in open mode and without `page` and `limit`, all of them.
async fn list(
    State(app): State<Shared>,
    sender: MaybeAuthenticated,
    paging: Paging,
) -> Result<Response> {
    let page = paging.given.then(|| UserPage {
        skip: paging.skip(),
        limit: paging.limit(),
    });
    let max = app.config.max_page;
    Ok(match app.accounts.list(&sender, page, max).await? {
        UserList::Page(users) => success(Listed { users }).into_response(),
        UserList::All(chunks) => stream_users(chunks),
    })
}

/// Returns a response with all users, which are sent as they are read.
fn stream_users(chunks: UserChunks) -> Response {
    let mut is_first = true;
    let items = chunks.map_ok(move |users| json_items(&users, mem::take(&mut is_first)));
    let opening = stream::iter([Ok(Bytes::from_static(b"{\"success\":true,\"users\":["))]);
    let closing = stream::iter([Ok(Bytes::from_static(b"]}"))]);
    let body = HttpBody::from_stream(opening.chain(items).chain(closing));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Serializes the users as elements of a JSON array, with a comma before them unless they are the
/// first ones.
fn json_items(users: &[User], is_first: bool) -> Bytes {
    let json = serde_json::to_vec(users).expect("users serialize");
    let items = &json[1..json.len() - 1];
    let separator: &[u8] = if is_first || items.is_empty() {
        b""
    } else {
        b","
    };
    [separator, items].concat().into()
}
