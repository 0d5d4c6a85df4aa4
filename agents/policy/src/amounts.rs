//! Parts and sums of amounts, and how amounts are written.

/// So many percent of it, rounded down.
pub(crate) fn percent(of: i64, percent: u32) -> i64 {
    let part = i128::from(of) * i128::from(percent) / 100;
    i64::try_from(part).unwrap_or(of)
}

/// The sum; unknown if a part is.
pub(crate) fn plus(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    Some(a?.saturating_add(b?))
}

/// Bytes in words.
pub(crate) fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes >> 20)
}
