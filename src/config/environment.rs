//! Selects the environment variables that are settings.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
};

use super::{ConfigError, text};

/// The prefix of environment variables that are settings.
pub const PREFIX: &str = "CAUSERIE_";
/// The environment variable with the path of the settings file.
pub const FILE: &str = "CAUSERIE_CONFIG";
/// The prefix of environment variables that the tests use.
const TESTS: &str = "CAUSERIE_TEST_";

/// Returns the variables of a process whose names and values are valid UTF-8.
///
/// Errors: one of Causerie's own variables is not valid UTF-8. Ignoring it would silently apply the
/// default.
pub fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, String>, ConfigError> {
    let mut environment = HashMap::new();
    for (name, value) in variables {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => _ = environment.insert(name, value),
            (Ok(name), Err(_)) if (is_ours(&name) && !is_injected(&name, "")) || name == "PORT" => {
                return Err(ConfigError(format!(
                    "{}: the value is not valid UTF-8",
                    name.escape_debug()
                )));
            }
            (Err(name), _) if is_ours(&name.to_string_lossy()) => {
                let name = name.to_string_lossy();
                return Err(ConfigError(format!(
                    "{}: the name of this environment variable is not valid UTF-8",
                    name.escape_debug()
                )));
            }
            _ => {}
        }
    }
    Ok(environment)
}

/// Returns the variables that are settings, with cleaned values. `settings` lists the names of all
/// settings, such as `http.max_page`.
///
/// Errors: a variable has Causerie's prefix, but is neither a setting nor injected by Kubernetes or
/// Docker.
pub fn settings(
    environment: &HashMap<String, String>,
    settings: &[String],
) -> Result<HashMap<String, String>, ConfigError> {
    let known: BTreeMap<_, _> = settings
        .iter()
        .map(|setting| (variable(setting), setting))
        .collect();
    // Sorted, so that the same one of several mistakes is always reported.
    let ours: BTreeMap<_, _> = environment
        .iter()
        .filter(|(name, _)| is_ours(name))
        .collect();
    let mut found = HashMap::new();
    for (name, value) in ours {
        if let Some(setting) = known.get(name) {
            found.insert(name.clone(), text::cleaned(name, setting, value)?);
        } else if name != FILE && !name.starts_with(TESTS) && !is_injected(name, value) {
            let nearest = nearest_name(name, known.keys().map(String::as_str).chain([FILE]))
                .unwrap_or_default();
            return Err(ConfigError(match name.as_str() {
                "CAUSERIE_PORT" => {
                    "CAUSERIE_PORT is not a setting; PORT sets the port, and CAUSERIE_LISTEN the address with the port".to_owned()
                }
                _ => format!("{} is not a setting; the nearest one is {nearest}", name.escape_debug()),
            }));
        }
    }
    Ok(found)
}

/// Returns the name of a setting's environment variable.
fn variable(setting: &str) -> String {
    format!(
        "{PREFIX}{}",
        setting.replace('.', "__").to_ascii_uppercase()
    )
}

/// Whether the name, in any spelling, can only be meant for Causerie. An editor may have put a byte
/// order mark before the first variable of a file.
fn is_ours(name: &str) -> bool {
    let name = name
        .trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
        .to_ascii_uppercase();
    name.strip_prefix("CAUSERIE")
        .is_some_and(|rest| rest.starts_with(['_', '-', '.']))
}

/// Whether Kubernetes or Docker sets the variable to describe a service or a linked container named
/// `causerie` or `causerie-…` to other containers.
///
/// Kubernetes:
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.
/// Docker: <https://docs.docker.com/engine/network/links/#environment-variables>.
fn is_injected(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let parts: Vec<_> = rest.split('_').collect();
    let is =
        |pattern: &[&str], start: usize| parts.get(start..).is_some_and(|parts| parts == pattern);
    (0..parts.len()).any(|at| match &parts[at..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["ENV", _, ..] => true,
        ["NAME"] => at == 0 || value.starts_with('/'),
        ["PORT"] => value
            .split_once("://")
            .is_some_and(|(protocol, _)| matches!(protocol, "tcp" | "udp" | "sctp")),
        ["PORT", number, "TCP" | "UDP" | "SCTP", ..] if number.parse::<u16>().is_ok() => [
            &[][..],
            &["ADDR"],
            &["PORT"],
            &["PROTO"],
            &["START"],
            &["END"],
            &["PORT", "START"],
            &["PORT", "END"],
        ]
        .iter()
        .any(|suffix| is(suffix, at + 3)),
        _ => false,
    })
}

/// Returns the known name nearest to this one. A missing section, one underscore for two, dashes
/// and letter case make no difference.
pub fn nearest_name<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| {
        name.to_ascii_uppercase()
            .replace(['.', '-'], "_")
            .replace("__", "_")
    };
    let wanted = plain(name);
    known.min_by_key(|known| {
        let whole = strsim::damerau_levenshtein(&wanted, &plain(known));
        let (section, last) = known
            .rsplit_once("__")
            .or_else(|| known.rsplit_once('.'))
            .unwrap_or(("", known));
        let prefix = if section.starts_with(PREFIX) {
            PREFIX
        } else {
            ""
        };
        (
            strsim::damerau_levenshtein(&wanted, &plain(&format!("{prefix}{last}"))).min(whole),
            whole,
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const KNOWN: [&str; 6] = [
        "listen",
        "database",
        "log",
        "log_format",
        "http.max_page",
        "http.max_body_bytes",
    ];

    fn taken(name: &str, value: &str) -> Result<HashMap<String, String>, String> {
        let environment = HashMap::from([(name.to_owned(), value.to_owned())]);
        settings(&environment, &KNOWN.map(ToOwned::to_owned)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_kubernetes_and_docker_inject_is_passed_over() {
        for (name, value) in [
            ("CAUSERIE_SERVICE_HOST", "10.0.0.1"),
            ("CAUSERIE_SERVICE_PORT", "3000"),
            ("CAUSERIE_SERVICE_PORT_HTTP", "3000"),
            ("CAUSERIE_PORT", "tcp://10.0.0.1:3000"),
            ("CAUSERIE_PORT", "udp://[fd00::1]:3000"),
            ("CAUSERIE_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
            ("CAUSERIE_PORT_3000_TCP_ADDR", "10.0.0.1"),
            ("CAUSERIE_PORT_3000_TCP_PORT", "3000"),
            ("CAUSERIE_PORT_3000_TCP_PROTO", "tcp"),
            ("CAUSERIE_PORT_53_UDP_ADDR", "10.0.0.1"),
            ("CAUSERIE_PORT_9_SCTP_PROTO", "sctp"),
            ("CAUSERIE_PORT_3000_TCP_START", "tcp://10.0.0.1:3000"),
            ("CAUSERIE_PORT_3000_TCP_PORT_END", "3005"),
            ("CAUSERIE_NAME", "/app/causerie"),
            ("CAUSERIE_NAME", "causerie"),
            ("CAUSERIE_ENV_PATH", ""),
            ("CAUSERIE_ENV_CAUSERIE_LISTEN", "nowhere"),
            // A second service next to it.
            ("CAUSERIE_MONGODB_SERVICE_HOST", "10.0.0.2"),
            ("CAUSERIE_MONGODB_SERVICE_PORT_MONGODB", "27017"),
            ("CAUSERIE_MONGODB_PORT", "tcp://10.0.0.2:27017"),
            ("CAUSERIE_MONGODB_PORT_27017_TCP_ADDR", "10.0.0.2"),
            ("CAUSERIE_1_NAME", "/app/causerie_1"),
            ("CAUSERIE_DB_ENV_PASSWORD", "x"),
            ("CAUSERIE_TEST_MONGODB", "mongodb://localhost"),
            ("CAUSERIES", "x"),
            ("causeriesomething", "x"),
        ] {
            assert_eq!(taken(name, value), Ok(HashMap::new()), "{name}={value}");
        }
    }

    #[test]
    fn any_other_variable_is_refused_by_its_own_name_with_the_nearest() {
        for (name, nearest) in [
            ("CAUSERIE_LISTNE", "CAUSERIE_LISTEN"),
            ("CAUSERIE_LISTEN_", "CAUSERIE_LISTEN"),
            ("CAUSERIE_listen", "CAUSERIE_LISTEN"),
            ("causerie_listen", "CAUSERIE_LISTEN"),
            ("CAUSERIE-LISTEN", "CAUSERIE_LISTEN"),
            ("CAUSERIE__LISTEN", "CAUSERIE_LISTEN"),
            ("CAUSERIE_HTTP_MAX_PAGE", "CAUSERIE_HTTP__MAX_PAGE"),
            ("CAUSERIE_HTTP__MAX_PAGES", "CAUSERIE_HTTP__MAX_PAGE"),
            ("CAUSERIE_MAX_PAGE", "CAUSERIE_HTTP__MAX_PAGE"),
            ("CAUSERIE_DATABASE_URL", "CAUSERIE_DATABASE"),
            ("CAUSERIE_LOGFORMAT", "CAUSERIE_LOG_FORMAT"),
            ("CAUSERIE_CONFIG_FILE", "CAUSERIE_CONFIG"),
            ("CAUSERIE_HTTP", "CAUSERIE_"),
            ("CAUSERIE_PORT_TCP", "CAUSERIE_"),
            ("CAUSERIE_PORT_http_TCP", "CAUSERIE_"),
            ("CAUSERIE_HTTP_NAME", "CAUSERIE_"),
            ("CAUSERIE_ENV", "CAUSERIE_"),
            ("CAUSERIE_", "CAUSERIE_LOG"),
        ] {
            let error = taken(name, "3000").unwrap_err();
            assert!(
                error.starts_with(&format!(
                    "settings: {name} is not a setting; the nearest one is {nearest}"
                )),
                "{error}"
            );
            assert!(taken(name, "").is_err(), "{name} without a value");
        }
        let error = taken("CAUSERIE_PORT", "3000").unwrap_err();
        assert!(
            error.contains("PORT sets the port") && error.contains("CAUSERIE_LISTEN"),
            "{error}"
        );
        let error = taken("\u{feff}CAUSERIE_LISTEN", "127.0.0.1:1").unwrap_err();
        assert!(
            error.starts_with("settings: \\u{feff}CAUSERIE_LISTEN is not a setting"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_where_it_is_ours() {
        let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
        let read = |name: &[u8], value: &[u8]| {
            read([(bytes(name), bytes(value))]).map_err(|error| error.to_string())
        };
        assert_eq!(
            read(b"CAUSERIE_LISTEN", b"\xff").unwrap_err(),
            "settings: CAUSERIE_LISTEN: the value is not valid UTF-8"
        );
        assert_eq!(
            read(b"PORT", b"\xff").unwrap_err(),
            "settings: PORT: the value is not valid UTF-8"
        );
        assert!(
            read(b"CAUSERIE_\xff", b"x")
                .unwrap_err()
                .contains("the name of this environment variable is not valid UTF-8")
        );
        assert_eq!(read(b"OTHER", b"\xff"), Ok(HashMap::new()));
        assert_eq!(read(b"\xff", b"x"), Ok(HashMap::new()));
        assert_eq!(read(b"CAUSERIE_ENV_X", b"\xff"), Ok(HashMap::new()));
    }
}
