//! A runbook as it is written: its fenced blocks in order.

use crate::prometheus_rules::RUNBOOKS;
use std::fs;
use std::path::PathBuf;

/// Stands at the beginning of each page, for those who change it.
pub(super) const MARKER: &str = "<!-- runs: every sh and toml block of this page is run, in this order, by shards/daemon/tests/integration/runbooks.rs -->";

/// A fenced block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// What is behind the opening fence.
    pub(super) kind: String,
    /// The line of the opening fence, from 1.
    pub(super) line: usize,
    pub(super) text: String,
}

impl Block {
    /// Whether it is for the reader to do, and not only to look at.
    pub(super) fn is_to_do(&self) -> bool {
        self.kind == "sh" || self.kind == "toml"
    }
}

/// A page's text.
pub(super) fn text(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all pages.
pub(super) fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(RUNBOOKS)
}

/// The fenced blocks of a page. One that is not closed, or says not what it is, is a failure.
pub(super) fn blocks(name: &str) -> Vec<Block> {
    let text = text(name);
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some("") if open => open = false,
            Some(kind) => {
                assert!(!open, "{name}:{}: a fence within a block", index + 1);
                assert!(["sh", "toml", "text"].contains(&kind), "{name}:{}: a block of {kind:?}", index + 1);
                blocks.push(Block { kind: kind.to_owned(), line: index + 1, text: String::new() });
                open = true;
            }
            None if open => {
                let block = blocks.last_mut().expect("one is open");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "{name}: a block is not closed");
    blocks
}
