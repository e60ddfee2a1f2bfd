//! Settings from the environment, tested with the real program: unrelated variables, `.env` files,
//! URLs with secrets.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::support::{
    answer::Answer,
    program::{Program, run_with_bytes},
};

/// Returns the effective settings.
#[track_caller]
fn in_force(settings: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    let bytes: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let output = run_with_bytes(folder.path(), &["--check-config"], &bytes);
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
    let output = run_with_bytes(folder, arguments, settings);
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
async fn variables_of_kubernetes_services_are_ignored() {
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
fn unknown_and_unreadable_variables_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for (name, value, mention) in [
        (
            "CAUSERIE_HTTP_MAX_PAGE",
            &b"5"[..],
            "CAUSERIE_HTTP__MAX_PAGE",
        ),
        ("causerie_database", b"x", "CAUSERIE_DATABASE"),
        ("CAUSERIE_LISTNE", b"", "CAUSERIE_LISTEN"),
        ("CAUSERIE_DATABASE", b"sqlite:/\xff.db", "UTF-8"),
    ] {
        let line = refused(folder.path(), &[], &[(name, value)]);
        assert!(line.contains(name) && line.contains(mention), "{line}");
    }
    refused(folder.path(), &[], &[("CAUSERIE_PORT", b"3000")]);
    let line = refused(folder.path(), &["--config", "a\nb.toml"], &[]);
    assert!(line.contains("a\\nb.toml"), "{line}");
}

#[tokio::test]
async fn windows_line_endings_and_byte_order_marks_are_ignored() {
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
    let output = run_with_bytes(
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
fn errors_in_a_settings_file_are_reported_without_secrets() {
    let folder = TempDir::new().unwrap();
    for (text, mention) in [
        (
            "listen = \"127.0.0.1:0\"\ntoken_secret = \"hush",
            "my.toml, line 2: ",
        ),
        ("[http]\nmax_pages = 5\n", "my.toml: http.max_pages"),
        ("max_page = 5\n", "http.max_page"),
        ("database = \"sqlite:x\\u0007.db\"\n", "\\u{7}"),
        (
            "database = \"mongodb://me:hush\\u0007@db/x\"\n",
            "mongodb://me:********@db/x",
        ),
        ("token_secret = \"hush\\u0007\"\n", "token_secret: "),
        ("listen = \"'127.0.0.1:0'\"\n", "listen: "),
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
fn an_unknown_log_level_is_refused() {
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
        assert!(line.contains("log: '"), "{line}");
    }
}
