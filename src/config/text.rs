//! The values of settings as texts: what editors and shells put around them is taken away, and what cannot be seen is refused.

use toml::{Table, Value};

use super::{ConfigError, database_url::masked_url};

/// The settings whose values are shown to nobody.
const SECRETS: [&str; 2] = ["token_secret", "token.earlier_secrets"];
const QUOTES: [char; 2] = ['"', '\''];

/// The value of a setting without white space at its ends, where there is nothing invisible in it. `name` is what the person who wrote it
/// calls the setting.
pub fn cleaned(name: &str, setting: &str, value: &str) -> Result<String, ConfigError> {
    let value = value.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let is_secret = SECRETS.contains(&setting);
    if let Some(invisible) = value.chars().find(|c| is_invisible(*c)) {
        let shown = match setting {
            _ if is_secret => String::new(),
            "database" => format!(": {}", masked_url(value).escape_debug()),
            _ => format!(": {}", value.escape_debug()),
        };
        return Err(ConfigError(format!(
            "{name}: the value has a character that cannot be seen, {}, in it{shown}",
            invisible.escape_unicode()
        )));
    }
    // A secret may be any text, and has been taken with its quotation marks before.
    if !is_secret && (value.starts_with(QUOTES) || value.ends_with(QUOTES)) {
        let problem = "the value is in quotation marks; leave them out (`docker run --env-file` takes them as part of the value)";
        return Err(ConfigError(format!("{name}: {problem}")));
    }
    Ok(value.to_owned())
}

/// Cleans all texts in a settings file, and answers the names of all settings in it.
pub fn clean_all(table: &mut Table) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    clean_section(table, "", &mut names)?;
    Ok(names)
}

fn clean_section(table: &mut Table, prefix: &str, names: &mut Vec<String>) -> Result<(), ConfigError> {
    for (key, value) in table.iter_mut() {
        let name = format!("{prefix}{key}");
        match value {
            Value::Table(section) => clean_section(section, &format!("{name}."), names)?,
            Value::String(text) => {
                *text = cleaned(&name, &name, text)?;
                names.push(name);
            }
            _ => names.push(name),
        }
    }
    Ok(())
}

/// Controls, and those characters that show nothing and come with pasted text. Joiners belong to some scripts.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}
