use std::time::Duration;

use super::*;

fn load(variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::load(None, &environment).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_valid() {
    let config = load(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(config.database.to_string(), "sqlite:data/causerie.db");
    assert_eq!(config.token_secret.bytes(), None);
    assert!(
        load(&[("CAUSERIE_LISTEN", "[::1]:3000")]).is_ok()
            && load(&[("CAUSERIE_LISTEN", "127.1.2.3:3000")]).is_ok()
    );
}

/// Environment variables of every kind of setting, and unrelated ones.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("CAUSERIE_LISTEN", "0.0.0.0:80"),
    ("CAUSERIE_ALLOW_OPEN_NETWORK", "true"),
    ("PORT", "8080"),
    (
        "CAUSERIE_TOKEN_SECRET",
        "the key of today with many bytes in it",
    ),
    (
        "CAUSERIE_TOKEN__EARLIER_SECRETS",
        "the key of yesterday is just as long ,the key of the day before is longer",
    ),
    ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "300"),
    (
        "CAUSERIE_HTTP__CORS_ORIGINS",
        "https://a.example, https://b.example:8443",
    ),
    (
        "CAUSERIE_HTTP__TRUSTED_PROXIES",
        "10.0.0.0/8, 192.0.2.7,fd00::/8",
    ),
    ("CAUSERIE_CONFIG", "elsewhere.toml"),
    ("CAUSERIE_TEST_MONGODB", "mongodb://localhost"),
];

#[test]
fn the_environment_reaches_every_setting() {
    let config = load(ENVIRONMENT).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(
        config.token_secret.bytes(),
        Some(&b"the key of today with many bytes in it"[..])
    );
    let earlier: Vec<_> = config.token.earlier_secrets.bytes().collect();
    assert_eq!(
        earlier,
        [
            &b"the key of yesterday is just as long"[..],
            b"the key of the day before is longer"
        ]
    );
    assert_eq!(
        Duration::from(config.socket.ping_interval_ms),
        Duration::from_millis(300)
    );
    for (address, trusted) in [
        ("10.1.2.3", true),
        ("11.1.2.3", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("fd00::1", true),
    ] {
        assert_eq!(
            config
                .http
                .trusted_proxies
                .contain(address.parse().unwrap()),
            trusted,
            "{address}"
        );
    }
    let Origins::These(origins) = config.http.cors_origins else {
        panic!("{:?}", config.http.cors_origins)
    };
    for (origin, listed) in [
        ("https://a.example", true),
        ("https://b.example:8443", true),
        ("https://b.example", false),
    ] {
        assert_eq!(
            origins.contains(&origin.parse().unwrap()),
            listed,
            "{origin}"
        );
    }
}

/// Environment variables, their values, and what the error mentions.
const NONSENSE: &[(&str, &str, &str)] = &[
    ("CAUSERIE_LISTEN", "nowhere", "listen"),
    (
        "CAUSERIE_LISTEN",
        "0.0.0.0:3000",
        "CAUSERIE_ALLOW_OPEN_NETWORK=true",
    ),
    (
        "CAUSERIE_LISTEN",
        "[::]:3000",
        "whoever reaches [::]:3000 could act as anyone",
    ),
    ("CAUSERIE_LISTEN", "192.0.2.1:3000", "listen on 127.0.0.1"),
    (
        "CAUSERIE_LISTNE",
        "127.0.0.1:1",
        "CAUSERIE_LISTNE is not a setting; the nearest one is CAUSERIE_LISTEN",
    ),
    (
        "CAUSERIE_HTTP__MAX_PAGES",
        "5",
        "the nearest one is CAUSERIE_HTTP__MAX_PAGE",
    ),
    ("CAUSERIE_PORT", "3000", "PORT sets the port"),
    ("CAUSERIE_LISTEN", "", "listen"),
    ("CAUSERIE_ACCESS", "", "access"),
    ("CAUSERIE_LOG", "", "log: '' is not a level"),
    (
        "CAUSERIE_LOG",
        "causerie=verbose",
        "log: 'verbose' is not a level",
    ),
    ("CAUSERIE_HTTP__BASE_PATH", "chat", "base_path"),
    (
        "CAUSERIE_HTTP__BASE_PATH",
        "//",
        "'//' is not a path like /chat",
    ),
    (
        "CAUSERIE_HTTP__BASE_PATH",
        "/chat//x",
        "is not a path like /chat",
    ),
    (
        "CAUSERIE_HTTP__BASE_PATH",
        "/chat/../x",
        "is not a path like /chat",
    ),
    (
        "CAUSERIE_HTTP__BASE_PATH",
        "/ch%61t",
        "is not a path like /chat",
    ),
    (
        "CAUSERIE_HTTP__BASE_PATH",
        "/chat?x",
        "is not a path like /chat",
    ),
    (
        "CAUSERIE_HTTP__BASE_PATH",
        "https://example.com/chat",
        "is not a path like /chat",
    ),
    (
        "CAUSERIE_DATABASE",
        "sqlite:/data/\u{7}c.db",
        "CAUSERIE_DATABASE: the value has a character that cannot be seen, \\u{7}, in it: sqlite:/data/\\u{7}c.db",
    ),
    (
        "CAUSERIE_DATABASE",
        "sqlite:/data/c.db\u{200b}",
        "\\u{200b}",
    ),
    (
        "CAUSERIE_DATABASE",
        "\"sqlite:/data/c.db\"",
        "CAUSERIE_DATABASE: the value is in quotation marks",
    ),
    (
        "CAUSERIE_DATABASE",
        "sqlite:\"/data/c.db\"",
        "quotation marks",
    ),
    (
        "CAUSERIE_LISTEN",
        "'127.0.0.1:3000'",
        "CAUSERIE_LISTEN: the value is in quotation marks",
    ),
    (
        "CAUSERIE_HTTP__CORS_ORIGINS",
        "https://a.example,\thttps://b.example",
        "\\u{9}",
    ),
    (
        "CAUSERIE_HTTP__CORS_ORIGINS",
        "https://a.example/app",
        "has more in it than a scheme",
    ),
    (
        "CAUSERIE_ACCESS",
        "closed",
        "access: 'closed' is neither \"open\" nor \"secure\"",
    ),
    (
        "CAUSERIE_ROOMS__PRESENCE",
        "nobody",
        "rooms.presence: 'nobody' is neither \"members\" nor \"writers\"",
    ),
    (
        "CAUSERIE_REGISTRATION",
        "no",
        "registration: 'no' is neither \"open\" nor \"closed\"",
    ),
    (
        "CAUSERIE_HTTP__TRUSTED_PROXIES",
        "10.0.0.1/8,proxy",
        "'proxy' is neither an address nor a network",
    ),
    (
        "CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS",
        "0",
        "session.access_lifetime_seconds",
    ),
    (
        "CAUSERIE_LIMITS__LOGINS_PER_MINUTE",
        "-1",
        "logins_per_minute",
    ),
    (
        "CAUSERIE_LOG_FORMAT",
        "yaml",
        "neither \"text\" nor \"json\"",
    ),
    ("CAUSERIE_HTTP__MAX_PAGE", "0", "http.max_page"),
    ("CAUSERIE_HTTP__MAX_PAGE", "many", "http.max_page"),
    ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "0", "ping_timeout_ms"),
    ("CAUSERIE_HTTP__CORS_ORIGINS", "example.com", "cors_origins"),
    (
        "CAUSERIE_TOKEN_SECRET",
        "one byte short of 32: too short",
        "token_secret",
    ),
    (
        "CAUSERIE_TOKEN_SECRET",
        "a key of two, as it would be read later",
        "token_secret: a key with a comma",
    ),
    (
        "CAUSERIE_TOKEN__EARLIER_SECRETS",
        "the key of yesterday was much longer,short",
        "token.earlier_secrets: a key of 5 bytes",
    ),
    ("PORT", "http", "PORT"),
];

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for &(name, value, mention) in NONSENSE {
        let error = load(&[(name, value)]).unwrap_err();
        assert!(
            error.contains(mention) && !error.contains('\n'),
            "{name}={value}: {error}"
        );
    }
}

#[test]
fn white_space_at_the_ends_of_a_value_does_not_count() {
    for end in ["\r", "\n", "\r\n", " ", "\t", "\u{a0}", "\u{feff}"] {
        let with_end = |text: &str| format!("{end}{text}{end}");
        let config = load(&[
            ("CAUSERIE_DATABASE", &with_end("sqlite:/data/c.db")),
            ("CAUSERIE_ACCESS", &with_end("secure")),
            ("CAUSERIE_LISTEN", &with_end("127.0.0.1:80")),
            ("CAUSERIE_LOG", &with_end("warning")),
            (
                "CAUSERIE_TOKEN_SECRET",
                &with_end("the key of today with many bytes in it"),
            ),
            ("CAUSERIE_HTTP__MAX_PAGE", &with_end("7")),
            ("CAUSERIE_ALLOW_OPEN_NETWORK", &with_end("true")),
            ("PORT", &with_end("8080")),
        ])
        .unwrap();
        assert_eq!(config.database.reveal(), "sqlite:/data/c.db");
        assert_eq!(
            (config.access, config.listen.to_string()),
            (AccessMode::Secure, "127.0.0.1:8080".to_owned())
        );
        assert_eq!(
            config.token_secret.bytes(),
            Some(&b"the key of today with many bytes in it"[..])
        );
        assert_eq!(
            (
                config.log.as_str(),
                config.http.max_page,
                config.allow_open_network
            ),
            ("warn", 7, true)
        );
    }
}

#[test]
fn a_base_path_has_no_slash_at_its_end() {
    for (text, path) in [
        ("", ""),
        ("/", ""),
        ("/chat", "/chat"),
        ("/chat/", "/chat"),
        ("/a/b-c_d.e~1/", "/a/b-c_d.e~1"),
    ] {
        assert_eq!(
            load(&[("CAUSERIE_HTTP__BASE_PATH", text)])
                .unwrap()
                .http
                .base_path
                .as_str(),
            path
        );
    }
}

#[test]
fn an_error_shows_no_secret() {
    let with_bell = "hush\u{7}".repeat(8);
    for (name, value) in [
        ("CAUSERIE_TOKEN_SECRET", with_bell.as_str()),
        ("CAUSERIE_TOKEN__EARLIER_SECRETS", &with_bell),
        (
            "CAUSERIE_TOKEN_SECRET",
            "hush,hush,hush,hush,hush,hush,hush",
        ),
        ("CAUSERIE_DATABASE", "mongodb://me:hush\u{7}hush@db/chat"),
    ] {
        let error = load(&[(name, value)]).unwrap_err();
        assert!(
            !error.contains("hush") && error.starts_with("settings: "),
            "{error}"
        );
    }
}

#[test]
fn what_is_printed_holds_no_secret() {
    let (secret, database) = (
        "hush".repeat(8),
        ("CAUSERIE_DATABASE", "mongodb://me:hush@db.example/chat"),
    );
    let printed = load(&[
        ("CAUSERIE_TOKEN_SECRET", secret.as_str()),
        (
            "CAUSERIE_TOKEN__EARLIER_SECRETS",
            &format!("{secret},{secret}"),
        ),
        database,
    ])
    .unwrap()
    .to_toml();
    assert!(!printed.contains("hush"), "{printed}");
    assert!(
        printed.contains("mongodb://me:********@db.example/chat"),
        "{printed}"
    );
}
