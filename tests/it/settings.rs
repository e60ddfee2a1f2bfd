//! Settings from the environment, tested with the real program: unrelated variables, `.env` files,
//! URLs with secrets.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, process::Output};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    databases::Kind,
    harness::{Program, TestServer},
    people::Answer,
};

fn run(folder: &Path, arguments: &[&str], settings: &[(&str, &[u8])]) -> Output {
    let settings = settings
        .iter()
        .map(|(name, value)| (name, OsStr::from_bytes(value)));
    Program::command(folder)
        .args(arguments)
        .envs(settings)
        .output()
        .unwrap()
}

/// Returns the effective settings.
#[track_caller]
fn in_force(settings: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    let bytes: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let output = run(folder.path(), &["--check-config"], &bytes);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Checks that the program refuses to start, with exit code 2 and one line of output. Returns that
/// line.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str], settings: &[(&str, &[u8])]) -> String {
    let output = run(folder, arguments, settings);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let line = text.strip_suffix('\n').unwrap();
    assert!(
        line.starts_with("causerie: ") && !line.contains(char::is_control),
        "{text:?}"
    );
    assert!(!folder.join("data").exists(), "nothing is started");
    line.to_owned()
}

#[tokio::test]
async fn it_starts_beside_services_of_its_name() {
    let folder = TempDir::new().unwrap();
    let injected = [
        ("CAUSERIE_SERVICE_HOST", "10.0.0.1"),
        ("CAUSERIE_SERVICE_PORT", "3000"),
        ("CAUSERIE_SERVICE_PORT_HTTP", "3000"),
        ("CAUSERIE_PORT", "tcp://10.0.0.1:3000"),
        ("CAUSERIE_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
        ("CAUSERIE_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("CAUSERIE_NAME", "/app/causerie"),
        ("CAUSERIE_ENV_PATH", "/usr/bin"),
        ("CAUSERIE_MONGODB_PORT_27017_TCP_PROTO", "tcp"),
    ];
    let program = Program::start(folder.path(), &injected);
    Answer::of(reqwest::Client::new().get(format!("{}/health", program.base)))
        .await
        .ok();
}

#[test]
fn an_unknown_variable_is_refused_by_its_name_and_one_that_cannot_be_read_as_well() {
    let folder = TempDir::new().unwrap();
    for (name, value, line) in [
        (
            "CAUSERIE_HTTP_MAX_PAGE",
            &b"5"[..],
            "CAUSERIE_HTTP_MAX_PAGE is not a setting; the nearest one is CAUSERIE_HTTP__MAX_PAGE",
        ),
        (
            "causerie_database",
            b"x",
            "causerie_database is not a setting; the nearest one is CAUSERIE_DATABASE",
        ),
        (
            "CAUSERIE_LISTNE",
            b"",
            "CAUSERIE_LISTNE is not a setting; the nearest one is CAUSERIE_LISTEN",
        ),
        (
            "CAUSERIE_DATABASE",
            b"sqlite:/\xff.db",
            "CAUSERIE_DATABASE: the value is not valid UTF-8",
        ),
    ] {
        assert_eq!(
            refused(folder.path(), &[], &[(name, value)]),
            format!("causerie: settings: {line}")
        );
    }
    refused(folder.path(), &[], &[("CAUSERIE_PORT", b"3000")]);
    let line = refused(folder.path(), &["--config", "a\nb.toml"], &[]);
    assert!(line.contains("a\\nb.toml"), "{line}");
}

#[tokio::test]
async fn a_database_named_in_a_file_of_windows_is_the_one_that_is_meant() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:c.db\r")]);
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().any(|name| name == "c.db")
            && names
                .iter()
                .all(|name| !name.to_str().unwrap().contains('\r')),
        "{names:?}"
    );
    drop(program);
    fs::write(
        folder.path().join("my.toml"),
        "\u{feff}database = \"sqlite:d.db \\r\"\r\nlog = \"warning\"\r\n",
    )
    .unwrap();
    let output = run(
        folder.path(),
        &["--check-config"],
        &[("CAUSERIE_CONFIG", b"my.toml\r")],
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("database = \"sqlite:d.db\"\n") && printed.contains("log = \"warn\"\n"),
        "{printed}"
    );
}

#[test]
fn what_a_settings_file_has_wrong_is_told_without_its_secrets() {
    let folder = TempDir::new().unwrap();
    for (text, mention) in [
        (
            "listen = \"127.0.0.1:0\"\ntoken_secret = \"hush",
            "my.toml, line 2: ",
        ),
        (
            "[http]\nmax_pages = 5\n",
            "my.toml: http.max_pages is not a setting; the nearest one is http.max_page",
        ),
        ("max_page = 5\n", "the nearest one is http.max_page"),
        (
            "database = \"sqlite:x\\u0007.db\"\n",
            "my.toml: database: the value has a character that cannot be seen, \\u{7}",
        ),
        (
            "database = \"mongodb://me:hush\\u0007@db/x\"\n",
            "mongodb://me:********@db/x",
        ),
        (
            "token_secret = \"hush\\u0007\"\n",
            "token_secret: the value has a character",
        ),
        (
            "listen = \"'127.0.0.1:0'\"\n",
            "listen: the value is in quotation marks",
        ),
    ] {
        fs::write(folder.path().join("my.toml"), text).unwrap();
        let line = refused(folder.path(), &["--config", "my.toml"], &[]);
        assert!(
            line.contains(mention) && !line.contains("hush"),
            "{line:?} should mention {mention:?}"
        );
    }
    fs::write(folder.path().join("my.toml"), b"listen = \"\xff\"").unwrap();
    assert!(refused(folder.path(), &["--config", "my.toml"], &[]).contains("my.toml"));
}

#[test]
fn no_secret_of_a_database_url_is_shown() {
    for url in [
        "mongodb://me:hush@127.0.0.1:1/chat?proxyHost=h&proxyPassword=hush",
        "mongodb://127.0.0.1:1/?tls=true&TLSCertificateKeyFilePassword=hush&tlsCertificateKeyFile=/none.pem",
        "mongodb://127.0.0.1:1/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:hush",
        "mongodb://127.0.0.1:1/?authMechanismProperties=hush",
        "mongodb://127.0.0.1:1/?apiToken=hush&apiToken=hush",
        "mongodb://127.0.0.1:1/?hush",
        "mongodb://me:hu/hush@127.0.0.1:1/chat",
        "mongodb://me:hush/chat",
        "mongo://me:hush@h/chat",
    ] {
        let printed = in_force(&[("CAUSERIE_DATABASE", url), ("CAUSERIE_LOG", "trace")]);
        assert!(
            !printed.to_lowercase().contains("hush") && printed.contains("********"),
            "{printed}"
        );
        let folder = TempDir::new().unwrap();
        let settings = [
            ("CAUSERIE_DATABASE", url),
            ("CAUSERIE_LISTEN", "127.0.0.1:0"),
            ("CAUSERIE_MONGODB__START_TIMEOUT_MS", "1"),
        ];
        let output = Program::command(folder.path())
            .envs(settings)
            .env("CAUSERIE_LOG", "trace")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains("causerie: database: "),
            "{text}"
        );
        assert!(
            !text.to_lowercase().contains("hush")
                && !String::from_utf8(output.stdout).unwrap().contains("hush"),
            "{text}"
        );
    }
}

#[test]
fn a_level_that_is_not_known_does_not_turn_the_log_off() {
    let folder = TempDir::new().unwrap();
    for (filter, level) in [
        ("warning", "warn"),
        ("WARN", "warn"),
        ("info,causerie::http=warning", "info,causerie::http=warn"),
    ] {
        assert!(in_force(&[("CAUSERIE_LOG", filter)]).contains(&format!("log = \"{level}\"\n")));
    }
    for filter in [
        "err",
        "verbose",
        "trace2",
        "",
        "warn,foo",
        "causerie=verbose",
        "causeire=debug",
    ] {
        let line = refused(folder.path(), &[], &[("CAUSERIE_LOG", filter.as_bytes())]);
        assert!(line.contains("settings: log: '"), "{line}");
    }
}

/// Returns the origin that the response allows, and whether it tells caches that it depends on the
/// origin.
async fn allowed(server: &TestServer, method: Method, origin: &str) -> (Option<String>, bool) {
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
                allowed(&server, method.clone(), origin).await,
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
                allowed(&server, method.clone(), origin).await,
                (None, true),
                "{method} from {origin}"
            );
        }
    }
}

#[tokio::test]
async fn under_a_base_path_is_everything_and_beside_it_nothing() {
    let server = TestServer::with(Kind::Sqlite, &[("CAUSERIE_HTTP__BASE_PATH", "/chat/")]).await;
    for path in [
        "/chat/health",
        "/chat/ready/",
        "/chat/health?x=1",
        "/chat/users",
    ] {
        server.get(path).await.ok();
    }
    let open = async |path: &str| server.request(Method::GET, path).send().await.unwrap();
    let handshake = open("/chat/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(handshake.status(), StatusCode::OK);
    assert!(handshake.text().await.unwrap().starts_with("0{"));
    for path in [
        "/",
        "/health",
        "/ready",
        "/users",
        "/chats/health",
        "/Chat/health",
        "//chat/health",
        "/chat",
        "/chat/",
        "/chat/chat/health",
    ] {
        let answer = server.get(path).await;
        assert!(answer.headers.contains_key("x-request-id"));
        answer.refused(404, "API endpoint doesnt exist");
    }
    server
        .get("/socket.io/?EIO=4&transport=polling")
        .await
        .refused(404, "API endpoint doesnt exist");
    let wrong_method = Answer::of(server.request(Method::PUT, "/chat/users")).await;
    assert!(wrong_method.headers.contains_key("allow"));
}

#[tokio::test]
async fn a_container_asks_for_health_under_the_base_path_and_nobody_fills_the_log_with_it() {
    let folder = TempDir::new().unwrap();
    let base_path = ("CAUSERIE_HTTP__BASE_PATH", "/chat");
    let program = Program::start(folder.path(), &[base_path, ("CAUSERIE_LOG_FORMAT", "json")]);
    let address = program
        .base
        .strip_prefix("http://")
        .and_then(|base| base.strip_suffix("/chat"))
        .unwrap()
        .to_owned();
    let asked = |base_path: &[u8]| {
        let settings = [
            ("CAUSERIE_HTTP__BASE_PATH", base_path),
            ("CAUSERIE_LISTEN", address.as_bytes()),
        ];
        run(folder.path(), &["--health"], &settings).status.code()
    };
    assert_eq!((asked(b"/chat"), asked(b"/other")), (Some(0), Some(1)));
    let http = reqwest::Client::new();
    for path in ["/health", "/ready", "/health/"] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(
                http.request(method, format!("{}{path}", program.base))
                    .send()
                    .await
                    .unwrap()
                    .status(),
                200
            );
        }
    }
    http.post(format!("{}/health", program.base))
        .send()
        .await
        .unwrap();
    let behind_its_back =
        rusqlite::Connection::open(folder.path().join("data/causerie.db")).unwrap();
    behind_its_back.execute_batch("DROP TABLE secrets").unwrap();
    assert_eq!(
        http.get(format!("{}/ready", program.base))
            .send()
            .await
            .unwrap()
            .status(),
        503
    );
    program.signal("TERM");
    assert!(program.ended().await.success());
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let requests = lines.filter(|line| line["message"] == "request");
    let requests: Vec<_> = requests
        .map(|line| format!("{} {}", line["route"].as_str().unwrap(), line["status"]))
        .collect();
    assert_eq!(
        requests,
        ["- 404", "/health 405", "/ready 503"],
        "beside the path, and what fails"
    );
}
