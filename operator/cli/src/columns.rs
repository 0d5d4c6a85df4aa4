//! Tables for people: columns with nothing but a line under their names.

use comfy_table::{Row, Table};

/// Nothing but a line under the header: the sixth and seventh of comfy-table's nineteen characters.
const PRESET: &str = "     ──            ";

/// A table of these columns, without rows yet.
pub(crate) fn named(names: impl Into<Row>) -> Table {
    let mut table = Table::new();
    table.load_preset(PRESET).set_header(names);
    table
}

/// A table's lines without trailing blanks, so that they can be compared and copied.
pub(crate) fn lines(table: &Table) -> String {
    let lines = table.to_string();
    lines.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
