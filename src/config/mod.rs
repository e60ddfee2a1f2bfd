//! Settings, loaded once at start: built-in defaults, overridden by the file, overridden by the
//! environment. Their types only hold valid values.

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
pub use values::{
    AccessMode, BasePath, History, LogFormat, Millis, Networks, PresenceScope, Registration,
};

/// The default settings as TOML, with the documentation of every setting.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The upper limit, in bytes, of settings for body and packet sizes: MongoDB stores documents of up
/// to 16 MiB.
const MAX_BODY: usize = 15_000_000;

/// The minimum length of a signing key, in bytes: that of its signatures (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

/// The settings of a server. `config/default.toml` documents each of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// URL of the database.
    pub database: DatabaseUrl,
    /// Whether users have to authenticate.
    pub access: AccessMode,
    /// Whether open mode may listen on an address that other machines can reach.
    pub allow_open_network: bool,
    /// Who may register, in secure mode.
    pub registration: Registration,
    /// The key that signs tokens, if set.
    pub token_secret: Secret,
    /// The log filter.
    pub log: LogFilter,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Settings of tokens.
    pub token: TokenConfig,
    /// Settings of sessions.
    pub session: SessionConfig,
    /// Rate limits and quotas, in secure mode.
    pub limits: LimitsConfig,
    /// Memory limits of requests.
    pub memory: MemoryConfig,
    /// Settings of rooms.
    pub rooms: RoomsConfig,
    /// Settings of HTTP requests.
    pub http: HttpConfig,
    /// Settings of sockets.
    pub socket: SocketConfig,
    /// Settings of MongoDB, if that is the database.
    pub mongodb: MongoConfig,
}

/// Settings of tokens of logins without a password, and earlier signing keys.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Lifetime of a token from login, in seconds; 0: unlimited.
    pub lifetime_seconds: u32,
    /// Keys that signed tokens before `token_secret`. Their tokens stay valid until they expire.
    pub earlier_secrets: Secrets,
}

/// Settings of sessions, which begin with a login by password.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// Lifetime of an access token, in seconds.
    pub access_lifetime_seconds: u32,
    /// Lifetime of a session from its last refresh, in seconds.
    pub refresh_lifetime_seconds: u32,
}

/// Limits of the memory that request bodies and responses may take, in bytes; 0: no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Limit of the whole process.
    pub process_bytes: u64,
    /// Limit per client address, in secure mode.
    pub address_bytes: u64,
    /// Limit per user, in secure mode.
    pub user_bytes: u64,
}

/// Rate limits and quotas, in secure mode. A whole minute's allowance may be used in one burst. 0:
/// no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Logins per address.
    pub logins_per_minute: u32,
    /// Token refreshes per address.
    pub refreshes_per_minute: u32,
    /// Registrations per address.
    pub registrations_per_minute: u32,
    /// Messages and other changes to rooms per user.
    pub posts_per_minute: u32,
    /// Events from all sockets of a user, plus rooms marked as read.
    pub events_per_minute: u32,
    /// Reads per user, weighted by their cost.
    pub reads_per_minute: u32,
    /// Bytes that a user may store per day.
    pub bytes_per_day: u64,
    /// Sockets opened per address.
    pub connections_per_minute: u32,
    /// Concurrent sockets per address.
    pub sockets_per_address: u32,
    /// Room subscriptions of all sockets of a user together.
    pub subscriptions_per_user: usize,
    /// Concurrent socket connections per address on which no socket is connected yet.
    pub unconnected_per_address: u32,
    /// Concurrent connections per address, not counting websockets.
    pub connections_per_address: u32,
}

/// Settings of rooms.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoomsConfig {
    /// The largest number of members for which posts and events list all members, and messages list
    /// all readers.
    pub listed_members: usize,
    /// How much of a room's history a new member sees.
    pub history: History,
    /// Whose presence the members of a room see.
    pub presence: PresenceScope,
}

/// Settings of HTTP requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Timeout of a request.
    pub request_timeout_ms: Millis,
    /// Timeout of a request head, from its first byte.
    pub header_timeout_ms: Millis,
    /// Timeout of an idle connection between requests.
    pub keep_alive_timeout_ms: Millis,
    /// The path under which everything is served.
    pub base_path: BasePath,
    /// Maximum size of a request body, in bytes.
    pub max_body_bytes: usize,
    /// Maximum number of items on a page.
    pub max_page: u64,
    /// The origins allowed by CORS.
    pub cors_origins: Origins,
    /// The proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Networks,
    /// Timeout of requests in progress at shutdown.
    pub shutdown_timeout_ms: Millis,
}

/// Settings of sockets.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SocketConfig {
    /// Interval between two pings.
    pub ping_interval_ms: Millis,
    /// Timeout of the response to a ping.
    pub ping_timeout_ms: Millis,
    /// Maximum number of events queued for a client.
    pub max_waiting_events: usize,
    /// Maximum number of room subscriptions of all sockets together; 0: no limit.
    pub max_subscriptions: usize,
    /// Maximum size of a packet from a client, in bytes.
    pub max_packet_bytes: u64,
}

/// Settings of MongoDB.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MongoConfig {
    /// Timeout of waiting at start for a database that is not reachable.
    pub start_timeout_ms: Millis,
    /// Timeout of a database operation.
    pub operation_timeout_ms: Millis,
}

/// The reason why the settings cannot be used, as a single line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("settings: {0}")]
pub struct ConfigError(String);

impl Config {
    /// Loads the settings of a process from its environment variables. `CAUSERIE_CONFIG` names the
    /// settings file unless `file` does.
    pub fn from_process(
        file: Option<PathBuf>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let environment = environment::read(variables)?;
        let file = match (file, environment.get(environment::FILE)) {
            (Some(file), _) => Some(file),
            (None, Some(name)) => Some(text::cleaned(environment::FILE, "", name)?.into()),
            (None, None) => None,
        };
        Self::load(file.as_deref(), &environment)
    }

    /// Loads the settings: defaults, then `file`, then `environment`. `environment` may be the
    /// whole environment of the process; unrelated variables are ignored.
    pub fn load(
        file: Option<&Path>,
        environment: &HashMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let names = names()?;
        let mut sources =
            config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            sources =
                sources.add_source(File::from_str(&read_file(path, &names)?, FileFormat::Toml));
        }
        let variables = environment::settings(environment, &names)?;
        let mut config: Self = sources
            .add_source(
                Environment::with_prefix("CAUSERIE")
                    .prefix_separator("_")
                    .separator("__")
                    .source(Some(variables)),
            )
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| ConfigError(one_line(&error.to_string())))?;
        if let Some(port) = environment.get("PORT") {
            let port = text::cleaned("PORT", "", port)?;
            let port = port
                .parse()
                .map_err(|_| ConfigError(format!("PORT: '{port}' is not a port number")))?;
            config.listen.set_port(port);
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_secrets()?;
        self.check_network()?;
        let positive = [
            ("http.max_body_bytes", self.http.max_body_bytes as u64),
            ("http.max_page", self.http.max_page),
            (
                "socket.max_waiting_events",
                self.socket.max_waiting_events as u64,
            ),
            ("socket.max_packet_bytes", self.socket.max_packet_bytes),
            (
                "session.access_lifetime_seconds",
                self.session.access_lifetime_seconds.into(),
            ),
            (
                "session.refresh_lifetime_seconds",
                self.session.refresh_lifetime_seconds.into(),
            ),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(ConfigError(format!("{name}: 0 allows nothing at all"))),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        if self.http.max_body_bytes > MAX_BODY {
            return Err(ConfigError(format!(
                "http.max_body_bytes: a message of more than {MAX_BODY} bytes cannot be kept"
            )));
        }
        if self.socket.max_packet_bytes > MAX_BODY as u64 {
            return Err(ConfigError(format!(
                "socket.max_packet_bytes: a message of more than {MAX_BODY} bytes cannot be kept"
            )));
        }
        Ok(())
    }

    fn check_secrets(&self) -> Result<(), ConfigError> {
        let earlier = self
            .token
            .earlier_secrets
            .bytes()
            .map(|key| ("token.earlier_secrets", Some(key)));
        for (name, key) in [("token_secret", self.token_secret.bytes())]
            .into_iter()
            .chain(earlier)
        {
            if let Some(key) = key.filter(|key| key.len() < SHORTEST_SECRET) {
                let problem = format!(
                    "{name}: a key of {} bytes can be guessed, please take at least {SHORTEST_SECRET}",
                    key.len()
                );
                return Err(ConfigError(problem));
            }
        }
        if !self.token_secret.can_be_listed() {
            let problem = "token_secret: a key with a comma in it could never be moved to token.earlier_secrets";
            return Err(ConfigError(problem.into()));
        }
        Ok(())
    }

    fn check_network(&self) -> Result<(), ConfigError> {
        if self.access == AccessMode::Open
            && !self.listen.ip().is_loopback()
            && !self.allow_open_network
        {
            return Err(ConfigError(format!(
                "listen: whoever reaches {} could act as anyone, since access is \"open\"; take secure mode (CAUSERIE_ACCESS=secure), listen on 127.0.0.1, or allow it with \
                 allow_open_network = true (CAUSERIE_ALLOW_OPEN_NETWORK=true) where nobody else can reach it",
                self.listen
            )));
        }
        if self.access == AccessMode::Secure && self.http.cors_origins == Origins::Any {
            return Err(ConfigError("http.cors_origins: secure mode takes a list of origins, or \"none\", but not \"any\"".into()));
        }
        Ok(())
    }

    /// Returns the effective settings as TOML, with secrets masked.
    ///
    /// # Panics
    /// Never: every setting is a string or a number.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings and numbers are TOML")
    }
}

/// Returns the names of all settings, such as `http.max_page`.
fn names() -> Result<Vec<String>, ConfigError> {
    let mut defaults = toml::from_str(DEFAULTS)
        .map_err(|error| ConfigError(one_line(&format!("the defaults: {error}"))))?;
    text::clean_all(&mut defaults)
}

/// Reads the settings file and cleans its strings.
fn read_file(path: &Path, names: &[String]) -> Result<String, ConfigError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("cannot read the file {shown}: {error}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut table: toml::Table = toml::from_str(text).map_err(|error| {
        // Leaves out the line itself, which the error would quote: it may contain a secret.
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        ConfigError(one_line(&format!(
            "{shown}, line {line}: {}",
            error.message()
        )))
    })?;
    let found = text::clean_all(&mut table)
        .map_err(|ConfigError(error)| ConfigError(format!("{shown}: {error}")))?;
    if let Some(unknown) = found.iter().find(|name| !names.contains(name)) {
        let nearest = environment::nearest_name(unknown, names.iter().map(String::as_str))
            .unwrap_or_default();
        return Err(ConfigError(format!(
            "{shown}: {} is not a setting; the nearest one is {nearest}",
            unknown.escape_debug()
        )));
    }
    Ok(table.to_string())
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
