//! Settings: built-in default < file < environment, read once at start into types that can only hold what makes sense.

use std::{collections::HashMap, fmt, net::SocketAddr, path::Path, time::Duration};

use axum::http::HeaderValue;
use config::{Environment, File, FileFormat};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The defaults, and the documentation of every setting.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// The most bytes that a request body may be allowed to have: MongoDB keeps documents of up to 16 MiB.
const LARGEST_BODY: usize = 15_000_000;

/// The fewest bytes of a key: as many as its signatures have (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

/// What the environment variables of settings begin with.
const PREFIX: &str = "CAUSERIE_";

/// The settings of one server. `config/default.toml` says what each means.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// URL of the database.
    pub database: DatabaseUrl,
    /// Who may do what.
    pub access: AccessMode,
    /// Whether open mode is wanted on an address that others can reach.
    pub allow_open_network: bool,
    /// Signs tokens, if set.
    pub token_secret: Secret,
    /// Filter of the log.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Tokens.
    pub token: TokenConfig,
    /// Requests.
    pub http: HttpConfig,
    /// Sockets.
    pub socket: SocketConfig,
    /// MongoDB, where that is the database.
    pub mongodb: MongoConfig,
}

/// Who may do what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum AccessMode {
    /// Anyone may log in as anyone, as in the original application.
    Open,
}

impl TryFrom<String> for AccessMode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "open" => Ok(Self::Open),
            _ => Err(format!("access: '{name}' is not a mode of this version, which knows only \"open\"")),
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum LogFormat {
    /// Text, in colour on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("log_format: '{name}' is neither \"text\" nor \"json\"")),
        }
    }
}

/// Settings of tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Seconds from login; 0 is for ever.
    pub lifetime_seconds: u32,
    /// Keys that signed tokens before `token_secret`.
    pub earlier_secrets: Secrets,
}

/// Settings of requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Longest time for a request.
    pub request_timeout_ms: Millis,
    /// Longest time for the head of a request.
    pub header_timeout_ms: Millis,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Most items on a page.
    pub max_page: u64,
    /// From which pages browsers may call.
    pub cors_origins: Origins,
    /// Longest time for requests under way to finish at the end.
    pub shutdown_timeout_ms: Millis,
}

/// Settings of sockets.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SocketConfig {
    /// Time between two pings.
    pub ping_interval_ms: Millis,
    /// Longest time for the answer to a ping.
    pub ping_timeout_ms: Millis,
    /// Most events that wait for one client.
    pub max_waiting_events: usize,
    /// Largest packet from a client, in bytes.
    pub max_packet_bytes: u64,
}

/// Settings of MongoDB.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MongoConfig {
    /// Longest time to wait at start for a database that is not there.
    pub start_timeout_ms: Millis,
    /// Longest time for an operation of the database.
    pub operation_timeout_ms: Millis,
}

/// A time span of at least one millisecond, written as a number of milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub struct Millis(u64);

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Self::from_millis(millis.0)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            0 => Err(D::Error::custom("a time of 0 ms leaves no time at all")),
            millis => Ok(Self(millis)),
        }
    }
}

/// A key that shows itself to nobody.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The bytes of the key, if one is set.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.0.is_empty()).then_some(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "********" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// Keys, written with commas between them; they show themselves to nobody.
#[derive(Clone, Debug)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// The bytes of each key.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(Secret::bytes)
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(text.split(',').map(|secret| Secret(secret.trim().to_owned())).filter(|secret| secret.bytes().is_some()).collect()))
    }
}

impl Serialize for Secrets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let masked: Vec<_> = self.0.iter().map(|secret| format!("{secret:?}")).collect();
        serializer.serialize_str(&masked.join(","))
    }
}

/// The URL of a database; a password in it is shown to nobody.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The whole URL, password and all: for the store that opens it, and for nothing that is printed.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked_url(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A URL with what stands between `//user:` and `@` replaced.
#[must_use]
pub fn masked_url(url: &str) -> String {
    let masked = || {
        let (scheme, rest) = url.split_once("://")?;
        let (credentials, host) = rest.rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:********@{host}"))
    };
    masked().unwrap_or_else(|| url.to_owned())
}

/// From which web pages browsers may call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origins {
    /// From any.
    Any,
    /// From these; from none if there are none.
    These(Vec<HeaderValue>),
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.trim() {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::These(Vec::new())),
            list => list.split(',').map(origin).collect::<Result<_, _>>().map(Self::These).map_err(D::Error::custom),
        }
    }
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let text = text.trim();
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    match text.parse() {
        Ok(value) if !host.is_empty() && !host.contains('/') => Ok(value),
        _ => Err(format!("'{text}' is not an origin like https://chat.example.com, nor \"any\" or \"none\"")),
    }
}

impl Serialize for Origins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::These(origins) if origins.is_empty() => serializer.serialize_str("none"),
            Self::These(origins) => {
                let origins: Vec<_> = origins.iter().filter_map(|origin| origin.to_str().ok()).collect();
                serializer.serialize_str(&origins.join(","))
            }
        }
    }
}

/// Why the settings cannot be used, as one line for the person who starts the server.
#[derive(Debug, thiserror::Error)]
#[error("settings: {0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the settings: defaults, then `file`, then `environment` (all of it: variables that are not settings are passed over).
    pub fn load(file: Option<&Path>, environment: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let mut sources = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            sources = sources.add_source(File::from(path).format(FileFormat::Toml));
        }
        let mut config: Self = sources
            .add_source(Environment::with_prefix("CAUSERIE").prefix_separator("_").separator("__").source(Some(settings_in(environment))))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| ConfigError(one_line(&error.to_string())))?;
        if let Some(port) = environment.get("PORT") {
            let port = port.parse().map_err(|_| ConfigError(format!("PORT: '{port}' is not a port number")))?;
            config.listen.set_port(port);
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("http.max_body_bytes", self.http.max_body_bytes as u64),
            ("http.max_page", self.http.max_page),
            ("socket.max_waiting_events", self.socket.max_waiting_events as u64),
            ("socket.max_packet_bytes", self.socket.max_packet_bytes),
        ];
        let earlier = self.token.earlier_secrets.bytes().map(|key| ("token.earlier_secrets", Some(key)));
        if self.http.max_body_bytes > LARGEST_BODY {
            return Err(ConfigError(format!("http.max_body_bytes: a message of more than {LARGEST_BODY} bytes cannot be kept")));
        }
        for (name, key) in [("token_secret", self.token_secret.bytes())].into_iter().chain(earlier) {
            if let Some(key) = key.filter(|key| key.len() < SHORTEST_SECRET) {
                let problem = format!("{name}: a key of {} bytes can be guessed, please take at least {SHORTEST_SECRET}", key.len());
                return Err(ConfigError(problem));
            }
        }
        if self.access == AccessMode::Open && !self.listen.ip().is_loopback() && !self.allow_open_network {
            return Err(ConfigError(format!(
                "listen: whoever reaches {} could act as anyone, since access is \"open\"; listen on 127.0.0.1, or allow it with \
                 allow_open_network = true (CAUSERIE_ALLOW_OPEN_NETWORK=true) where nobody else can reach it",
                self.listen
            )));
        }
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(ConfigError(format!("{name}: 0 allows nothing at all"))),
            None => Ok(()),
        }
    }

    /// The settings in force, as TOML, with secrets masked.
    ///
    /// # Panics
    /// Never: every setting is a string or a number.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings and numbers are TOML")
    }
}

/// The variables that are settings: those with our prefix, but for the ones that name the file or belong to the tests.
fn settings_in(environment: &HashMap<String, String>) -> HashMap<String, String> {
    let is_setting = |name: &str| name.starts_with(PREFIX) && name != "CAUSERIE_CONFIG" && !name.starts_with("CAUSERIE_TEST_");
    environment.iter().filter(|(name, _)| is_setting(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, String> {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(None, &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = load(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
        assert_eq!(config.database.to_string(), "sqlite:data/causerie.db");
        assert_eq!(config.token_secret.bytes(), None);
        assert!(load(&[("CAUSERIE_LISTEN", "[::1]:3000")]).is_ok() && load(&[("CAUSERIE_LISTEN", "127.1.2.3:3000")]).is_ok());
    }

    #[test]
    fn the_environment_reaches_every_setting() {
        let config = load(&[
            ("CAUSERIE_LISTEN", "0.0.0.0:80"),
            ("CAUSERIE_ALLOW_OPEN_NETWORK", "true"),
            ("PORT", "8080"),
            ("CAUSERIE_TOKEN_SECRET", "the key of today, with many bytes in it"),
            ("CAUSERIE_TOKEN__EARLIER_SECRETS", "the key of yesterday is just as long ,the key of the day before is longer"),
            ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "300"),
            ("CAUSERIE_HTTP__CORS_ORIGINS", "https://a.example, https://b.example:8443"),
            ("CAUSERIE_CONFIG", "elsewhere.toml"),
            ("CAUSERIE_TEST_MONGODB", "mongodb://localhost"),
        ])
        .unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.token_secret.bytes(), Some(&b"the key of today, with many bytes in it"[..]));
        let earlier: Vec<_> = config.token.earlier_secrets.bytes().collect();
        assert_eq!(earlier, [&b"the key of yesterday is just as long"[..], b"the key of the day before is longer"]);
        assert_eq!(Duration::from(config.socket.ping_interval_ms), Duration::from_millis(300));
        assert_eq!(
            config.http.cors_origins,
            Origins::These(vec!["https://a.example".parse().unwrap(), "https://b.example:8443".parse().unwrap()])
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (name, value, mention) in [
            ("CAUSERIE_LISTEN", "nowhere", "listen"),
            ("CAUSERIE_LISTEN", "0.0.0.0:3000", "CAUSERIE_ALLOW_OPEN_NETWORK=true"),
            ("CAUSERIE_LISTEN", "[::]:3000", "whoever reaches [::]:3000 could act as anyone"),
            ("CAUSERIE_LISTEN", "192.0.2.1:3000", "listen on 127.0.0.1"),
            ("CAUSERIE_LISTNE", "127.0.0.1:1", "listne"),
            ("CAUSERIE_HTTP__MAX_PAGES", "5", "max_pages"),
            ("CAUSERIE_ACCESS", "closed", "access: 'closed' is not a mode"),
            ("CAUSERIE_LOG_FORMAT", "yaml", "neither \"text\" nor \"json\""),
            ("CAUSERIE_HTTP__MAX_PAGE", "0", "http.max_page"),
            ("CAUSERIE_HTTP__MAX_PAGE", "many", "http.max_page"),
            ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "0", "ping_timeout_ms"),
            ("CAUSERIE_HTTP__CORS_ORIGINS", "example.com", "cors_origins"),
            ("CAUSERIE_TOKEN_SECRET", "one byte short of 32: too short", "token_secret"),
            ("CAUSERIE_TOKEN__EARLIER_SECRETS", "the key of yesterday was much longer,short", "token.earlier_secrets: a key of 5 bytes"),
            ("PORT", "http", "PORT"),
        ] {
            let error = load(&[(name, value)]).unwrap_err();
            assert!(error.contains(mention) && !error.contains('\n'), "{name}={value}: {error}");
        }
    }

    #[test]
    fn what_is_printed_holds_no_secret() {
        let (secret, database) = ("hush".repeat(8), ("CAUSERIE_DATABASE", "mongodb://me:hush@db.example/chat"));
        let printed = load(&[
            ("CAUSERIE_TOKEN_SECRET", secret.as_str()),
            ("CAUSERIE_TOKEN__EARLIER_SECRETS", &format!("{secret},{secret}")),
            database,
        ])
        .unwrap()
        .to_toml();
        assert!(!printed.contains("hush"), "{printed}");
        assert!(printed.contains("mongodb://me:********@db.example/chat"), "{printed}");
    }
}
