//! Small rules that hold in every file: nothing half done, every exception with its reason, every module with its
//! purpose, nothing lying about at the top.

use std::collections::BTreeSet;

use super::tokens::{self, Kind, Token};
use super::{Finding, Source};

/// The folders at the top.
const FOLDERS: [&str; 12] = [
    ".cargo",
    ".ci",
    ".github",
    "bench-results",
    "config",
    "deploy",
    "docs",
    "engine",
    "loadtest",
    "shards",
    "systemd",
    "xtask",
];

/// The files at the top.
const FILES: [&str; 16] = [
    ".dockerignore",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "clippy.toml",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

/// Words for work left undone. Written in halves so that this file may hold them.
const UNDONE: [&str; 2] = [concat!("FIX", "ME"), concat!("X", "XX")];

/// Macros for work left undone.
const UNDONE_MACROS: [&str; 2] = ["todo", "unimplemented"];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    undone(source, &mut findings);
    if source.is_rust() {
        attributes(source, &mut findings);
        if !source.text.starts_with("//!") {
            let message = "starts without a module doc (//!): say what the file is for";
            findings.push(Finding::new(&source.path, 1, message));
        }
    }
    findings
}

/// Checks the names at the top, given every path of the checkout.
pub(super) fn check_top_level(paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        let (top, is_folder) = path.split_once('/').map_or((path.as_str(), false), |(top, _)| (top, true));
        let allowed = if is_folder { FOLDERS.contains(&top) } else { FILES.contains(&top) };
        if !allowed && seen.insert(top) {
            let message = format!("{top} doesn't belong at the top of the checkout");
            findings.push(Finding::new(path, 1, message));
        }
    }
    findings
}

fn undone(source: &Source, findings: &mut Vec<Finding>) {
    // Records hold histograms as text, in which any word may turn up.
    if source.path.ends_with(".json") {
        return;
    }
    for (at, line) in source.text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| UNDONE.contains(word)) {
            findings.push(Finding::new(&source.path, at + 1, format!("{word}: do it, or open an issue")));
        }
    }
    for (name, line) in tokens::macros(&source.tokens).filter(|(name, _)| UNDONE_MACROS.contains(name)) {
        findings.push(Finding::new(&source.path, line, format!("{name}!: do it, or leave it out")));
    }
}

fn attributes(source: &Source, findings: &mut Vec<Finding>) {
    for inside in tokens::attributes(&source.tokens) {
        if let [only] = inside
            && only.text == "ignore"
        {
            let message = "#[ignore] without a reason: #[ignore = \"why\"]";
            findings.push(Finding::new(&source.path, only.line, message));
        }
        // Inside as well as first, for cfg_attr.
        for (at, token) in inside.iter().enumerate() {
            let exception = token.kind == Kind::Word && (token.text == "allow" || token.text == "expect");
            let called = inside.get(at + 1).is_some_and(|next| matches!(next.kind, Kind::Open(_)));
            if exception && called && !has_reason(&inside[at + 1..]) {
                let message = format!("#[{}] without reason = \"...\"", token.text);
                findings.push(Finding::new(&source.path, token.line, message));
            }
        }
    }
}

/// True when the arguments that start these tokens give a reason.
fn has_reason(arguments: &[Token]) -> bool {
    let end = arguments.iter().position(|token| token.text == ")" && token.kind == Kind::Close);
    let inside = &arguments[..end.unwrap_or(arguments.len())];
    inside.windows(2).any(|two| two[0].text == "reason" && two[1].text == "=")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{lines, source};
    use super::*;

    fn check_rust(text: &str) -> Vec<String> {
        lines(&check(&source("a.rs", &format!("//! Fixture.\n{text}"))))
    }

    #[test]
    fn nothing_is_left_undone() {
        assert_eq!(check_rust("fn f() { todo!() }").len(), 1);
        assert_eq!(check_rust("fn f() { unimplemented!(\"later\") }").len(), 1);
        assert_eq!(check_rust(&format!("// {}: later", UNDONE[0])).len(), 1);
        assert_eq!(check(&source("a.md", &format!("so {}", UNDONE[1]))).len(), 1);
        assert!(check_rust("// todo list\nfn f() { let a = todo != (b); let c = \"XXXX\"; }").is_empty());
    }

    #[test]
    fn exceptions_have_reasons() {
        assert_eq!(check_rust("#[allow(dead_code)] fn f() {}"), ["2: #[allow] without reason = \"...\""]);
        assert_eq!(check_rust("#![expect(dead_code)]").len(), 1);
        assert_eq!(check_rust("#[cfg_attr(test, allow(dead_code))] fn f() {}").len(), 1);
        assert!(check_rust("#[allow(dead_code, reason = \"because\")] fn f() {}").is_empty());
        assert!(check_rust("fn f() { a.expect(\"b\") }").is_empty());
        assert_eq!(check_rust("#[test] #[ignore] fn f() {}").len(), 1);
        assert!(check_rust("#[test] #[ignore = \"needs root\"] fn f() {}").is_empty());
    }

    #[test]
    fn files_start_with_their_purpose() {
        assert_eq!(check(&source("a.rs", "fn f() {}")).len(), 1);
        assert!(check(&source("a.toml", "[a]")).is_empty());
    }

    #[test]
    fn only_listed_names_at_the_top() {
        let paths = ["engine/base/src/lib.rs", "README.md", "notes.txt", "tmp/a", "tmp/b"].map(str::to_owned);
        let found: Vec<_> = check_top_level(&paths).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["notes.txt", "tmp/a"]);
    }
}
