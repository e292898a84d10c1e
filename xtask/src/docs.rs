//! `cargo xtask docs`: the reference pages that the code writes itself, and the check that they are fresh.
//!
//! A crate that has a page prints it with an example: `metrics_reference`, `config_reference`, `api_reference`.

use anyhow::{Context, Result, bail};

use crate::tidy::Finding;
use crate::workspace::Workspace;

/// The page, the crate that prints it, and with which example.
const PAGES: [(&str, &str, &str); 3] = [
    ("docs/metrics.md", "ringpost-metrics", "metrics_reference"),
    ("docs/config.md", "ringpost-config", "config_reference"),
    ("docs/api.md", "ringpost-admin", "api_reference"),
];

/// Writes every page.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    for (path, package, example) in PAGES {
        let text = generate(workspace, package, example)?;
        let changed = workspace.text(path).is_none_or(|old| old != text);
        if changed {
            std::fs::write(workspace.root.join(path), text).with_context(|| format!("cannot write {path}"))?;
        }
        println!("{path}: {}", if changed { "written" } else { "unchanged" });
    }
    Ok(())
}

/// The pages that differ from what the code prints now.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, package, example) in PAGES {
        let mut find = |line, message: String| findings.push(Finding { path: path.to_owned(), line, message });
        match generate(workspace, package, example) {
            Ok(text) => {
                let page = workspace.text(path).unwrap_or_default();
                if let Some(line) = first_difference(&page, &text) {
                    find(line, "isn't what the code prints now: cargo xtask docs".to_owned());
                }
            }
            Err(error) => find(1, format!("{error:#}")),
        }
    }
    findings
}

fn generate(workspace: &Workspace, package: &str, example: &str) -> Result<String> {
    let output = workspace
        .cargo()
        .args(["run", "--quiet", "--package", package, "--example", example])
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        let reason = reason.lines().next().unwrap_or("no reason given");
        bail!("the example `{example}` of {package}, which prints this page, failed: {reason}");
    }
    String::from_utf8(output.stdout).with_context(|| format!("the page of {package} isn't UTF-8"))
}

/// The first line, from 1, in which two texts differ.
fn first_difference(old: &str, new: &str) -> Option<usize> {
    if old == new {
        return None;
    }
    let same = old.lines().zip(new.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn where_a_page_is_stale() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
        assert_eq!(first_difference("a\nb", "a\nb\n"), Some(3));
    }
}
