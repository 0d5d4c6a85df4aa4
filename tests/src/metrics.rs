//! What a program exports, for tests to look at.

/// Values under this name, or under one that begins so, of lines with these words.
pub fn values<'a>(metrics: &'a str, name: &'a str, words: &'a str) -> impl Iterator<Item = f64> + 'a {
    let lines = metrics.lines();
    let lines = lines.filter(move |line| line.starts_with(name) && line.contains(words));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok())
}
