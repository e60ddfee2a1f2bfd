//! Cleans setting values: removes white space that editors and shells add around them, and refuses
//! invisible characters.

use toml::{Table, Value};

use super::{ConfigError, database_url::masked_url};

/// Settings whose values are never shown.
const SECRETS: [&str; 2] = ["token_secret", "token.earlier_secrets"];
const QUOTES: [char; 2] = ['"', '\''];

/// Returns the value of a setting without white space at its ends. `name` is the setting as its
/// source spells it, for error texts.
///
/// Errors: the value contains an invisible character, or begins or ends with a quotation mark.
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
    // A secret may be any text, and earlier versions took quotation marks as part of it.
    if !is_secret && (value.starts_with(QUOTES) || value.ends_with(QUOTES)) {
        let problem = "the value is in quotation marks; leave them out (`docker run --env-file` takes them as part of the value)";
        return Err(ConfigError(format!("{name}: {problem}")));
    }
    Ok(value.to_owned())
}

/// Cleans all strings in a settings file, and returns the names of all settings in it.
pub fn clean_all(table: &mut Table) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    clean_section(table, "", &mut names)?;
    Ok(names)
}

fn clean_section(
    table: &mut Table,
    prefix: &str,
    names: &mut Vec<String>,
) -> Result<(), ConfigError> {
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

/// Whether this is a control character or an invisible character that gets in with pasted text.
/// Joiners are allowed: some scripts need them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}
