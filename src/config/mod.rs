//! Settings: built-in default < file < environment, read once at start into types that can only hold what makes sense.

mod secrets;
mod values;

use std::{collections::HashMap, net::SocketAddr, path::Path};

use config::{Environment, File, FileFormat};
use serde::{Deserialize, Serialize};

pub use secrets::{DatabaseUrl, Secret, Secrets, masked_url};
pub use values::{AccessMode, History, LogFormat, Millis, Networks, Origins, Registration};

/// The defaults, and the documentation of every setting.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

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
    /// Who may register, in secure mode.
    pub registration: Registration,
    /// Signs tokens, if set.
    pub token_secret: Secret,
    /// Filter of the log.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Tokens.
    pub token: TokenConfig,
    /// Sessions.
    pub session: SessionConfig,
    /// How often somebody may do something, in secure mode.
    pub limits: LimitsConfig,
    /// How much memory requests may take.
    pub memory: MemoryConfig,
    /// Rooms.
    pub rooms: RoomsConfig,
    /// Requests.
    pub http: HttpConfig,
    /// Sockets.
    pub socket: SocketConfig,
    /// MongoDB, where that is the database.
    pub mongodb: MongoConfig,
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

/// Settings of sessions: of logins with a password.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// How long an access token is valid, in seconds.
    pub access_lifetime_seconds: u32,
    /// How long a session lasts from when it was last refreshed, in seconds.
    pub refresh_lifetime_seconds: u32,
}

/// The memory that bodies and answers of requests may take, in bytes; 0: no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// All together.
    pub process_bytes: u64,
    /// Those from one address, in secure mode.
    pub address_bytes: u64,
    /// Those of one user, in secure mode.
    pub user_bytes: u64,
}

/// How often somebody may do something, in secure mode. As many as a minute allows may come at once. 0 is no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Logins from one address.
    pub logins_per_minute: u32,
    /// Refreshed tokens from one address.
    pub refreshes_per_minute: u32,
    /// Registrations from one address.
    pub registrations_per_minute: u32,
    /// Messages of one user, and other changes to rooms.
    pub posts_per_minute: u32,
    /// Events from all sockets of one user, and rooms marked as read.
    pub events_per_minute: u32,
    /// Reads of one user, by what they cost.
    pub reads_per_minute: u32,
    /// Bytes that one user may store in a day.
    pub bytes_per_day: u64,
    /// Sockets opened from one address.
    pub connections_per_minute: u32,
    /// Sockets from one address at the same time.
    pub sockets_per_address: u32,
    /// Connections from one address at the same time, besides those that are websockets.
    pub connections_per_address: u32,
}

/// Settings of rooms.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoomsConfig {
    /// Up to how many members all of them stand in posts and events, and all readers with a message.
    pub listed_members: usize,
    /// What whoever is added to a room sees of what was there before.
    pub history: History,
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
    /// Whose word counts on where a request comes from.
    pub trusted_proxies: Networks,
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
            ("session.access_lifetime_seconds", self.session.access_lifetime_seconds.into()),
            ("session.refresh_lifetime_seconds", self.session.refresh_lifetime_seconds.into()),
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
        if !self.token_secret.can_be_listed() {
            let problem =
                "token_secret: a key with a comma in it, or white space at its ends, could never be moved to token.earlier_secrets";
            return Err(ConfigError(problem.into()));
        }
        if self.access == AccessMode::Open && !self.listen.ip().is_loopback() && !self.allow_open_network {
            return Err(ConfigError(format!(
                "listen: whoever reaches {} could act as anyone, since access is \"open\"; take secure mode (CAUSERIE_ACCESS=secure), listen on 127.0.0.1, or allow it with \
                 allow_open_network = true (CAUSERIE_ALLOW_OPEN_NETWORK=true) where nobody else can reach it",
                self.listen
            )));
        }
        if self.access == AccessMode::Secure && self.http.cors_origins == Origins::Any {
            return Err(ConfigError("http.cors_origins: secure mode takes a list of origins, or \"none\", but not \"any\"".into()));
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
    use std::time::Duration;

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
            ("CAUSERIE_TOKEN_SECRET", "the key of today with many bytes in it"),
            ("CAUSERIE_TOKEN__EARLIER_SECRETS", "the key of yesterday is just as long ,the key of the day before is longer"),
            ("CAUSERIE_SOCKET__PING_INTERVAL_MS", "300"),
            ("CAUSERIE_HTTP__CORS_ORIGINS", "https://a.example, https://b.example:8443"),
            ("CAUSERIE_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.7,fd00::/8"),
            ("CAUSERIE_CONFIG", "elsewhere.toml"),
            ("CAUSERIE_TEST_MONGODB", "mongodb://localhost"),
        ])
        .unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.token_secret.bytes(), Some(&b"the key of today with many bytes in it"[..]));
        let earlier: Vec<_> = config.token.earlier_secrets.bytes().collect();
        assert_eq!(earlier, [&b"the key of yesterday is just as long"[..], b"the key of the day before is longer"]);
        assert_eq!(Duration::from(config.socket.ping_interval_ms), Duration::from_millis(300));
        for (address, trusted) in [("10.1.2.3", true), ("11.1.2.3", false), ("192.0.2.7", true), ("192.0.2.8", false), ("fd00::1", true)] {
            assert_eq!(config.http.trusted_proxies.contain(address.parse().unwrap()), trusted, "{address}");
        }
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
            ("CAUSERIE_ACCESS", "closed", "access: 'closed' is neither \"open\" nor \"secure\""),
            ("CAUSERIE_REGISTRATION", "no", "registration: 'no' is neither \"open\" nor \"closed\""),
            ("CAUSERIE_HTTP__TRUSTED_PROXIES", "10.0.0.1/8,proxy", "'proxy' is neither an address nor a network"),
            ("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "0", "session.access_lifetime_seconds"),
            ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "-1", "logins_per_minute"),
            ("CAUSERIE_LOG_FORMAT", "yaml", "neither \"text\" nor \"json\""),
            ("CAUSERIE_HTTP__MAX_PAGE", "0", "http.max_page"),
            ("CAUSERIE_HTTP__MAX_PAGE", "many", "http.max_page"),
            ("CAUSERIE_SOCKET__PING_TIMEOUT_MS", "0", "ping_timeout_ms"),
            ("CAUSERIE_HTTP__CORS_ORIGINS", "example.com", "cors_origins"),
            ("CAUSERIE_TOKEN_SECRET", "one byte short of 32: too short", "token_secret"),
            ("CAUSERIE_TOKEN_SECRET", "a key of two, as it would be read later", "token_secret: a key with a comma"),
            ("CAUSERIE_TOKEN_SECRET", " a key that begins with white space", "white space at its ends"),
            ("CAUSERIE_TOKEN_SECRET", "a key that ends with a line of its own\n", "token_secret: a key with a comma"),
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
