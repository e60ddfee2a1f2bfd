//! `page`, `limit` and cursors of a query, read as the original reads them.

use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};

use super::Shared;
use crate::{
    error::{Error, Result},
    model::{Seq, is_js_space},
    store::Page,
};

const DEFAULT_LIMIT: u64 = 10;

/// Which part of a listing is asked for. Anything in the query that is not a positive number counts as not given.
pub struct Paging {
    page: Option<u64>,
    limit: Option<u64>,
    before: Option<Seq>,
    after: Option<Seq>,
    since: Option<Seq>,
    max: u64,
    /// Whether `page` or `limit` stands in the query at all.
    pub given: bool,
}

impl Paging {
    /// The most items on the page.
    pub fn limit(&self) -> u64 {
        self.limit.unwrap_or(DEFAULT_LIMIT).min(self.max)
    }

    /// The same, where what is asked for is everything, piece by piece.
    pub fn limit_or_max(&self) -> u64 {
        self.limit.unwrap_or(self.max).min(self.max)
    }

    /// The most items in the answer of this path.
    pub fn limit_of(&self, path: &str) -> u64 {
        if path.ends_with("/sync") { self.limit_or_max() } else { self.limit() }
    }

    /// The entry behind which to catch up.
    pub fn since(&self) -> Seq {
        self.since.unwrap_or_default()
    }

    /// The entry before which to look.
    pub fn before(&self) -> Option<Seq> {
        self.before
    }

    /// How many items to leave out in front of the page.
    pub fn skip(&self) -> u64 {
        self.page.unwrap_or_default().saturating_mul(self.limit())
    }

    /// The part of a room's log: by cursor, if there is one, else by page.
    pub fn of_log(&self) -> Page {
        match (self.before, self.after) {
            (Some(before), _) => Page::Before(before),
            (None, Some(after)) => Page::After(after),
            (None, None) => Page::Newest { skip: self.skip() },
        }
    }
}

impl FromRequestParts<Shared> for Paging {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        Ok(Self::of(&parts.uri, app.config.max_page))
    }
}

impl Paging {
    /// Reads the query of a request.
    pub fn of(uri: &Uri, max: u64) -> Self {
        let query = uri.query().unwrap_or_default();
        // A key given twice is an array to the original, whose first element is what its parseInt reads.
        let value = |key: &str| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == key).map(|(_, value)| value);
        let number = |key| value(key).and_then(|text| parse_int(&text));
        let positive = |key| number(key).filter(|number| *number > 0);
        Self {
            page: positive("page"),
            limit: positive("limit"),
            before: positive("before").map(Seq),
            // 0 is a place in the log: in front of its first entry.
            after: number("after").map(Seq),
            since: number("since").map(Seq),
            max,
            given: value("page").is_some() || value("limit").is_some(),
        }
    }
}

/// JavaScript's `parseInt` (ECMA-262, 19.2.5), for numbers that are not negative: white space, a sign, `0x` for hexadecimal, then digits
/// up to the first character that is none. What is too large to count is the largest number there is.
fn parse_int(text: &str) -> Option<u64> {
    let text = text.trim_start_matches(is_js_space);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let mut values = digits.chars().map_while(|digit| digit.to_digit(radix)).peekable();
    values.peek()?;
    Some(values.fold(0, |number: u64, digit| number.saturating_mul(radix.into()).saturating_add(digit.into())))
}

#[cfg(test)]
mod tests {
    use super::parse_int;

    #[test]
    fn numbers_are_read_as_javascript_reads_them() {
        for (text, number) in [
            ("7", Some(7)),
            ("2.7", Some(2)),
            ("3abc", Some(3)),
            (" \u{feff}\t12", Some(12)),
            ("+5", Some(5)),
            ("1e3", Some(1)),
            ("0x1F", Some(31)),
            ("007", Some(7)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("0", Some(0)),
            ("-1", None),
            ("", None),
            ("abc", None),
            ("Infinity", None),
            ("0x", None),
            ("+ 1", None),
        ] {
            assert_eq!(parse_int(text), number, "{text:?}");
        }
    }
}
