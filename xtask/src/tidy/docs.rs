//! Documents: links lead somewhere, every crate is on the map, what must be there is there.

use super::{Finding, Source};
use crate::workspace::Package;

/// The code map.
pub(super) const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// Files that users and other checks rely on. That the example equals the defaults is a test of `engine/config`.
const NEEDED: [&str; 4] = ["config/ringpost.toml", "README.md", "CHANGELOG.md", "docs/FLOW.md"];

/// Checks that the map names every crate by its folder.
pub(super) fn check_architecture(map: &str, packages: &[Package]) -> Vec<Finding> {
    let missing = packages.iter().filter(|package| !map.contains(&package.folder));
    missing.map(|package| Finding::new(ARCHITECTURE, 1, format!("doesn't name the crate {}", package.folder))).collect()
}

/// Checks that the files are there that others rely on.
pub(super) fn check_needed(there: &impl Fn(&str) -> bool) -> Vec<Finding> {
    NEEDED.iter().filter(|path| !there(path)).map(|path| Finding::new(path, 1, "is missing")).collect()
}

/// Checks that the relative links of a document lead to files, and links within it to its headings.
pub(super) fn check_links(source: &Source, there: &impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.path.ends_with(".md") {
        return findings;
    }
    for (line, target) in links(&source.text) {
        let outside = target.contains("://") || target.starts_with("mailto:");
        if outside {
            continue;
        }
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        if file.is_empty() {
            if !source.text.lines().filter_map(anchor).any(|anchor| anchor == heading) {
                findings.push(Finding::new(&source.path, line, format!("no heading here for the link #{heading}")));
            }
        } else if !resolve(&source.path, file).is_some_and(|path| there(&path)) {
            findings.push(Finding::new(&source.path, line, format!("the link {target} leads nowhere")));
        }
    }
    findings
}

/// Targets of `[text](target)` and `[text]: target`, with their lines; none from code blocks or code spans.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every second piece between backquotes is code.
        let mut outside_code = true;
        for piece in line.split('`') {
            // The closing bracket of a code span's link comes in the piece after it.
            if outside_code {
                let targets = piece.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
                found.extend(targets.map(|target| (at + 1, target)));
            }
            outside_code = !outside_code;
        }
        if let Some((_, target)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
            found.push((at + 1, target.trim()));
        }
    }
    found
}

/// The path, from the root, of a link in the document at `from`; none when it leaves the checkout.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = match link.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').collect(),
    };
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The anchor of a heading line, as forges make them.
fn anchor(line: &str) -> Option<String> {
    let text = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{lines, source};
    use super::*;

    #[test]
    fn links_lead_somewhere() {
        let there = |path: &str| ["docs/FLOW.md", "README.md", "engine/smtp"].contains(&path);
        let check = |text: &str| lines(&check_links(&source("docs/a.md", text), &there));
        let good = "# The way, of a message\n[a](FLOW.md) [b](../README.md#x) [`c`](../engine/smtp/)\n\
                    [d](https://example.com) [e](#the-way-of-a-message)\n[f]: FLOW.md\n`[g](none)`\n```\n[h](none)\n```\n";
        assert_eq!(check(good), Vec::<String>::new());
        assert_eq!(check("x\n[a](none.md)"), ["2: the link none.md leads nowhere"]);
        assert_eq!(check("[`a`](none.md)").len(), 1);
        assert_eq!(check("[a](#nowhere)").len(), 1);
        assert_eq!(check("[a](../../outside.md)").len(), 1);
        assert_eq!(check("[a]: none.md").len(), 1);
    }

    #[test]
    fn every_crate_is_on_the_map() {
        let packages = ["engine/smtp", "shards/net"].map(|folder| Package {
            name: folder.to_owned(),
            folder: folder.to_owned(),
            dependencies: Vec::new(),
        });
        let found = lines(&check_architecture("`engine/smtp` is here", &packages));
        assert_eq!(found, ["1: doesn't name the crate shards/net"]);
    }

    #[test]
    fn needed_files() {
        assert_eq!(check_needed(&|path| path != "README.md").len(), 1);
    }
}
