//! `cargo xtask tidy`: the rules of the house that neither rustc nor clippy knows, one file a group of rules.
//!
//! Every check is a function over texts that returns findings, so that each is tested on small fixtures; only this
//! file reads the checkout.

mod docs;
mod floors;
mod hygiene;
mod metrics;
mod purity;
mod rfc;
mod size;
mod tokens;

use std::fmt;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

use tokens::Token;

/// Something to be mended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// File, relative to the root.
    pub(crate) path: String,
    /// Line, from 1.
    pub(crate) line: usize,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Finding { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// One text file of the checkout.
pub(crate) struct Source {
    path: String,
    text: String,
    /// The tokens, for a Rust file that lexes.
    tokens: Vec<Token>,
}

impl Source {
    /// Lexes Rust files; a Rust file that doesn't lex is a finding.
    fn new(path: &str, text: String, findings: &mut Vec<Finding>) -> Self {
        let mut source = Source { path: path.to_owned(), text, tokens: Vec::new() };
        if source.is_rust() {
            match tokens::lex(&source.text) {
                Ok(tokens) => source.tokens = tokens,
                Err(line) => findings.push(Finding::new(path, line, "not Rust: the file doesn't lex")),
            }
        }
        source
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// True when the file is a test as a whole.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

/// Runs every check on the checkout and prints the findings; an error when there is one.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let findings = check(workspace)?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("tidy: 1 finding"),
        count => bail!("tidy: {count} findings"),
    }
}

fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let packages = workspace.packages()?;
    let paths = workspace.files()?;
    let sources: Vec<Source> = paths
        .iter()
        .filter_map(|path| workspace.text(path).map(|text| Source::new(path, text, &mut findings)))
        .collect();
    let text = |path: &str| sources.iter().find(|s| s.path == path).map_or("", |s| s.text.as_str());
    let there = |path: &str| workspace.root.join(path).exists();

    findings.extend(floors::check(&packages, |manifest| text(manifest).to_owned()));
    findings.extend(hygiene::check_top_level(&paths));
    findings.extend(docs::check_architecture(text(docs::ARCHITECTURE), &packages));
    findings.extend(docs::check_needed(&there));
    findings.extend(size::check_functions(&sources, text(size::LONG_FUNCTIONS)));
    findings.extend(rfc::check(&sources, text(rfc::INDEX), &there));
    findings.extend(metrics::check(&sources, &packages));
    findings.extend(crate::docs::check(workspace));
    for source in &sources {
        findings.extend(purity::check(source));
        findings.extend(size::check_file(source));
        findings.extend(hygiene::check(source));
        findings.extend(docs::check_links(source, &there));
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

#[cfg(test)]
mod fixture {
    use super::*;

    /// A source as a check gets it; the text must lex.
    pub(super) fn source(path: &str, text: &str) -> Source {
        let mut findings = Vec::new();
        let source = Source::new(path, text.to_owned(), &mut findings);
        assert_eq!(findings, []);
        source
    }

    /// The findings as `line: message`, for comparing.
    pub(super) fn lines(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|f| format!("{}: {}", f.line, f.message)).collect()
    }

    #[test]
    fn a_finding_prints_as_editors_read_it() {
        assert_eq!(Finding::new("a/b.rs", 7, "no").to_string(), "a/b.rs:7: no");
    }

    #[test]
    fn rust_that_does_not_lex_is_a_finding() {
        let mut findings = Vec::new();
        Source::new("a.rs", "fn a() {}\nfn b() { \"".to_owned(), &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
