//! The log filter, checked for unknown levels. `tracing` takes an unknown word for a target, and
//! turns off all others.

use serde::{Deserialize, Serialize};

/// A log filter in the syntax of `tracing`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

/// The log levels; `off` disables logging.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
/// The log target of this program.
const OWN: &str = "causerie";
/// The edit distance up to which a target counts as a misspelling of [`OWN`].
const MISSPELT: usize = 2;

impl LogFilter {
    /// Returns the filter.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let directives: Vec<_> = text
            .split(',')
            .map(|part| directive(part.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self(directives.join(",")))
    }
}

/// Parses one directive: `LEVEL`, `TARGET`, `TARGET=LEVEL`, `TARGET[SPAN{FIELD=VALUE}]=LEVEL`.
fn directive(text: &str) -> Result<String, String> {
    let span = text.rfind(']').map_or(0, |end| end + 1);
    let (target, name) = match text[span..].find('=') {
        Some(at) => (&text[..span + at], text[span + at + 1..].trim()),
        None if span > 0 => return Ok(text.to_owned()),
        None if is_target(text) => return Ok(text.to_owned()),
        None => ("", text),
    };
    let crate_name = target.trim().split(['[', ':']).next().unwrap_or_default();
    let path = target.split('[').next().unwrap_or_default().trim();
    if !path
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
    {
        return Err(format!(
            "log: '{path}' is not a part of a program; parts have commas between them, as in warn,{OWN}::http=info"
        ));
    }
    if crate_name != OWN && strsim::damerau_levenshtein(crate_name, OWN) <= MISSPELT {
        return Err(format!(
            "log: '{crate_name}' is not a part of the program; do you mean {OWN}?"
        ));
    }
    let Some(level) = level(name) else {
        return Err(format!(
            "log: '{name}' is not a level; levels are {}, also of a part, as in warn,{OWN}::http=info",
            LEVELS.join(", ")
        ));
    };
    Ok(if target.is_empty() {
        level
    } else {
        format!("{}={level}", target.trim())
    })
}

/// Whether a word without a level is a target, of which everything is logged, and not a misspelt
/// level.
fn is_target(text: &str) -> bool {
    text == OWN || text.contains("::")
}

fn level(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "warning" => Some("warn".into()),
        _ => LEVELS.contains(&name.as_str()).then_some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        LogFilter::try_from(text.to_owned()).map(|filter| filter.0)
    }

    #[test]
    fn levels_are_known_and_warning_is_warn() {
        for (text, filter) in [
            ("info", "info"),
            ("WARN", "warn"),
            ("warning", "warn"),
            ("Warning", "warn"),
            ("off", "off"),
            ("warn,causerie::http=info", "warn,causerie::http=info"),
            (" warn , causerie=warning ", "warn,causerie=warn"),
            ("causerie = debug", "causerie=debug"),
            ("causerie", "causerie"),
            ("causerie::http", "causerie::http"),
            ("info,hyper=debug", "info,hyper=debug"),
            (
                "info,[request{status=500}]=warning",
                "info,[request{status=500}]=warn",
            ),
            ("causerie[request]", "causerie[request]"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(filter), "{text}");
        }
    }

    #[test]
    fn what_would_turn_the_log_off_by_mistake_is_refused() {
        for text in [
            "",
            " ",
            ",",
            "warn,",
            "err",
            "verbose",
            "trace2",
            "fatal",
            "loud",
            "6",
            "warn,foo",
            "warn,hyper",
            "causerie=",
            "causerie=verbose",
            "causerie::http=warnin",
            "warn=info,=",
            "causeire=debug",
            "Causerie=debug",
            "causeries::http=info",
            "warn;causerie=debug",
            "\"info\"",
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("log: '"), "{text}: {error}");
        }
    }
}
