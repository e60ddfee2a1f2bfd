//! Settings: built-in default < file < environment, read once at start into types that can only hold what makes sense.

mod database_url;
mod environment;
mod log_filter;
mod origins;
mod secrets;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::{
    collections::HashMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use config::{Environment, File, FileFormat};
use serde::{Deserialize, Serialize};

pub use database_url::DatabaseUrl;
pub use log_filter::LogFilter;
pub use origins::{OriginList, Origins};
pub use secrets::{Secret, Secrets};
pub use values::{AccessMode, BasePath, History, LogFormat, Millis, Networks, PresenceScope, Registration};

/// The defaults, and the documentation of every setting.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The most bytes that a request body may be allowed to have: MongoDB keeps documents of up to 16 MiB.
const LARGEST_BODY: usize = 15_000_000;

/// The fewest bytes of a key: as many as its signatures have (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

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
    pub log: LogFilter,
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
    /// Rooms in which all sockets of one user are together.
    pub subscriptions_per_user: usize,
    /// Connections for sockets from one address at the same time on which no socket is connected yet.
    pub unconnected_per_address: u32,
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
    /// Of whom the members of a room are told whether they are there.
    pub presence: PresenceScope,
}

/// Settings of requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Longest time for a request.
    pub request_timeout_ms: Millis,
    /// Longest time for the head of a request, from its first byte.
    pub header_timeout_ms: Millis,
    /// Longest time for a connection between requests.
    pub keep_alive_timeout_ms: Millis,
    /// The path under which everything is served.
    pub base_path: BasePath,
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
    /// Rooms in which all sockets are together; 0: any number.
    pub max_subscriptions: usize,
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
    /// Reads the settings of a process with these environment variables. They name the settings file where `file` does not.
    pub fn of_process(file: Option<PathBuf>, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let environment = environment::read(variables)?;
        let file = match (file, environment.get(environment::FILE)) {
            (Some(file), _) => Some(file),
            (None, Some(name)) => Some(text::cleaned(environment::FILE, "", name)?.into()),
            (None, None) => None,
        };
        Self::load(file.as_deref(), &environment)
    }

    /// Reads the settings: defaults, then `file`, then `environment` (all of it: what others have put there is passed over).
    pub fn load(file: Option<&Path>, environment: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let names = names()?;
        let mut sources = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            sources = sources.add_source(File::from_str(&read_file(path, &names)?, FileFormat::Toml));
        }
        let variables = environment::settings(environment, &names)?;
        let mut config: Self = sources
            .add_source(Environment::with_prefix("CAUSERIE").prefix_separator("_").separator("__").source(Some(variables)))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| ConfigError(one_line(&error.to_string())))?;
        if let Some(port) = environment.get("PORT") {
            let port = text::cleaned("PORT", "", port)?;
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
        if self.socket.max_packet_bytes > LARGEST_BODY as u64 {
            return Err(ConfigError(format!("socket.max_packet_bytes: a message of more than {LARGEST_BODY} bytes cannot be kept")));
        }
        for (name, key) in [("token_secret", self.token_secret.bytes())].into_iter().chain(earlier) {
            if let Some(key) = key.filter(|key| key.len() < SHORTEST_SECRET) {
                let problem = format!("{name}: a key of {} bytes can be guessed, please take at least {SHORTEST_SECRET}", key.len());
                return Err(ConfigError(problem));
            }
        }
        if !self.token_secret.can_be_listed() {
            let problem = "token_secret: a key with a comma in it could never be moved to token.earlier_secrets";
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

/// The names of all settings, as `http.max_page`.
fn names() -> Result<Vec<String>, ConfigError> {
    let mut defaults = toml::from_str(DEFAULTS).map_err(|error| ConfigError(one_line(&format!("the defaults: {error}"))))?;
    text::clean_all(&mut defaults)
}

/// The settings file, its texts cleaned.
fn read_file(path: &Path, names: &[String]) -> Result<String, ConfigError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError(format!("cannot read the file {shown}: {error}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut table: toml::Table = toml::from_str(text).map_err(|error| {
        // Without the line itself, which the error would show: there may be a secret in it.
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        ConfigError(one_line(&format!("{shown}, line {line}: {}", error.message())))
    })?;
    let found = text::clean_all(&mut table).map_err(|ConfigError(error)| ConfigError(format!("{shown}: {error}")))?;
    if let Some(unknown) = found.iter().find(|name| !names.contains(name)) {
        let nearest = environment::nearest_to(unknown, names.iter().map(String::as_str)).unwrap_or_default();
        return Err(ConfigError(format!("{shown}: {} is not a setting; the nearest one is {nearest}", unknown.escape_debug())));
    }
    Ok(table.to_string())
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
