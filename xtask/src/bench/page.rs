//! The records in `bench-results/`, and the page drawn from them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::record::{self, Row};
use crate::workspace::Workspace;

/// What marks a record of this command.
pub(crate) const KIND: &str = "ringpost-bench";

/// What marks a record of the load tester, whose files lie in the same folder.
const LOAD_TOOL: &str = "ringpost-load";

/// Where records are kept.
const FOLDER: &str = "bench-results";

/// Writes a record to a file named after its time and commit.
pub(crate) fn keep(workspace: &Workspace, record: &Value, when: &str, commit: &str) -> Result<()> {
    let name = format!("{FOLDER}/bench-{}-{commit}.json", when.replace(':', ""));
    let text = serde_json::to_string_pretty(record)? + "\n";
    std::fs::create_dir_all(workspace.root.join(FOLDER))?;
    std::fs::write(workspace.root.join(&name), text).with_context(|| format!("cannot write {name}"))?;
    println!("kept as {name}");
    Ok(())
}

/// Draws the page from the records.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    let mut records = Vec::new();
    for path in workspace.files()?.iter().filter(|path| path.starts_with(FOLDER) && path.ends_with(".json")) {
        let text = workspace.text(path).unwrap_or_default();
        let record: Value = serde_json::from_str(&text).with_context(|| format!("{path} isn't JSON"))?;
        records.push((path.trim_start_matches(FOLDER).trim_start_matches('/').to_owned(), record));
    }
    let path = format!("{FOLDER}/README.md");
    std::fs::write(workspace.root.join(&path), page(records)).with_context(|| format!("cannot write {path}"))?;
    println!("{path}: drawn");
    Ok(())
}

/// The page: this command's records, newest first, then the load tester's, a line each.
fn page(mut records: Vec<(String, Value)>) -> String {
    let when = |record: &Value| record["when"].as_str().or(record["date"].as_str()).unwrap_or_default().to_owned();
    records.sort_by_key(|(_, record)| std::cmp::Reverse(when(record)));
    let mut text = "# Measurements\n\n\
        Drawn by `cargo xtask bench --page` from the JSON files beside it; `cargo xtask bench --against postfix` adds one.\n\
        Ratios hold better than absolutes: both servers take turns in the same run on the same machine.\n"
        .to_owned();
    for (file, record) in records.iter().filter(|(_, record)| record["kind"] == KIND) {
        text.push_str(&section(file, record));
    }
    let runs: Vec<String> =
        records.iter().filter(|(_, record)| record["tool"] == LOAD_TOOL).filter_map(load_row).collect();
    if !runs.is_empty() {
        text.push_str("\n## Single runs of the load tester\n\n");
        text.push_str("| run | commit | load | durability | messages a second | DATA p50 | DATA p99 |\n");
        text.push_str("|---|---|---|---|---|---|---|\n");
        runs.iter().for_each(|row| text.push_str(row));
    }
    if records.is_empty() {
        text.push_str("\nNo run has been kept yet.\n");
    }
    text
}

/// A line for a record of the load tester; none for one that sent no mail.
fn load_row((file, record): &(String, Value)) -> Option<String> {
    let (result, parameters) = (&record["result"], &record["parameters"]);
    let rate = result["messages_per_second"].as_f64()?;
    let ms = |name: &str| match result["stages"]["data"][name].as_f64() {
        Some(us) => format!("{:.2} ms", us / 1000.0),
        None => "–".to_owned(),
    };
    let commit = record["commit"].as_str().and_then(|commit| commit.get(..10)).unwrap_or("unknown");
    let loop_kind = match &parameters["rate"] {
        Value::Null => format!("{} sessions", word(&parameters["sessions"])),
        rate => format!("open loop at {}", word(rate)),
    };
    let load = format!(
        "{loop_kind}, {}, {} a connection, TLS {}",
        word(&parameters["size"]),
        word(&parameters["messages_per_connection"]),
        word(&parameters["tls"])
    );
    let durability = record["durability"].as_str().unwrap_or("not stated");
    let (p50, p99) = (ms("p50_us"), ms("p99_us"));
    Some(format!("| [{file}]({file}) | {commit} | {load} | {durability} | {rate:.1} | {p50} | {p99} |\n"))
}

/// A value as it reads in a sentence.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn section(file: &str, record: &Value) -> String {
    let machine = &record["machine"];
    let gibibytes =
        machine["memory_kib"].as_f64().map_or_else(|| "?".to_owned(), |kib| format!("{:.0}", kib / 1_048_576.0));
    let parameters = &record["parameters"];
    let rows: Vec<Row> = record["rows"].as_array().into_iter().flatten().filter_map(Row::from_json).collect();
    format!(
        "\n## {}, commit {}\n\n{} × {}, {gibibytes} GiB, Linux {}, {}; {} rounds of {} s, durability {}. \
         [{file}]({file})\n\n{}{}",
        word(&record["when"]),
        word(&record["commit"]),
        word(&machine["cores"]),
        word(&machine["processor"]),
        word(&machine["kernel"]),
        word(&machine["file_system"]),
        word(&parameters["rounds"]),
        word(&parameters["seconds"]),
        word(&parameters["durability"]),
        record::table(&rows),
        record::notes(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_run_comes_first() {
        let record = |when: &str| json!({ "kind": KIND, "when": when, "commit": "abc", "rows": [] });
        let text = page(vec![
            ("old.json".to_owned(), record("2026-11-20T10:39:00Z")),
            ("new.json".to_owned(), record("2026-11-21T10:39:00Z")),
        ]);
        let (old, new) = (text.find("old.json").expect("is there"), text.find("new.json").expect("is there"));
        assert!(new < old);
        assert!(text.contains("commit abc"));
        assert!(page(Vec::new()).contains("No run has been kept yet."));
    }

    #[test]
    fn runs_of_the_load_tester_get_a_line_each() {
        let record = json!({
            "tool": "ringpost-load", "date": "2026-11-20T10:39:00Z", "commit": "0123456789abcdef", "durability": "fsync",
            "parameters": { "sessions": 50, "rate": null, "size": "4 KiB", "messages_per_connection": 1, "tls": "off" },
            "result": { "messages_per_second": 1234.56, "stages": { "data": { "p50_us": 1500, "p99_us": 9000 } } },
        });
        let text = page(vec![("a.json".to_owned(), record)]);
        let expected = "| [a.json](a.json) | 0123456789 | 50 sessions, 4 KiB, 1 a connection, TLS off | fsync | 1234.6 \
                        | 1.50 ms | 9.00 ms |";
        assert!(text.lines().any(|line| line == expected), "{text}");
    }
}
