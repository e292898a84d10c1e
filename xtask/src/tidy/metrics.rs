//! Metrics in use are in one of the catalogues, and the reverse.

use std::collections::BTreeSet;

use super::tokens::{self, Kind, Token};
use super::{Finding, Source};
use crate::workspace::Package;

/// Where metrics are declared, as rows `Variant = "name" ..., "help";` of `catalogue! { Kind { ... } }`: those of shards, and
/// those of the process.
const CATALOGUES: [&str; 2] = ["engine/metrics/src/catalogue.rs", "engine/metrics/src/process.rs"];

/// The crate that declares them, whose own mention of a metric is no use of it.
const HOME: &str = "engine/metrics/";

/// This file, whose tests need names that are in no catalogue.
const FIXTURES: &str = "xtask/src/tidy/metrics.rs";

/// What every metric's name starts with; crate names do too.
const PREFIX: &str = "ringpost_";

/// What Prometheus adds to the name of a histogram.
const HISTOGRAM_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// One row of a catalogue.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    catalogue: &'static str,
    kind: String,
    variant: String,
    name: String,
    line: usize,
}

/// Checks every use and every row.
pub(super) fn check(sources: &[Source], packages: &[Package]) -> Vec<Finding> {
    let mut rows = Vec::new();
    for path in CATALOGUES {
        let Some(catalogue) = sources.iter().find(|source| source.path == path) else {
            return vec![Finding::new(path, 1, "is missing")];
        };
        let found = self::rows(path, &catalogue.tokens);
        if found.is_empty() {
            return vec![Finding::new(path, 1, "no row found: the check in xtask and the catalogue disagree")];
        }
        rows.extend(found);
    }
    let mut findings = Vec::new();
    unused(&rows, sources, &mut findings);
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let crates: BTreeSet<String> = packages.iter().map(|package| package.name.replace('-', "_")).collect();
    let is_apart = |source: &Source| CATALOGUES.contains(&source.path.as_str()) || source.path == FIXTURES;
    for source in sources.iter().filter(|source| !is_apart(source)) {
        for (line, word) in mentions(source) {
            let base = HISTOGRAM_SUFFIXES.iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word.as_str());
            let known = names.contains(word.as_str()) || names.contains(base) || crates.contains(&word);
            if !known {
                findings.push(Finding::new(&source.path, line, format!("{word} isn't in the catalogue")));
            }
        }
    }
    findings
}

/// Rows that no source outside the catalogue's crate names as `Kind::Variant`. What only tests name is unused.
fn unused(rows: &[Row], sources: &[Source], findings: &mut Vec<Finding>) {
    let outside = sources.iter().filter(|source| !source.path.starts_with(HOME) && !source.is_test());
    let used: BTreeSet<(String, String)> = outside
        .flat_map(|source| tokens::paths(&source.tokens))
        .filter(|path| !path.test && path.names.len() > 1)
        .map(|path| (path.names[path.names.len() - 2].clone(), path.names[path.names.len() - 1].clone()))
        .collect();
    for row in rows {
        if !used.contains(&(row.kind.clone(), row.variant.clone())) {
            let message = format!("{}::{} ({}) is used nowhere", row.kind, row.variant, row.name);
            findings.push(Finding::new(row.catalogue, row.line, message));
        }
    }
}

fn rows(catalogue: &'static str, tokens: &[Token]) -> Vec<Row> {
    let mut rows = Vec::new();
    for at in 0..tokens.len() {
        let call = tokens[at].text == "catalogue" && tokens.get(at + 1).is_some_and(|next| next.text == "!");
        let Some(Kind::Open(close)) = tokens.get(at + 2).map(|token| token.kind).filter(|_| call) else { continue };
        // Doc comments come first, as attributes; the kind is the word before its braces.
        let inside = at + 3..close;
        let braces = inside.clone().find(|at| tokens[*at].kind == Kind::Word && tokens[*at + 1].text == "{");
        let Some(kind) = braces else { continue };
        for row in tokens[kind + 2..close].windows(3) {
            if row[0].kind == Kind::Word && row[1].text == "=" && row[2].kind == Kind::Literal {
                let name = row[2].text.trim_matches('"');
                // Labels look the same, but for the prefix.
                if name.starts_with(PREFIX) {
                    let (kind, variant) = (tokens[kind].text.clone(), row[0].text.clone());
                    rows.push(Row { catalogue, kind, variant, name: name.to_owned(), line: row[0].line });
                }
            }
        }
    }
    rows
}

/// Words that look like metric names: in Rust only within literals, elsewhere anywhere.
fn mentions(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if source.is_rust() {
        for token in source.tokens.iter().filter(|token| token.kind == Kind::Literal) {
            words(&token.text, token.line, &mut found);
        }
    } else {
        words(&source.text, 1, &mut found);
    }
    found
}

fn words(text: &str, first_line: usize, found: &mut Vec<(usize, String)>) {
    for (at, line) in text.lines().enumerate() {
        for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            // A bare prefix, or one that a format string goes on from, names no metric yet.
            if word.starts_with(PREFIX) && !word.ends_with('_') {
                found.push((first_line + at, word.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{lines, source};
    use super::*;

    const ROWS: &str = r#"
macro_rules! catalogue { ($a:ident) => {}; }
catalogue! {
    /// Only grow.
    Counter {
        Opened = "ringpost_opened_total", "Opened.";
        Closed = "ringpost_closed_total" ["how" = "quit"], "Closed.";
    }
}
catalogue! { Timing { Lag = "ringpost_lag_seconds", "Lag."; } }
"#;

    const PROCESS_ROWS: &str = r#"catalogue! { ProcessGauge {
        State = "ringpost_state" ["state"], "1 for the state.";
    } }"#;

    fn catalogues() -> [Source; 2] {
        [source(CATALOGUES[0], ROWS), source(CATALOGUES[1], PROCESS_ROWS)]
    }

    fn run(path: &str, text: &str) -> Vec<String> {
        let used = "fn f() { block.add(Counter::Opened); m::Counter::Closed; Timing::Lag; ProcessGauge::State }";
        let [shards, process] = catalogues();
        let sources = [shards, process, source("shards/net/src/a.rs", used), source(path, text)];
        let packages = [Package { name: "ringpost-smtp".to_owned(), folder: String::new(), dependencies: Vec::new() }];
        lines(&check(&sources, &packages))
    }

    #[test]
    fn rows_are_read_as_they_are_written() {
        let rows = rows(CATALOGUES[0], &source(CATALOGUES[0], ROWS).tokens);
        let found: Vec<_> = rows.iter().map(|r| (r.kind.as_str(), r.variant.as_str(), r.line)).collect();
        assert_eq!(found, [("Counter", "Opened", 6), ("Counter", "Closed", 7), ("Timing", "Lag", 10)]);
        assert_eq!(rows[1].name, "ringpost_closed_total");
    }

    #[test]
    fn names_in_use_are_in_the_catalogue() {
        assert_eq!(run("docs/a.md", "`ringpost_lag_seconds_bucket` and ringpost_smtp"), Vec::<String>::new());
        assert_eq!(run("docs/a.md", "ringpost_state"), Vec::<String>::new());
        assert_eq!(run("docs/a.md", "x\nringpost_none_total"), ["2: ringpost_none_total isn't in the catalogue"]);
        let rust = "use ringpost_none::A; fn f() { g(\"a\nringpost_gone_total{shard=\"); }";
        assert_eq!(run("shards/x/tests/a.rs", rust), ["2: ringpost_gone_total isn't in the catalogue"]);
        assert_eq!(run("shards/x/src/a.rs", "const A: &str = \"ringpost_\";"), Vec::<String>::new());
    }

    #[test]
    fn rows_are_in_use() {
        let text = "#[cfg(test)] mod tests { fn f() { Counter::Opened } }";
        let [shards, process] = catalogues();
        let found = lines(&check(&[shards, process, source("shards/a/src/a.rs", text)], &[]));
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], "6: Counter::Opened (ringpost_opened_total) is used nowhere");
        assert_eq!(found[3], "2: ProcessGauge::State (ringpost_state) is used nowhere");
    }
}
