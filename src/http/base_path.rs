//! Removes the base path from requests before all other processing, so that no other module has to
//! know it.

use axum::http::{
    Extensions, Uri,
    uri::{Parts, PathAndQuery},
};

use crate::config::BasePath;

/// Marks a request outside of the base path, where nothing is served.
#[derive(Clone)]
struct Outside;

/// Removes the base path from the path of a request, or marks the request as outside of it.
pub fn take_off(base: &BasePath, uri: &mut Uri, extensions: &mut Extensions) {
    if base.as_str().is_empty() {
        return;
    }
    match inside(base, uri) {
        Some(inside) => *uri = inside,
        None => _ = extensions.insert(Outside),
    }
}

/// Whether the request is marked as outside of the base path.
pub fn is_outside(extensions: &Extensions) -> bool {
    extensions.get::<Outside>().is_some()
}

fn inside(base: &BasePath, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix(base.as_str())?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = Parts::from(uri.clone());
    parts.path_and_query = Some(path_and_query.ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_the_path_is_found_and_nothing_beside_it() {
        let base = BasePath::try_from("/chat".to_owned()).unwrap();
        for (uri, found) in [
            ("/chat", Some("/")),
            ("/chat/", Some("/")),
            ("/chat?x=1", Some("/?x=1")),
            (
                "/chat/room/a%2Fb?page=1&x=?",
                Some("/room/a%2Fb?page=1&x=?"),
            ),
            ("/chat/chat/health", Some("/chat/health")),
            (
                "http://example.com/chat/health",
                Some("http://example.com/health"),
            ),
            ("/", None),
            ("/health", None),
            ("/chats/health", None),
            ("/Chat/health", None),
            ("//chat/health", None),
            ("/%63hat/health", None),
            ("*", None),
        ] {
            let (mut uri, mut extensions): (Uri, _) = (uri.parse().unwrap(), Extensions::new());
            let before = uri.clone();
            take_off(&base, &mut uri, &mut extensions);
            assert_eq!(
                (uri.to_string().as_str(), is_outside(&extensions)),
                (found.unwrap_or(&before.to_string()), found.is_none())
            );
        }
    }
}
