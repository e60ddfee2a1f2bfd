//! Types of setting values. Each can only hold valid values.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::string_enum::string_enum;

string_enum! {
    /// Whether users have to authenticate.
    #[serde(try_from = "String")]
    pub enum AccessMode {
        /// Any client may log in as any user, as in the original application.
        Open = "open",
        /// A client has to authenticate as the user that it acts for.
        Secure = "secure",
    }
}

impl TryFrom<String> for AccessMode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
            .ok_or_else(|| format!("access: '{name}' is neither \"open\" nor \"secure\""))
    }
}

string_enum! {
    /// Who may register in secure mode.
    #[serde(try_from = "String")]
    pub enum Registration {
        /// Anyone, as a consumer.
        Open = "open",
        /// Only support users may register others.
        Closed = "closed",
    }
}

impl TryFrom<String> for Registration {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
            .ok_or_else(|| format!("registration: '{name}' is neither \"open\" nor \"closed\""))
    }
}

string_enum! {
    /// How much of a room's history a new member sees.
    #[serde(try_from = "String")]
    pub enum History {
        /// The whole history.
        All = "all",
        /// Nothing from before the member joined.
        FromJoining = "from joining",
    }
}

impl TryFrom<String> for History {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| {
            format!("rooms.history: '{name}' is neither \"all\" nor \"from joining\"")
        })
    }
}

string_enum! {
    /// Whose presence the members of a room see.
    #[serde(try_from = "String")]
    pub enum PresenceScope {
        /// That of all other members.
        Members = "members",
        /// That of members who have written in the room.
        Writers = "writers",
    }
}

impl TryFrom<String> for PresenceScope {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| {
            format!("rooms.presence: '{name}' is neither \"members\" nor \"writers\"")
        })
    }
}

string_enum! {
    /// The format of log lines.
    #[serde(try_from = "String")]
    pub enum LogFormat {
        /// Text, in colour on a terminal.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
            .ok_or_else(|| format!("log_format: '{name}' is neither \"text\" nor \"json\""))
    }
}

/// A duration of at least one millisecond, written as a number of milliseconds.
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

/// The path under which everything is served, for proxies that forward requests without removing
/// it. Empty, or `/` and names separated by `/`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct BasePath(String);

impl BasePath {
    /// Returns the path, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BasePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = text.strip_suffix('/').unwrap_or(&text);
        let is_name = |name: &str| {
            let plain = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~'));
            plain && !matches!(name, "" | "." | "..")
        };
        match path.strip_prefix('/') {
            None if path.is_empty() => Ok(Self(String::new())),
            Some(names) if names.split('/').all(is_name) => Ok(Self(path.to_owned())),
            _ => Err(format!(
                "'{text}' is not a path like /chat: it begins with /, and its names are of letters, digits and - _ . ~"
            )),
        }
    }
}

/// A set of networks, written as comma-separated addresses and prefixes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether one of the networks contains the address.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(D::Error::custom)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("'{text}' is neither an address nor a network like 10.0.0.0/8"))
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let networks: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        serializer.serialize_str(&networks.join(","))
    }
}
