//! Security headers and CORS.

use reqwest::Method;

use crate::support::{databases::Kind, harness::TestServer, limits::secure_server};

const SAID: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
];

#[tokio::test]
async fn in_secure_mode_responses_have_security_headers() {
    let (secure, open) = (
        secure_server(Kind::Sqlite, &[]).await,
        TestServer::start(Kind::Sqlite).await,
    );
    for path in [
        "/health",
        "/nothing",
        "/users",
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=9",
    ] {
        for (name, value) in SAID {
            let header = secure
                .request(Method::GET, path)
                .send()
                .await
                .unwrap()
                .headers()
                .get(name)
                .cloned();
            assert_eq!(header.unwrap(), value, "{name} of {path}");
            let header = open
                .request(Method::GET, path)
                .send()
                .await
                .unwrap()
                .headers()
                .get(name)
                .cloned();
            assert_ne!(
                header.as_ref().map(|header| header.to_str().unwrap()),
                Some(value),
                "{name} of {path} in open mode"
            );
        }
    }
}

/// Returns the CORS headers of the response to a page of this origin.
async fn allowed(
    server: &TestServer,
    method: Method,
    path: &str,
    origin: &str,
    asks: &str,
) -> Vec<(String, String)> {
    let request = server.request(method, path).header("origin", origin);
    let request = request
        .header("access-control-request-method", asks)
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        );
    let answer = request.send().await.unwrap();
    assert!(
        answer.status() == 200 || answer.status() == 401,
        "{}",
        answer.status()
    );
    let headers = answer
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-"));
    headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

/// Whether one of the headers has this name and this part in its value.
fn has(headers: &[(String, String)], name: &str, part: &str) -> bool {
    headers
        .iter()
        .any(|(header, value)| header == name && value.contains(part))
}

#[tokio::test]
async fn only_listed_origins_can_call_the_api() {
    let listed = "https://chat.example.com";
    let [none, some] = [
        secure_server(Kind::Sqlite, &[]).await,
        secure_server(Kind::Sqlite, &[("CAUSERIE_HTTP__CORS_ORIGINS", listed)]).await,
    ];
    for path in ["/health", "/socket.io/?EIO=4&transport=polling"] {
        for method in [Method::GET, Method::OPTIONS] {
            for (server, origin) in [
                (&none, listed),
                (&none, "null"),
                (&some, "https://evil.example"),
                (&some, "null"),
            ] {
                assert_eq!(
                    allowed(server, method.clone(), path, origin, "POST").await,
                    [],
                    "{method} {path} from {origin}"
                );
            }
        }
    }
    for asked in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let headers = allowed(&some, Method::OPTIONS, "/room/x", listed, asked).await;
        assert!(
            has(&headers, "access-control-allow-origin", listed),
            "{headers:?}"
        );
        assert!(
            has(&headers, "access-control-allow-methods", asked),
            "{headers:?}"
        );
        assert!(
            has(&headers, "access-control-allow-headers", "authorization"),
            "{headers:?}"
        );
    }
    let headers = allowed(&some, Method::GET, "/health", listed, "GET").await;
    assert!(
        has(&headers, "access-control-allow-origin", listed)
            && has(&headers, "access-control-allow-credentials", "true"),
        "{headers:?}"
    );
    assert!(
        has(&headers, "access-control-expose-headers", "retry-after"),
        "scripts can read how long to wait: {headers:?}"
    );
}

/// Returns the origin that the response allows, and whether it tells caches that it depends on the
/// origin.
async fn allowed_origin(
    server: &TestServer,
    method: Method,
    origin: &str,
) -> (Option<String>, bool) {
    let request = server
        .request(method, "/users")
        .header("origin", origin)
        .header("access-control-request-method", "POST");
    let answer = request.send().await.unwrap();
    let allowed = answer
        .headers()
        .get("access-control-allow-origin")
        .map(|value| value.to_str().unwrap().to_owned());
    let vary = answer
        .headers()
        .get_all("vary")
        .iter()
        .any(|value| value.to_str().unwrap().to_lowercase().contains("origin"));
    (allowed, vary)
}

#[tokio::test]
async fn origins_are_allowed_as_browsers_send_them() {
    let origins = "https://Chat.Example.com:443/, https://*.example.org, capacitor://localhost, http://bücher.example, null";
    let server = TestServer::with(Kind::Sqlite, &[("CAUSERIE_HTTP__CORS_ORIGINS", origins)]).await;
    for method in [Method::GET, Method::OPTIONS] {
        for origin in [
            "https://chat.example.com",
            "https://a.b.example.org",
            "capacitor://localhost",
            "http://xn--bcher-kva.example",
            "null",
        ] {
            assert_eq!(
                allowed_origin(&server, method.clone(), origin).await,
                (Some(origin.to_owned()), true),
                "{method}"
            );
        }
        for origin in [
            "https://example.org",
            "https://evil-example.org",
            "http://chat.example.com",
            "ionic://localhost",
            "https://evil.example",
        ] {
            assert_eq!(
                allowed_origin(&server, method.clone(), origin).await,
                (None, true),
                "{method} from {origin}"
            );
        }
    }
}
