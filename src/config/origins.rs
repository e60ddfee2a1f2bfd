//! The origins allowed by CORS, stored as browsers send them.

use axum::http::HeaderValue;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use url::{Host, Url};

/// The origins allowed by CORS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origins {
    /// By access mode: any origin in open mode, none in secure mode.
    ByMode,
    /// Any origin.
    Any,
    /// The listed origins; none if the list is empty.
    These(OriginList),
}

/// A list of origins and of patterns for all origins below a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginList(Vec<Pattern>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    Exact(String),
    /// `https://*.example.com:8443`: matches an origin that begins with `https://`, ends with
    /// `.example.com:8443`, and has host name labels in between.
    Below {
        scheme: String,
        domain: String,
    },
}

impl OriginList {
    /// Whether the list contains an origin, as a browser sends it.
    #[must_use]
    pub fn contains(&self, origin: &HeaderValue) -> bool {
        origin
            .to_str()
            .is_ok_and(|origin| self.0.iter().any(|pattern| pattern.is_met_by(origin)))
    }
}

impl Pattern {
    fn is_met_by(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => origin == exact,
            Self::Below { scheme, domain } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|rest| rest.strip_suffix(domain.as_str()))
                .is_some_and(|labels| {
                    labels
                        .split('.')
                        .all(|label| !label.is_empty() && label.chars().all(is_of_a_name))
                }),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Exact(exact) => exact.clone(),
            Self::Below { scheme, domain } => format!("{scheme}*{domain}"),
        }
    }
}

/// Whether the character may be part of a host name label, as browsers write it.
fn is_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.trim() {
            "" => Ok(Self::ByMode),
            "any" => Ok(Self::Any),
            "none" => Ok(Self::These(OriginList(Vec::new()))),
            list => {
                let patterns = list
                    .split(',')
                    .map(|origin| pattern(origin.trim()))
                    .collect::<Result<_, _>>();
                patterns
                    .map(|patterns| Self::These(OriginList(patterns)))
                    .map_err(D::Error::custom)
            }
        }
    }
}

impl Serialize for Origins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ByMode => serializer.serialize_str(""),
            Self::Any => serializer.serialize_str("any"),
            Self::These(OriginList(patterns)) if patterns.is_empty() => {
                serializer.serialize_str("none")
            }
            Self::These(OriginList(patterns)) => serializer.serialize_str(
                &patterns
                    .iter()
                    .map(Pattern::text)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        }
    }
}

/// Parses an origin or a pattern.
///
/// Errors: no browser ever sends such an origin, so it could never match.
fn pattern(text: &str) -> Result<Pattern, String> {
    if text == "null" {
        return Ok(Pattern::Exact("null".into()));
    }
    let not_one = || {
        format!(
            "'{text}' is not an origin like https://chat.example.com, nor alone \"any\" or \"none\""
        )
    };
    let (scheme, host) = text.split_once("://").ok_or_else(not_one)?;
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    // A URL copied from the address bar has a trailing slash.
    let host = host.strip_suffix('/').unwrap_or(host);
    match scheme.as_str() {
        _ if !is_scheme => Err(not_one()),
        _ if host.is_empty() => Err(format!("'{text}' names no host")),
        _ if host.contains(['/', '\\', '?', '#', '@']) => Err(format!(
            "'{text}' has more in it than a scheme, a host and a port, which is all that browsers send of a page's address"
        )),
        "http" | "https" => web(text, &scheme, host),
        "ws" | "wss" => Err(format!(
            "'{text}' is the address of a socket; browsers send that of the page, which begins with https:// or http://"
        )),
        "file" | "data" | "blob" | "about" => Err(format!(
            "'{text}' can never match: the origin of such pages is null"
        )),
        _ => app(text, &scheme, host),
    }
}

fn web(text: &str, scheme: &str, host: &str) -> Result<Pattern, String> {
    let read = |host: &str| {
        let url = Url::parse(&format!("{scheme}://{host}"))
            .map_err(|error| format!("'{text}' is not an origin: {error}"))?;
        Ok::<_, String>((url.origin().ascii_serialization(), url))
    };
    let Some(domain) = host.strip_prefix("*.") else {
        if host.contains('*') {
            return Err(format!(
                "'{text}' can have a * only as the first label of the host, as in https://*.example.com"
            ));
        }
        return read(host).map(|(origin, _)| Pattern::Exact(origin));
    };
    if domain.contains('*') {
        return Err(format!(
            "'{text}' can have one * only, as the first label of the host"
        ));
    }
    // Parsed with a label in place of the star, because a host name with a star is invalid.
    let (origin, url) = read(&format!("x.{domain}"))?;
    let scheme = format!("{scheme}://");
    let domain = origin
        .strip_prefix(scheme.as_str())
        .and_then(|host| host.strip_prefix('x'));
    match (domain, url.host()) {
        (Some(domain), Some(Host::Domain(name)))
            if name.ends_with("x.localhost")
                || name.trim_end_matches('.').matches('.').count() > 1 =>
        {
            Ok(Pattern::Below {
                scheme,
                domain: domain.to_owned(),
            })
        }
        _ => Err(format!(
            "'{text}' would allow every page under a whole top-level domain"
        )),
    }
}

/// Parses the origin of an app that shows its own pages, such as `capacitor://localhost`.
fn app(text: &str, scheme: &str, host: &str) -> Result<Pattern, String> {
    let (name, port) = host
        .split_once(':')
        .map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if !is_name || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!(
            "'{text}' is not an origin: {host} is not the name of a host"
        ));
    }
    Ok(Pattern::Exact(format!(
        "{scheme}://{}",
        host.to_ascii_lowercase()
    )))
}

#[cfg(test)]
mod tests {
    use serde::de::{IntoDeserializer, value::Error};

    use super::*;

    fn read(text: &str) -> Result<Origins, String> {
        let value: serde::de::value::StrDeserializer<'_, Error> = text.into_deserializer();
        Origins::deserialize(value).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn list(text: &str) -> OriginList {
        match read(text) {
            Ok(Origins::These(list)) => list,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn allows(text: &str, origin: &'static str) -> bool {
        list(text).contains(&HeaderValue::from_static(origin))
    }

    #[test]
    fn origins_are_kept_as_browsers_send_them() {
        for (text, sent) in [
            ("https://chat.example.com", "https://chat.example.com"),
            ("https://Chat.Example.com", "https://chat.example.com"),
            ("HTTPS://chat.example.com/", "https://chat.example.com"),
            ("https://chat.example.com:443", "https://chat.example.com"),
            ("http://chat.example.com:80/", "http://chat.example.com"),
            ("http://chat.example.com:443", "http://chat.example.com:443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            (
                "https://BÜCHER.example:8443",
                "https://xn--bcher-kva.example:8443",
            ),
            ("http://[0:0::1]:3000", "http://[::1]:3000"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://tauri.localhost", "http://tauri.localhost"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("ionic://localhost", "ionic://localhost"),
            ("tauri://localhost", "tauri://localhost"),
            ("Capacitor://Localhost/", "capacitor://localhost"),
            (
                "chrome-extension://abcdefghijklmnop",
                "chrome-extension://abcdefghijklmnop",
            ),
            ("null", "null"),
            ("https://a.example, null ,https://b.example", "null"),
        ] {
            assert!(allows(text, sent), "{text}: {:?}", list(text));
            assert!(!allows(text, "https://evil.example"), "{text}");
        }
        assert!(!allows("https://a.example", "null"));
    }

    /// Allowed origins, an origin, and whether it is allowed.
    const WILDCARDS: &[(&str, &str, bool)] = &[
        ("https://*.example.com", "https://chat.example.com", true),
        ("https://*.example.com", "https://a.b.example.com", true),
        (
            "https://*.Example.com:443/",
            "https://chat.example.com",
            true,
        ),
        ("https://*.example.com", "https://example.com", false),
        ("https://*.example.com", "https://.example.com", false),
        ("https://*.example.com", "https://evil-example.com", false),
        ("https://*.example.com", "https://a..example.com", false),
        (
            "https://*.example.com",
            "https://evil.example/.example.com",
            false,
        ),
        (
            "https://*.example.com",
            "https://evil.example:80@x.example.com",
            false,
        ),
        ("https://*.example.com", "http://chat.example.com", false),
        (
            "https://*.example.com",
            "https://chat.example.com:8443",
            false,
        ),
        (
            "https://*.example.com",
            "https://chat.example.com.evil.example",
            false,
        ),
        (
            "https://*.example.com:8443",
            "https://chat.example.com:8443",
            true,
        ),
        (
            "https://*.example.com:8443",
            "https://chat.example.com",
            false,
        ),
        (
            "https://*.bücher.example",
            "https://a.xn--bcher-kva.example",
            true,
        ),
        ("http://*.localhost:3000", "http://a.localhost:3000", true),
        (
            "https://*.example.com,https://example.com",
            "https://example.com",
            true,
        ),
    ];

    #[test]
    fn a_star_stands_for_every_name_below_a_domain_and_for_nothing_else() {
        for &(text, origin, allowed) in WILDCARDS {
            assert_eq!(allows(text, origin), allowed, "{text}: {origin}");
        }
    }

    #[test]
    fn what_can_never_match_is_refused_in_a_sentence() {
        for (text, mention) in [
            ("example.com", "is not an origin like"),
            ("localhost:3000", "is not an origin like"),
            ("https:chat.example.com", "is not an origin like"),
            ("https://a.example,", "'' is not an origin"),
            ("https://a.example,any", "'any' is not an origin"),
            ("*", "'*' is not an origin"),
            ("https://chat.example.com/app", "has more in it"),
            ("https://chat.example.com//", "has more in it"),
            ("https://chat.example.com?x", "has more in it"),
            ("https://chat.example.com#x", "has more in it"),
            ("https://me@chat.example.com", "has more in it"),
            ("https:///chat.example.com", "has more in it"),
            ("capacitor://localhost/app", "has more in it"),
            ("https://", "names no host"),
            ("https:///", "names no host"),
            ("capacitor://", "names no host"),
            ("https://:8443", "is not an origin"),
            ("https://a b.example", "is not an origin"),
            ("https://chat.example.com:99999", "is not an origin"),
            ("https://1.2.3.4.5", "is not an origin"),
            ("wss://chat.example.com", "the address of a socket"),
            ("file:///index.html", "has more in it"),
            ("file://localhost", "the origin of such pages is null"),
            ("https://*", "only as the first label"),
            ("https://*example.com", "only as the first label"),
            ("https://chat.*.com", "only as the first label"),
            ("https://chat.example.com:*", "only as the first label"),
            ("*://chat.example.com", "is not an origin like"),
            ("https://*.*.example.com", "one * only"),
            ("https://*.com", "top-level domain"),
            ("https://*.10.0.0.1", "is not an origin"),
            ("capacitor://*", "is not the name of a host"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(mention), "{text}: {error}");
        }
    }

    #[test]
    fn they_are_written_as_they_are_read() {
        for text in [
            "",
            "any",
            "none",
            "https://chat.example.com,https://*.example.com:8443,null,capacitor://localhost",
        ] {
            let written = toml::Value::try_from(read(text).unwrap()).unwrap();
            assert_eq!(written.as_str(), Some(text));
        }
    }
}
