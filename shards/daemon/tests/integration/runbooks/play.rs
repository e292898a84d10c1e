//! A page, done block by block by somebody who reads it in the incident.

use super::page::{Block, blocks};
use super::shell::{Shell, Told};
use super::stage::Stage;
use crate::support::eventually;
use std::collections::VecDeque;

/// The blocks of a page that are still to be done.
pub(super) struct Play {
    pub(super) stage: Stage,
    shell: Shell,
    page: &'static str,
    left: VecDeque<Block>,
}

impl Play {
    /// Opens a page on a stage.
    pub(super) fn open(page: &'static str, stage: Stage) -> Self {
        let left = blocks(page).into_iter().filter(Block::is_to_do).collect();
        let shell = stage.shell();
        Self { stage, shell, page, left }
    }

    #[track_caller]
    fn next(&mut self, kind: &str) -> Block {
        let block = self.left.pop_front().unwrap_or_else(|| panic!("{} has no block left", self.page));
        assert_eq!(block.kind, kind, "{}:{}", self.page, block.line);
        block
    }

    /// Does the next block; every command in it has to succeed, and these words have to be in what they write.
    #[track_caller]
    pub(super) fn run(&mut self, words: &[&str]) -> String {
        self.run_failing(&[], words)
    }

    /// The same where these statuses, and no others, are those of commands that fail.
    #[track_caller]
    pub(super) fn run_failing(&mut self, statuses: &[i32], words: &[&str]) -> String {
        let block = self.next("sh");
        let Told { out, failed } = self.shell.run(&block.text);
        let at = format!("{}:{}", self.page, block.line);
        assert_eq!(failed, statuses, "{at}: statuses of\n{}which wrote:\n{out}", block.text);
        for word in words {
            assert!(out.contains(word), "{at}: no {word:?} from\n{}which wrote:\n{out}", block.text);
        }
        out
    }

    /// Does the next block again and again until it writes these words, as a page asks for that.
    #[track_caller]
    pub(super) fn run_until(&mut self, words: &str) -> String {
        let block = self.next("sh");
        let mut last = String::new();
        let seen = eventually(|| {
            let told = self.shell.run(&block.text);
            last = told.out;
            last.contains(words).then_some(())
        });
        let at = format!("{}:{}", self.page, block.line);
        assert!(seen.is_some(), "{at}: never {words:?} from\n{}which wrote:\n{last}", block.text);
        last
    }

    /// Puts what the next block has of the config into the config file: keys of a section, or a target.
    #[track_caller]
    pub(super) fn edit(&mut self) {
        let block = self.next("toml");
        let at = format!("{}:{}", self.page, block.line);
        let (first, lines) = block.text.split_once('\n').expect("a line");
        let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        match first {
            "[[target]]" => {
                let value = |key: &str| {
                    let line = lines.iter().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
                    line.and_then(|rest| rest.strip_suffix('"')).unwrap_or_else(|| panic!("{at}: no {key}"))
                };
                let others: Vec<&str> = lines
                    .iter()
                    .copied()
                    .filter(|line| !line.starts_with("name ") && !line.starts_with("kind "))
                    .collect();
                self.stage.edit(|settings| settings.target(value("name"), value("kind"), &others));
            }
            _ => {
                let section = first.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let section = section.filter(|name| !name.starts_with('[')).unwrap_or_else(|| panic!("{at}: {first}?"));
                self.stage.edit(|settings| lines.iter().fold(settings, |settings, line| settings.set(section, line)));
            }
        }
    }

    /// Everything on the page has been done.
    #[track_caller]
    pub(super) fn finish(&self) {
        let left: Vec<usize> = self.left.iter().map(|block| block.line).collect();
        assert!(left.is_empty(), "{}: the blocks at lines {left:?} are not run", self.page);
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        }
    }
}
