//! `page`, `limit` and cursors of a query, parsed as the original application parses them.

use axum::{
    extract::FromRequestParts,
    http::{Uri, request::Parts},
};

use super::app::Shared;
use crate::{
    error::{Error, Result},
    model::{Seq, is_js_space},
    store::Page,
};

const DEFAULT_LIMIT: u64 = 10;

/// The requested part of a listing. Any value in the query that is not a positive number is treated
/// as missing, except that `after` and `since` may be 0.
pub struct Paging {
    page: Option<u64>,
    limit: Option<u64>,
    before: Option<Seq>,
    after: Option<Seq>,
    since: Option<Seq>,
    max: u64,
    /// Whether the query contains `page` or `limit` at all.
    pub given: bool,
}

impl Paging {
    /// Returns the maximum number of items on the page.
    pub fn limit(&self) -> u64 {
        self.limit.unwrap_or(DEFAULT_LIMIT).min(self.max)
    }

    /// Returns the maximum number of items if the client reads everything in batches: the default
    /// is the largest page.
    pub fn limit_or_max(&self) -> u64 {
        self.limit.unwrap_or(self.max).min(self.max)
    }

    /// Returns the maximum number of items in the response to a request for this path.
    pub fn limit_of(&self, path: &str) -> u64 {
        if path.ends_with("/sync") {
            self.limit_or_max()
        } else {
            self.limit()
        }
    }

    /// Returns the sequence number after which the client catches up.
    pub fn since(&self) -> Seq {
        self.since.unwrap_or_default()
    }

    /// Returns the sequence number before which to search.
    pub fn before(&self) -> Option<Seq> {
        self.before
    }

    /// Returns the number of items before the page.
    pub fn skip(&self) -> u64 {
        self.page.unwrap_or_default().saturating_mul(self.limit())
    }

    /// Returns the requested part of a room's log: by cursor if the query has one, else by page.
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
    /// Parses the query of a request. `max` is the maximum number of items on a page.
    pub fn of(uri: &Uri, max: u64) -> Self {
        let query = uri.query().unwrap_or_default();
        // A key given twice is an array in the original application, whose `parseInt` reads the
        // first element.
        let value = |key: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find(|(name, _)| name == key)
                .map(|(_, value)| value)
        };
        let number = |key| value(key).and_then(|text| parse_int(&text));
        let positive = |key| number(key).filter(|number| *number > 0);
        Self {
            page: positive("page"),
            limit: positive("limit"),
            before: positive("before").map(Seq),
            // 0 is a valid cursor: the position before the first entry of the log.
            after: number("after").map(Seq),
            since: number("since").map(Seq),
            max,
            given: value("page").is_some() || value("limit").is_some(),
        }
    }
}

/// Parses like JavaScript's `parseInt` (ECMA-262, 19.2.5), for numbers that are not negative: white
/// space, a sign, `0x` for hexadecimal, then digits up to the first other character. A number that
/// is too large becomes `u64::MAX`.
fn parse_int(text: &str) -> Option<u64> {
    let text = text.trim_start_matches(is_js_space);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let mut values = digits
        .chars()
        .map_while(|digit| digit.to_digit(radix))
        .peekable();
    values.peek()?;
    Some(values.fold(0, |number: u64, digit| {
        number
            .saturating_mul(radix.into())
            .saturating_add(digit.into())
    }))
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
