//! Durations as Kubernetes spells them.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A duration in Go's notation: `90s`, `1h30m`, `250ms`; units from large to small, longer than zero.
///
/// It keeps the text as written, so that an object reads back as its author wrote it, and so that one object with a bad
/// value, should one ever get past admission, fails where the value is used and does not stall the watch of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "duration {text:?} {problem}: write hours, minutes, seconds and milliseconds in this order, such as 90s or 1h30m"
)]
pub struct DurationError {
    /// What stood there.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// What [`Duration::parse`] accepts, for the schema. The numbers of digits keep the sum below the 292 years that Go and
/// CEL can hold: 114 + 19 + 31 + 0.03 years.
const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$";
/// Longest text that [`PATTERN`] matches: 7 + 8 + 10 + 11.
const MAX_LENGTH: usize = 36;
/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Duration {
    /// The duration as the standard library's type.
    ///
    /// # Errors
    ///
    /// If the text is empty, zero, too long, or no duration; the error holds the text.
    pub fn parse(&self) -> Result<time::Duration, DurationError> {
        let fail = |problem| DurationError {
            text: self.0.clone(),
            problem,
        };
        if self.0.is_empty() {
            return Err(fail("is empty"));
        }
        if self.0.len() > MAX_LENGTH {
            return Err(fail("is too long"));
        }
        let mut rest = self.0.as_str();
        let mut units = UNITS.iter();
        let mut millis: u64 = 0;
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(|| fail("ends in a number without a unit"))?;
            let (digits, tail) = rest.split_at(end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let (_, scale) = units
                .find(|(name, _)| *name == unit)
                .ok_or_else(|| fail("has a unit that is not h, m, s or ms, twice, or out of order"))?;
            let number: u64 = digits
                .parse()
                .map_err(|_| fail("has a unit without a number, or too large a number"))?;
            millis = number
                .checked_mul(*scale)
                .and_then(|part| millis.checked_add(part))
                .ok_or_else(|| fail("is too large"))?;
            rest = next;
        }
        if millis == 0 {
            Err(fail("is zero"))
        } else {
            Ok(time::Duration::from_millis(millis))
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let duration = Self(text.to_owned());
        duration.parse()?;
        Ok(duration)
    }
}

impl From<time::Duration> for Duration {
    /// Writes the duration in its largest units; what is below a millisecond is cut off.
    fn from(value: time::Duration) -> Self {
        let mut rest = value.as_millis();
        let mut text = String::new();
        for (unit, scale) in UNITS {
            let number = rest / u128::from(scale);
            rest %= u128::from(scale);
            if number > 0 {
                text.push_str(&format!("{number}{unit}"));
            }
        }
        if text.is_empty() {
            text.push_str("0s");
        }
        Self(text)
    }
}

impl TryFrom<&Duration> for time::Duration {
    type Error = DurationError;

    fn try_from(value: &Duration) -> Result<Self, DurationError> {
        value.parse()
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration: 90s, 1h30m.",
            "minLength": 2,
            "maxLength": MAX_LENGTH,
            "pattern": PATTERN,
            "x-kubernetes-validations": [{
                "rule": "duration(self) > duration('0s')",
                "message": "must be longer than zero, such as 90s or 1h30m",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn durations_in_go_notation_are_parsed_to_the_millisecond() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1m", 60_000),
            ("1h2m3s4ms", 3_723_004),
            ("0h1s", 1_000),
            (
                "999999h9999999m999999999s",
                999_999 * 3_600_000 + 9_999_999 * 60_000 + 999_999_999 * 1_000,
            ),
        ] {
            assert_eq!(
                Duration(text.into()).parse(),
                Ok(time::Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_its_text() {
        for text in [
            "",
            "0s",
            "90",
            "s",
            "-1s",
            "1d",
            "1s1h",
            "1s1s",
            "1.5h",
            "1h 30m",
            "9999999999999999999999s",
            "one",
        ] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_duration_survives_the_way_through_text() {
        for millis in [1, 999, 1_000, 61_001, 86_400_000, 90_061_001] {
            let value = time::Duration::from_millis(millis);
            assert_eq!(Duration::from(value).parse(), Ok(value));
        }
    }

    #[test]
    fn an_object_keeps_the_text_that_its_author_wrote() {
        let duration: Duration = serde_json::from_str("\"90m\"").unwrap();
        assert_eq!(serde_json::to_string(&duration).unwrap(), "\"90m\"");
        assert_eq!(duration.to_string(), "90m");
    }
}
