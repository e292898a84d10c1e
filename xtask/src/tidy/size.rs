//! How long files and functions are. A file over the limit is to be cut; a function over its limit needs a row with a
//! reason in `xtask/long_functions.tsv`, and the row goes when the function has shrunk.

use super::tokens;
use super::{Finding, Source};

/// The ratchet: path, function, lines at most, reason.
pub(super) const LONG_FUNCTIONS: &str = "xtask/long_functions.tsv";

/// A file that a reader can hold; most are far below.
const FILE_LINES_MAX: usize = 1_000;

/// A function that fits on a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// A row of the ratchet.
struct Row<'a> {
    line: usize,
    path: &'a str,
    function: &'a str,
    lines_max: usize,
}

/// Checks the length of one file.
pub(super) fn check_file(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if !source.is_rust() || lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    let message = format!("{lines} lines: a file has {FILE_LINES_MAX} at most");
    vec![Finding::new(&source.path, FILE_LINES_MAX + 1, message)]
}

/// Checks the length of all functions against the text of the ratchet.
pub(super) fn check_functions(sources: &[Source], ratchet: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rows = rows(ratchet, &mut findings);
    let mut used = vec![false; rows.len()];
    for source in sources.iter().filter(|source| source.is_rust()) {
        for function in tokens::functions(&source.tokens) {
            if function.lines <= FUNCTION_LINES_MAX {
                continue;
            }
            let row = rows.iter().position(|row| row.path == source.path && row.function == function.name);
            let allowed = row.map_or(FUNCTION_LINES_MAX, |row| rows[row].lines_max);
            if let Some(row) = row {
                used[row] = true;
            }
            if function.lines > allowed {
                let message = format!("{} has {} lines, {allowed} at most", function.name, function.lines);
                findings.push(Finding::new(&source.path, function.line, message));
            }
        }
    }
    for (row, _) in rows.iter().zip(used).filter(|(_, used)| !used) {
        let message = format!("{} in {} is no longer over the limit: drop the row", row.function, row.path);
        findings.push(Finding::new(LONG_FUNCTIONS, row.line, message));
    }
    findings
}

fn rows<'a>(ratchet: &'a str, findings: &mut Vec<Finding>) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (at, text) in ratchet.lines().enumerate().filter(|(_, text)| !text.is_empty() && !text.starts_with('#')) {
        let cells: Vec<&str> = text.split('\t').collect();
        match (cells.as_slice(), cells.get(2).map(|cell| cell.parse())) {
            ([path, function, _, reason], Some(Ok(lines_max))) if !reason.trim().is_empty() => {
                rows.push(Row { line: at + 1, path, function, lines_max });
            }
            _ => {
                let message = "a row is path, function, lines at most, reason, with tabs between";
                findings.push(Finding::new(LONG_FUNCTIONS, at + 1, message));
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{lines, source};
    use super::*;

    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{{}}}\n", "\n".repeat(lines - 1))
    }

    #[test]
    fn files_over_the_limit() {
        assert!(check_file(&source("a.rs", &"\n".repeat(1_000))).is_empty());
        assert_eq!(check_file(&source("a.rs", &"\n".repeat(1_001))).len(), 1);
        assert!(check_file(&source("a.md", &"\n".repeat(1_001))).is_empty());
    }

    #[test]
    fn functions_over_the_limit_need_a_row() {
        let sources = [source("a.rs", &(function("short", 70) + &function("long", 71)))];
        assert_eq!(lines(&check_functions(&sources, "")), ["71: long has 71 lines, 70 at most"]);
        assert!(check_functions(&sources, "# why\na.rs\tlong\t71\tone table\n").is_empty());
        let grown = [source("a.rs", &function("long", 72))];
        assert_eq!(check_functions(&grown, "a.rs\tlong\t71\tone table\n").len(), 1);
    }

    #[test]
    fn rows_that_nothing_needs_any_more() {
        let sources = [source("a.rs", &function("long", 70))];
        let found = lines(&check_functions(&sources, "a.rs\tlong\t80\tone table\n"));
        assert_eq!(found, ["1: long in a.rs is no longer over the limit: drop the row"]);
        assert_eq!(check_functions(&[], "a.rs\tlong\t80\t\n").len(), 1, "a row without a reason");
    }
}
