//! `ringpost man`: the man pages of all commands, from the same tree that the command line is parsed by.
//!
//! A page has no date: the same binary always writes the same pages.

use super::print;
use super::words::plain;
use crate::cli::{Arguments, ManOptions};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::fs;
use std::path::Path;

/// The section of the manual: ringpost is for those who administer a machine.
const SECTION: &str = "8";

pub(crate) fn man(options: &ManOptions) -> Result<()> {
    let pages = pages()?;
    for (name, page) in &pages {
        let path = options.to.join(name);
        fs::write(&path, page).with_context(|| format!("the page {}", path.display()))?;
    }
    print(&written(pages.len(), &options.to))
}

fn written(count: usize, to: &Path) -> String {
    format!("{count} pages written to {}\n", plain(&to.display().to_string()))
}

/// All pages: the names of their files, and what is in them.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, None, &mut pages)?;
    Ok(pages)
}

/// Adds the page of a command and those of the commands in it; `above` is what it stands in, as one name.
fn add(command: &Command, above: Option<&str>, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = above.map_or(command.get_name().to_owned(), |above| format!("{above}-{}", command.get_name()));
    let page = Man::new(command.clone().version(env!("CARGO_PKG_VERSION")))
        .title(name.to_uppercase())
        .section(SECTION)
        .source(concat!("ringpost ", env!("CARGO_PKG_VERSION")))
        .manual("ringpost");
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push((format!("{name}.{SECTION}"), text));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add(inner, Some(&name), pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_not_hidden_has_a_page() {
        let pages = pages().expect("pages");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["ringpost.8", "ringpost-status.8", "ringpost-queue-list.8", "ringpost-log-set.8", "ringpost-man.8"]
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("crash-report") || name.contains("help")), "{names:?}");
    }

    #[test]
    fn a_page_tells_what_the_help_tells() {
        let pages = pages().expect("pages");
        let (_, page) = pages.iter().find(|(name, _)| name == "ringpost-status.8").expect("a page");
        let page = String::from_utf8(page.clone()).expect("text");
        for words in [".TH RINGPOST-STATUS 8 ", "\\-\\-json", "\\-\\-config", "3  degraded"] {
            assert!(page.contains(words), "no {words:?} in {page}");
        }
    }
}
