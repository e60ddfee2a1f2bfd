//! Request bodies: JSON or forms, parsed into types that can only hold valid values.

use std::{borrow::Cow, collections::HashSet};

use axum::{
    body::HttpBody,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use validator::{ValidationError, ValidationErrors};

use super::app::Shared;
use crate::{
    auth::password,
    error::{Error, Result},
    model::{EMPTY, NAME_LENGTH, is_blank, is_js_space, name_flaw},
    number,
};

/// How much of an oversized body is read and discarded, as a multiple of the limit, so that the
/// client gets to read the response.
const DISCARD: usize = 100;

const MULTIPART: &str = "Please send the request body as JSON, or as a form of the type application/x-www-form-urlencoded, not as multipart/form-data";

/// Extracts a valid request body.
///
/// To add one, define a type for its values and implement [`Input`] to read it field by field.
pub struct Body<T>(pub T);

/// A type that can be read from the fields of a request body.
pub trait Input: Sized {
    /// Reads every field, so that all errors are collected. Returns `None` only if an error was
    /// recorded; if one was, the returned value is ignored.
    fn read(fields: &mut Fields) -> Option<Self>;
}

impl<T: Input> FromRequest<Shared> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Shared) -> Result<Self> {
        let kind = Kind::of(request.headers())?;
        let bytes = read(request.into_body(), app.config.max_body_bytes).await;
        if matches!(kind, Kind::Multipart) && !bytes.as_ref().is_ok_and(Vec::is_empty) {
            // If it were treated as an empty object, the response would report fields as missing
            // that the client has filled in.
            return Err(Error::UnsupportedBody(MULTIPART.into()));
        }
        let bytes = bytes?;
        let mut fields = Fields {
            values: kind.parse(&bytes)?,
            errors: ValidationErrors::new(),
            secure: app.authenticator.is_secure(),
        };
        match T::read(&mut fields) {
            Some(input) if fields.errors.is_empty() => Ok(Self(input)),
            _ => Err(Error::Invalid(fields.errors)),
        }
    }
}

/// Reads the whole body, if it is no larger than `max` bytes.
pub async fn read(body: axum::body::Body, max: usize) -> Result<Vec<u8>> {
    read_of(body, max, max).await
}

/// Reads the whole body, if it is no larger than `max` bytes. `largest` is the highest limit that
/// may apply to such bodies, in bytes; it determines how much of an oversized body is read and
/// discarded.
pub async fn read_of(mut body: axum::body::Body, max: usize, largest: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(
        body.size_hint()
            .lower()
            .min(max as u64)
            .try_into()
            .unwrap_or_default(),
    );
    let mut total: usize = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Error::Malformed("The request body ended before it was whole".into()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        total = total.saturating_add(data.len());
        if total <= max {
            bytes.extend_from_slice(data);
        } else if total > largest.saturating_mul(DISCARD) {
            break;
        }
    }
    if total > max {
        Err(Error::TooLarge(max))
    } else {
        Ok(bytes)
    }
}

/// The encoding of a request body.
#[derive(Clone, Copy)]
enum Kind {
    Json,
    Form,
    /// A multipart form, which is not supported: refused unless it is empty.
    Multipart,
    /// Any other type, treated as an empty object.
    Other,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self> {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
        let content_type = content_type.unwrap_or_default();
        let mut parts = content_type.split(';').map(str::trim);
        let kind = match parts.next() {
            Some("application/json") => Self::Json,
            Some("application/x-www-form-urlencoded") => Self::Form,
            Some("multipart/form-data") => return Ok(Self::Multipart),
            _ => return Ok(Self::Other),
        };
        let charset = parts
            .find_map(|parameter| parameter.strip_prefix("charset="))
            .map(|charset| charset.trim_matches('"'));
        if let Some(charset) =
            charset.filter(|charset| !matches!(*charset, "utf-8" | "utf8" | "us-ascii"))
        {
            return Err(Error::UnsupportedBody(format!(
                "The request body is in '{charset}'; please send UTF-8"
            )));
        }
        match headers.get(header::CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => Err(Error::UnsupportedBody(
                "Please send the request body uncompressed".into(),
            )),
            _ => Ok(kind),
        }
    }

    fn parse(self, bytes: &[u8]) -> Result<Map<String, Value>> {
        match self {
            Self::Json => parse_json(bytes),
            Self::Form => Ok(parse_form(bytes)),
            Self::Multipart | Self::Other => Ok(Map::new()),
        }
    }
}

fn parse_json(bytes: &[u8]) -> Result<Map<String, Value>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Array(_)) => Ok(Map::new()),
        Ok(_) => Err(Error::Malformed(
            "The request body is not a JSON object".into(),
        )),
        Err(error) => Err(Error::Malformed(format!(
            "The request body is not valid JSON: {error}"
        ))),
    }
}

/// Parses a form. A key that occurs more than once becomes an array.
fn parse_form(bytes: &[u8]) -> Map<String, Value> {
    let mut fields = Map::new();
    for (key, value) in form_urlencoded::parse(bytes) {
        let value = Value::from(value);
        match fields.get_mut(key.as_ref()) {
            None => _ = fields.insert(key.into_owned(), value),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    fields
}

/// The fields of a request body, and the errors found so far.
pub struct Fields {
    values: Map<String, Value>,
    errors: ValidationErrors,
    secure: bool,
}

impl Fields {
    /// Whether the server runs in secure mode, which requires more fields.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Reads a boolean; a missing field is `false`. In forms it is the string `true` or `false`.
    pub fn flag(&mut self, field: &'static str) -> Option<bool> {
        match self.values.remove(field) {
            None | Some(Value::Null) => Some(false),
            Some(Value::Bool(flag)) => Some(flag),
            Some(Value::String(text)) if text == "true" || text == "false" => Some(text == "true"),
            Some(_) => self.wrong(field, "please provide true or false"),
        }
    }

    /// Reads a string that is not blank.
    pub fn text(&mut self, field: &'static str) -> Option<String> {
        self.string(field, |text| is_blank(text).then_some(EMPTY))
    }

    /// Reads the name of a user.
    pub fn name(&mut self, field: &'static str) -> Option<String> {
        self.string(field, name_flaw)
    }

    /// Reads an existing password. Earlier versions accepted any password that is not all white
    /// space, so nothing more is checked.
    pub fn password(&mut self, field: &'static str) -> Option<String> {
        self.string(field, |text| text.chars().all(is_js_space).then_some(EMPTY))
    }

    fn string(
        &mut self,
        field: &'static str,
        error_of: impl FnOnce(&str) -> Option<&'static str>,
    ) -> Option<String> {
        let Some(Value::String(text)) = self.values.remove(field) else {
            return self.wrong(field, "please provide a string");
        };
        self.checked(field, text, error_of)
    }

    /// Records the error of a text, if it has one, or returns the text.
    fn checked(
        &mut self,
        field: &'static str,
        text: String,
        error_of: impl FnOnce(&str) -> Option<&'static str>,
    ) -> Option<String> {
        match error_of(&text) {
            Some(error) => self.wrong(field, error),
            None => Some(text),
        }
    }

    /// Reads a new password.
    pub fn new_password(&mut self, field: &'static str) -> Option<String> {
        let password = self.parsed(field, Some, password::LENGTH)?;
        self.checked(field, password, password::validate)
    }

    /// Reads the name of a room.
    pub fn room_name(&mut self, field: &'static str) -> Option<String> {
        let name = self.parsed(field, Some, NAME_LENGTH)?;
        self.checked(field, name, |name| match name_flaw(name) {
            Some(EMPTY) => Some(NAME_LENGTH),
            error => error,
        })
    }

    /// Reads the name of a user, if the field is present.
    pub fn optional_name(&mut self, field: &'static str) -> Option<String> {
        if self.is_missing(field) {
            None
        } else {
            self.name(field)
        }
    }

    /// Reads a string and converts it with `read`. `expected` is the error text if the conversion
    /// fails.
    pub fn parsed<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(String) -> Option<T>,
        expected: &'static str,
    ) -> Option<T> {
        match self.values.remove(field) {
            Some(Value::String(text)) => read(text).or_else(|| self.wrong(field, expected)),
            _ => self.wrong(field, expected),
        }
    }

    /// Like [`parsed`](Self::parsed) for an optional field. Returns `Some(None)` if the field is
    /// missing, and `None` if it is wrong.
    #[expect(
        clippy::option_option,
        reason = "wrong, nothing, something: as all that reads a field"
    )]
    pub fn optional<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(String) -> Option<T>,
        expected: &'static str,
    ) -> Option<Option<T>> {
        if self.is_missing(field) {
            Some(None)
        } else {
            self.parsed(field, read, expected).map(Some)
        }
    }

    /// Reads an optional integer that is not negative. In forms it is a string.
    #[expect(
        clippy::option_option,
        reason = "wrong, nothing, something: as all that reads a field"
    )]
    pub fn optional_number(&mut self, field: &'static str) -> Option<Option<u64>> {
        let number = match self.values.remove(field) {
            None | Some(Value::Null) => return Some(None),
            Some(Value::String(text)) => number::whole_in(&text),
            Some(value) if number::is_too_large(&value) => {
                return self.wrong(field, "please provide a smaller number");
            }
            Some(value) => number::whole(&value),
        };
        number
            .map(Some)
            .or_else(|| self.wrong(field, "please provide a whole number, 0 or more"))
    }

    /// Whether the field is missing or null.
    pub fn is_missing(&self, field: &str) -> bool {
        self.values.get(field).is_none_or(Value::is_null)
    }

    /// Reads one of a closed set of names.
    pub fn one_of<T: Copy>(
        &mut self,
        field: &'static str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let value = self.values.remove(field);
        let found = all
            .iter()
            .copied()
            .find(|one| value.as_ref().and_then(Value::as_str) == Some(name(*one)));
        found.or_else(|| {
            let names: Vec<_> = all.iter().copied().map(name).collect();
            self.wrong(field, format!("Possible value are {}", names.join(",")))
        })
    }

    /// Reads a non-empty array of distinct strings that are not blank.
    pub fn texts(&mut self, field: &'static str) -> Option<Vec<String>> {
        let Some(Value::Array(values)) = self.values.remove(field) else {
            return self.wrong(field, "Please provide an array");
        };
        let mut seen = HashSet::with_capacity(values.len());
        if !values
            .iter()
            .filter_map(identity)
            .all(|value| seen.insert(value))
        {
            return self.wrong(field, "Values of array should be unique");
        }
        let text = |value| match value {
            Value::String(text) if !is_blank(&text) => Some(text),
            _ => None,
        };
        match values.into_iter().map(text).collect::<Option<Vec<_>>>() {
            None => self.wrong(field, "Values of array should be string only"),
            Some(texts) if texts.is_empty() => self.wrong(field, "Array cannot be empty"),
            Some(texts) => Some(texts),
        }
    }

    /// Records the error of a field. Returns `None`.
    pub fn wrong<T>(
        &mut self,
        field: &'static str,
        text: impl Into<Cow<'static, str>>,
    ) -> Option<T> {
        self.errors.add(
            field,
            ValidationError::new("contract").with_message(text.into()),
        );
        None
    }
}

/// Returns a key that two array elements share if JavaScript considers them the same. Numbers are
/// compared by value. Objects and arrays are never the same, and have no key.
fn identity(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Object(_) | Value::Array(_) => None,
        Value::String(text) => Some(format!("\"{text}").into()),
        Value::Number(number) => Some(
            number
                .as_f64()
                .map_or_else(|| number.to_string(), |number| (number + 0.0).to_string())
                .into(),
        ),
        Value::Bool(_) | Value::Null => Some(value.to_string().into()),
    }
}
