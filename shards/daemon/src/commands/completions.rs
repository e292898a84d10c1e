//! `ringpost completions`: what a shell needs to complete commands and options, from the same tree that they are parsed by.

use super::print;
use crate::cli::{Arguments, CompletionsOptions};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

pub(crate) fn completions(options: &CompletionsOptions) -> Result<()> {
    print(&script(options.shell)?)
}

fn script(shell: Shell) -> Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_hidden(&Arguments::command()), "ringpost", &mut script);
    String::from_utf8(script).context("a script that is not text")
}

/// The commands that are for people: scripts would offer the hidden ones too.
fn without_hidden(all: &Command) -> Command {
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("ringpost").version(env!("CARGO_PKG_VERSION")).args(all.get_arguments().cloned()).subcommands(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_has_a_script() {
        for shell in Shell::value_variants() {
            let script = script(*shell).expect("a script");
            for word in ["status", "upgrade", "socket", "canary"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("crash-report"), "{shell}");
        }
    }
}
