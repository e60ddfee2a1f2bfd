//! The URL of a database, with secrets masked wherever it is printed.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, Serializer};

/// Replaces a secret in printed text.
const MASK: &str = "********";
/// The minimum length, in characters, of a secret's part that is masked in error texts. Shorter
/// parts occur in any text.
const SHORTEST_PART: usize = 3;
/// Characters that a database name, a host or an option value cannot contain in a well-formed URL.
const OUT_OF_PLACE: [char; 6] = ['=', '&', ';', '?', '@', ' '];

/// MongoDB URL options that hold no secret, in lower case. The value of any other option, misspelt
/// ones included, is masked.
const HARMLESS: &[&str] = &[
    "appname",
    "authmechanism",
    "authsource",
    "compressors",
    "connecttimeoutms",
    "directconnection",
    "gssapiservicename",
    "heartbeatfrequencyms",
    "journal",
    "loadbalanced",
    "localthresholdms",
    "maxconnecting",
    "maxidletimems",
    "maxpoolsize",
    "maxstalenessseconds",
    "minpoolsize",
    "proxyhost",
    "proxyport",
    "proxyusername",
    "readconcernlevel",
    "readpreference",
    "readpreferencetags",
    "replicaset",
    "retryreads",
    "retrywrites",
    "servermonitoringmode",
    "serverselectiontimeoutms",
    "sockettimeoutms",
    "srvmaxhosts",
    "srvservicename",
    "ssl",
    "timeoutms",
    "tls",
    "tlsallowinvalidcertificates",
    "tlsallowinvalidhostnames",
    "tlscafile",
    "tlscertificatekeyfile",
    "tlsdisablecertificaterevocationcheck",
    "tlsdisableocspendpointcheck",
    "tlsinsecure",
    "uuidrepresentation",
    "w",
    "waitqueuetimeoutms",
    "wtimeout",
    "wtimeoutms",
    "zlibcompressionlevel",
];

/// The URL of a database. `Debug`, `Display` and `Serialize` mask its secrets.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Returns the whole URL, secrets included. Only for the store that opens it; must not be
    /// printed.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns an error text with the secrets of this URL masked: database drivers quote parts of a
    /// URL that they cannot parse.
    #[must_use]
    pub fn mask_in(&self, text: &str) -> String {
        let mut parts: Vec<_> = Masked::of(&self.0)
            .hidden
            .into_iter()
            .flat_map(parts_of)
            .collect();
        // Longest first, so that no part is replaced only partially.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.iter().fold(text.to_owned(), |text, part| {
            text.replace(part.as_str(), MASK)
        })
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

/// Returns the URL with the password and the values of secret options masked. In a URL that is not
/// well formed, everything that could be a secret is masked.
pub fn masked_url(url: &str) -> String {
    Masked::of(url).shown
}

/// Returns the forms in which a driver may quote a hidden piece: raw and percent-decoded, whole and
/// in parts, each also in lower case.
fn parts_of(hidden: &str) -> Vec<String> {
    let decoded = percent_decode_str(hidden).decode_utf8_lossy().into_owned();
    let whole = [hidden, decoded.as_str()];
    let pieces = whole
        .iter()
        .flat_map(|text| text.split([':', ',', '=', '&', ';', '/', '?', '@']))
        .chain(whole);
    let pieces = pieces.filter(|part| part.chars().count() >= SHORTEST_PART);
    pieces
        .flat_map(|part| [part.to_owned(), part.to_lowercase()])
        .collect()
}

/// A URL split into the text to show and the pieces to hide.
#[derive(Default)]
struct Masked<'a> {
    shown: String,
    hidden: Vec<&'a str>,
}

impl<'a> Masked<'a> {
    fn of(url: &'a str) -> Self {
        let mut masked = Self::default();
        masked.url(url);
        masked
    }

    fn show(&mut self, text: &str) {
        self.shown.push_str(text);
    }

    fn hide(&mut self, text: &'a str) {
        self.shown.push_str(MASK);
        self.hidden.push(text);
    }

    fn url(&mut self, url: &'a str) {
        let scheme_end = url.find("://").filter(|end| {
            url[..*end]
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        });
        let is_sqlite = url
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("sqlite:"));
        if is_sqlite {
            self.show(&url[..7]);
            self.file(&url[7..]);
        } else if let Some(end) = scheme_end {
            self.show(&url[..end + 3]);
            self.server(&url[end + 3..]);
        } else if let Some(end) = url.find([':', '=', '&', '?', '@']) {
            // Not a URL. Text before a `:` is shown: it is a scheme, and hardly ever a user name.
            let shown = if url[end..].starts_with(':') {
                end + 1
            } else {
                0
            };
            self.show(&url[..shown]);
            self.hide(&url[shown..]);
        } else {
            self.show(url);
        }
    }

    fn file(&mut self, path: &'a str) {
        match path.split_once('?') {
            // Another URL after the wrong scheme.
            _ if path.contains("://") => self.url(path),
            Some((path, options)) => {
                self.show(path);
                self.options(options);
            }
            None => self.show(path),
        }
    }

    /// Processes what follows the scheme: `USER:PASSWORD@HOST:PORT,HOST:PORT/NAME?OPTIONS`.
    fn server(&mut self, rest: &'a str) {
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if tail.contains('@') {
            // A password that contains `/` or `?` may end at any `@`.
            return self.hide(rest);
        }
        let hosts = match authority.rsplit_once('@') {
            Some((login, hosts)) => {
                match login.split_once(':') {
                    Some((user, password)) => {
                        self.show(user);
                        self.show(":");
                        self.hide(password);
                    }
                    None => self.show(login),
                }
                self.show("@");
                hosts
            }
            None => authority,
        };
        for (n, host) in hosts.split(',').enumerate() {
            self.show(if n > 0 { "," } else { "" });
            self.host(host);
        }
        let (name, options) = tail
            .split_once('?')
            .map_or((tail, None), |(name, options)| (name, Some(options)));
        match name.strip_prefix('/') {
            Some(name) if name.contains(OUT_OF_PLACE) || name.contains([':', ',']) => {
                self.show("/");
                self.hide(name);
            }
            _ => self.show(name),
        }
        if let Some(options) = options {
            self.options(options);
        }
    }

    /// Processes a host and its port. Credentials without the `@` look the same, except that a port
    /// is a number.
    fn host(&mut self, host: &'a str) {
        let address_end = if host.starts_with('[') {
            host.find(']').map_or(0, |end| end + 1)
        } else {
            0
        };
        match host[address_end..].split_once(':') {
            _ if host.contains(OUT_OF_PLACE) => self.hide(host),
            None => self.show(host),
            Some((_, port)) if port.parse::<u16>().is_ok() => self.show(host),
            Some((_, port)) => {
                self.show(&host[..host.len() - port.len()]);
                self.hide(port);
            }
        }
    }

    fn options(&mut self, options: &'a str) {
        self.show("?");
        for option in options.split_inclusive(['&', ';']) {
            let bare = option.strip_suffix(['&', ';']).unwrap_or(option);
            self.option(bare);
            self.show(&option[bare.len()..]);
        }
    }

    fn option(&mut self, option: &'a str) {
        match option.split_once('=') {
            Some((key, value))
                if HARMLESS.contains(&key.to_ascii_lowercase().as_str())
                    && !value.contains(OUT_OF_PLACE) =>
            {
                self.show(option);
            }
            Some((key, value)) if key.chars().all(|c| c.is_ascii_alphanumeric()) => {
                self.show(key);
                self.show("=");
                self.hide(value);
            }
            None if option.is_empty() => {}
            _ => self.hide(option),
        }
    }
}

#[cfg(test)]
mod tests;
