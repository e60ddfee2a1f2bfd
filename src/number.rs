//! Parses whole numbers as clients send them in JSON: some languages write `1.0` for 1.

use serde_json::Value;

/// Returns the value as a non-negative whole number of at most 64 bits, in any notation; `None` for
/// other values.
#[must_use]
pub fn whole(value: &Value) -> Option<u64> {
    let Value::Number(number) = value else {
        return None;
    };
    number.as_u64().or_else(|| whole_float(number.as_f64()?))
}

/// Like [`whole`], for text, such as a form field.
#[must_use]
pub fn whole_in(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .or_else(|| whole_float(text.parse().ok()?))
}

/// Returns whether a value is a whole number that is too large.
#[must_use]
pub fn is_too_large(value: &Value) -> bool {
    whole(value).is_none()
        && value
            .as_f64()
            .is_some_and(|number| number > 0.0 && number.fract() == 0.0)
}

fn whole_float(number: f64) -> Option<u64> {
    if number.fract() != 0.0 {
        return None;
    }
    // Floats are formatted without an exponent. Adding 0 turns -0.0 into 0.0, which is formatted
    // without a sign.
    (number + 0.0).to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (text, number) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("1.0", Some(1)),
            ("100.000", Some(100)),
            ("1e3", Some(1_000)),
            ("1.5e1", Some(15)),
            ("-0", Some(0)),
            ("-0.0", Some(0)),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("18446744073709551615", Some(u64::MAX)),
            ("1e19", Some(10_000_000_000_000_000_000)),
            ("1.5", None),
            ("1e-1", None),
            ("-1", None),
            ("-1.0", None),
            ("18446744073709551616", None),
            ("1e20", None),
            ("1e308", None),
            ("\"1\"", None),
            ("true", None),
            ("null", None),
            ("[1]", None),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(whole(&value), number, "{text}");
            assert_eq!(
                is_too_large(&value),
                matches!(text, "18446744073709551616" | "1e20" | "1e308"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_text_is_read_likewise() {
        for (text, number) in [
            ("7", Some(7)),
            ("1.0", Some(1)),
            ("1e3", Some(1_000)),
            ("", None),
            ("1.5", None),
            ("-1", None),
            ("inf", None),
            ("NaN", None),
            ("x", None),
        ] {
            assert_eq!(whole_in(text), number, "{text}");
        }
    }
}
