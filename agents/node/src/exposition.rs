//! A histogram in the text that Prometheus scrapes, or OpenMetrics: of each line no more than is asked for is read.

use std::collections::BTreeMap;

use duosuan_policy::Bucket;

/// Most buckets that a histogram may have.
const BUCKETS: usize = 256;

/// Why a text has no such histogram.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line of the histogram that cannot be read.
    #[error("the line {line:?} has no {wanted}")]
    Line {
        /// The line, as far as it is shown.
        line: String,
        /// What is missing.
        wanted: &'static str,
    },
    /// No series of it.
    #[error("there is no {name}_bucket with the labels {labels:?}: check `histogram` and `labels`")]
    Absent {
        /// Name of the histogram.
        name: String,
        /// Labels that were asked for.
        labels: BTreeMap<String, String>,
    },
    /// Not the buckets of a histogram.
    #[error("{name}_bucket has {problem}")]
    Buckets {
        /// Name of the histogram.
        name: String,
        /// What is wrong with them.
        problem: &'static str,
    },
}

/// Sums the series of a histogram in seconds that have these labels, bucket by bucket.
///
/// # Errors
///
/// If there is none, a line of it cannot be read, or its buckets are none.
pub fn histogram(text: &str, name: &str, labels: &BTreeMap<String, String>) -> Result<Vec<Bucket>, TextError> {
    // By bound; the last one is that of all.
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let buckets = |problem| TextError::Buckets {
        name: name.to_owned(),
        problem,
    };
    for line in text.lines() {
        let Some(rest) = line
            .trim_start()
            .strip_prefix(name)
            .and_then(|l| l.strip_prefix("_bucket"))
        else {
            continue;
        };
        let wrong = |wanted| TextError::Line {
            line: line.chars().take(120).collect(),
            wanted,
        };
        let Some(rest) = rest.trim_start().strip_prefix('{') else {
            // Another metric, whose name is longer.
            continue;
        };
        let (series, rest) = series(rest).ok_or_else(|| wrong("closed list of labels"))?;
        if labels
            .iter()
            .any(|(name, value)| series.get(name.as_str()) != Some(value))
        {
            continue;
        }
        let bound = series
            .get("le")
            .and_then(|le| bound(le))
            .ok_or_else(|| wrong("bound le"))?;
        // A time or an exemplar may follow.
        let count = rest.split_ascii_whitespace().next().and_then(count);
        let sum = counts.entry(bound).or_default();
        *sum = sum.saturating_add(count.ok_or_else(|| wrong("number of requests"))?);
        if counts.len() > BUCKETS {
            return Err(buckets("more than 256 buckets"));
        }
    }
    if counts.is_empty() {
        return Err(TextError::Absent {
            name: name.to_owned(),
            labels: labels.clone(),
        });
    }
    if !counts.contains_key(&u64::MAX) {
        return Err(buckets("no bucket le=\"+Inf\""));
    }
    if counts.values().zip(counts.values().skip(1)).any(|(a, b)| a > b) {
        return Err(buckets("a bucket that counts less than the one before it"));
    }
    let bucket = |(bound, count)| Bucket {
        up_to: (bound != u64::MAX).then_some(bound),
        count,
    };
    Ok(counts.into_iter().map(bucket).collect())
}

/// Labels up to the closing brace, and what follows it.
fn series(text: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.starts_with('}') {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.insert(name.trim(), value);
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some((labels, rest.strip_prefix('}')?))
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            'n' if escaped => value.push('\n'),
            c if escaped => value.push(c),
            '\\' => {
                escaped = true;
                continue;
            }
            '"' => return Some((value, text.get(at + 1..)?)),
            c => value.push(c),
        }
        escaped = false;
    }
    None
}

/// Seconds to microseconds; infinite is the largest number.
fn bound(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok()?;
    if seconds.is_infinite() && seconds > 0.0 {
        return Some(u64::MAX);
    }
    // A cast saturates, and a bound of 500,000 years is none.
    (seconds >= 0.0).then_some((seconds * 1e6).round().min(1e18) as u64)
}

/// A number of requests, which is written as a float.
fn count(text: &str) -> Option<u64> {
    let count: f64 = text.parse().ok()?;
    // What a float counts exactly.
    (0.0..=9_007_199_254_740_992.0)
        .contains(&count)
        .then_some(count.round() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TEXT: &str = r#"# HELP http_request_duration_seconds How long requests took.
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{method="GET",le="0.01"} 80
http_request_duration_seconds_bucket{method="GET",le="0.1"} 1.2e+02 1700000000000
http_request_duration_seconds_bucket{method="GET",le="+Inf"} 121
http_request_duration_seconds_bucket{le="0.01", method="P\"}\\\n",} 1
http_request_duration_seconds_bucket{ method="P\"}\\\n" , le="1e-1"} 2.0 # {trace_id="x"} 0.05
http_request_duration_seconds_bucket{method="P\"}\\\n",le="+Inf"} 3
http_request_duration_seconds_sum{method="GET"} 12.5
http_request_duration_seconds_count{method="GET"} 121
http_request_duration_seconds_bucket_size{le="0.01"} 9
other_bucket{le="0.01"} nonsense
"#;

    fn read(text: &str, labels: &[(&str, &str)]) -> Result<Vec<(Option<u64>, u64)>, TextError> {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let buckets = histogram(text, "http_request_duration_seconds", &labels)?;
        Ok(buckets.into_iter().map(|b| (b.up_to, b.count)).collect())
    }

    #[test]
    fn the_series_of_a_histogram_are_summed_by_bucket() {
        let all = vec![(Some(10_000), 81), (Some(100_000), 122), (None, 124)];
        assert_eq!(read(TEXT, &[]), Ok(all));
        let one = vec![(Some(10_000), 1), (Some(100_000), 2), (None, 3)];
        assert_eq!(read(TEXT, &[("method", "P\"}\\\n")]), Ok(one));
    }

    #[test]
    fn what_is_not_there_or_cannot_be_read_is_said() {
        let error = |text: &str, labels: &[(&str, &str)]| read(text, labels).unwrap_err().to_string();
        assert!(error("", &[]).contains("there is no http_request_duration_seconds_bucket"));
        assert!(error(TEXT, &[("method", "PUT")]).contains("{\"method\": \"PUT\"}"));
        let one = |rest: &str| error(&format!("http_request_duration_seconds_bucket{rest}"), &[]);
        assert!(one("{le=\"1\"} 3").contains("no bucket le=\"+Inf\""));
        assert!(one("{le=\"1\"} three").contains("has no number of requests"));
        assert!(one("{le=\"1\"}").contains("has no number of requests"));
        assert!(one("{le=\"1\"} -1").contains("has no number of requests"));
        assert!(one("{le=\"1\"} NaN").contains("has no number of requests"));
        assert!(one("{le=\"one\"} 1").contains("has no bound le"));
        assert!(one("{le=\"-1\"} 1").contains("has no bound le"));
        assert!(one("{le=\"NaN\"} 1").contains("has no bound le"));
        assert!(one("{code=\"1\"} 1").contains("has no bound le"));
        assert!(one("{le=\"1").contains("closed list of labels"));
        assert!(one("{le=1} 1").contains("closed list of labels"));
        assert!(one("{").contains("closed list of labels"));
        let falling =
            "http_request_duration_seconds_bucket{le=\"1\"} 3\nhttp_request_duration_seconds_bucket{le=\"+Inf\"} 2";
        assert!(error(falling, &[]).contains("counts less than the one before it"));
        let many: String = (0..300)
            .map(|n| format!("http_request_duration_seconds_bucket{{le=\"{n}\"}} 1\n"))
            .collect();
        assert!(error(&many, &[]).contains("more than 256 buckets"));
    }
}
