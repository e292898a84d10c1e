//! References to RFC sections against `docs/rfc-index.tsv`, both ways.

use super::{Finding, Source};

/// Columns: RFC, section, title, status, where or why.
pub(super) const INDEX: &str = "docs/rfc-index.tsv";

/// Where code that follows RFCs lives.
const FOLDERS: [&str; 3] = ["engine/", "shards/", "loadtest/"];

/// A reference in a source, or a row's key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Section<'a> {
    rfc: &'a str,
    section: &'a str,
}

struct Row<'a> {
    line: usize,
    section: Section<'a>,
    done: bool,
}

/// Checks the references of all sources against the text of the index.
pub(super) fn check(sources: &[Source], index: &str, there: &impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rows = rows(index, there, &mut findings);
    let mut referenced = vec![false; rows.len()];
    let in_scope = |source: &&Source| source.is_rust() && FOLDERS.iter().any(|folder| source.path.starts_with(folder));
    for source in sources.iter().filter(in_scope) {
        for (line, section) in references(&source.text) {
            match rows.iter().position(|row| row.section == section) {
                Some(row) => referenced[row] = true,
                None => {
                    let message = format!("RFC {} section {} has no row in {INDEX}", section.rfc, section.section);
                    findings.push(Finding::new(&source.path, line, message));
                }
            }
        }
    }
    for (row, _) in rows.iter().zip(referenced).filter(|(row, referenced)| row.done && !referenced) {
        let Section { rfc, section } = row.section;
        let message = format!("no source refers to RFC {rfc} section {section} at the line that decides");
        findings.push(Finding::new(INDEX, row.line, message));
    }
    findings
}

fn rows<'a>(index: &'a str, there: &impl Fn(&str) -> bool, findings: &mut Vec<Finding>) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for (at, text) in index.lines().enumerate().filter(|(_, text)| !text.is_empty() && !text.starts_with('#')) {
        let mut find = |message: String| findings.push(Finding::new(INDEX, at + 1, message));
        let cells: Vec<&str> = text.split('\t').collect();
        let [rfc, section, _title, status, place] = cells[..] else {
            find("a row is rfc, section, title, status, where or why, with tabs between".to_owned());
            continue;
        };
        // A line of column names.
        if rfc == "rfc" {
            continue;
        }
        let done = match status {
            "done" | "partly" => true,
            "left out" => false,
            _ => {
                find(format!("the status is done, partly or left out, not {status:?}"));
                continue;
            }
        };
        if place.trim().is_empty() {
            find("the last column says where it is done, or why it isn't".to_owned());
        }
        for path in place.split([' ', ',', ';']).filter(|word| looks_like_a_path(word)) {
            if !there(path) {
                find(format!("{path} doesn't exist"));
            }
        }
        let section = Section { rfc, section };
        if rows.iter().any(|row| row.section == section) {
            find(format!("RFC {rfc} section {} has two rows", section.section));
        }
        rows.push(Row { line: at + 1, section, done });
    }
    rows
}

fn looks_like_a_path(word: &str) -> bool {
    word.contains('/') && FOLDERS.iter().chain(&["docs/", "config/"]).any(|folder| word.starts_with(folder))
}

/// Every "RFC, number, section, number" of a text, with its line; a comment may break anywhere between the words.
fn references(text: &str) -> Vec<(usize, Section<'_>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("RFC ") {
        if let Some(section) = reference(&text[at + 4..]) {
            found.push((text[..at].matches('\n').count() + 1, section));
        }
    }
    found
}

fn reference(text: &str) -> Option<Section<'_>> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (rfc, rest) = text.split_at(end);
    let rest = skip_break(rest).strip_prefix("section")?;
    let rest = skip_break(rest);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
    // The point that ends a sentence isn't the section's.
    let section = rest[..end].trim_end_matches('.');
    let numbered = section.starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase());
    (!rfc.is_empty() && numbered).then_some(Section { rfc, section })
}

/// Skips white space and, on a new line, the marks of a comment.
fn skip_break(text: &str) -> &str {
    let skipped = text.trim_start();
    if text[..text.len() - skipped.len()].contains('\n') {
        return skipped.trim_start_matches(['/', '!', '*']).trim_start();
    }
    skipped
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{lines, source};
    use super::*;

    const ROWS: &str = "rfc\tsection\ttitle\tstatus\twhere\n5321\t4.1\tCommands\tdone\tengine/smtp/src/a.rs\n\
                        5321\t4.5\tMore\tleft out\tnot asked for\n";

    fn run(text: &str, index: &str) -> Vec<String> {
        let there = |path: &str| path == "engine/smtp/src/a.rs";
        lines(&check(&[source("engine/smtp/src/a.rs", text)], index, &there))
    }

    #[test]
    fn references_are_found_across_lines() {
        let text = "// See RFC 5321 section 4.5.2. And RFC 2033\n    /// section 4.2; RFC 5321, RFC 5321 section four";
        let found: Vec<_> = references(text).into_iter().map(|(l, s)| (l, s.rfc, s.section)).collect();
        assert_eq!(found, [(1, "5321", "4.5.2"), (1, "2033", "4.2")]);
    }

    #[test]
    fn every_reference_has_a_row_and_the_reverse() {
        assert_eq!(run("// RFC 5321 section 4.1", ROWS), Vec::<String>::new());
        let found = run("\n// RFC 5321 section 9", ROWS);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "2: RFC 5321 section 9 has no row in docs/rfc-index.tsv");
        assert!(found[1].starts_with("2: no source refers to RFC 5321 section 4.1"));
    }

    #[test]
    fn rows_are_whole() {
        let text = "// RFC 1 section 1";
        assert_eq!(run(text, "1\t1\tT\tdone\tengine/none.rs\n").len(), 1);
        assert_eq!(run(text, "1\t1\tT\tdone\t\n").len(), 1);
        assert_eq!(run(text, "1\t1\tT\tdone\tx\n1\t1\tT\tleft out\tx\n").len(), 1);
        assert_eq!(run(text, "1\t1\tT\tfinished\tx\n").len(), 2);
        assert_eq!(run(text, "1\t1\tT\n").len(), 2);
    }
}
