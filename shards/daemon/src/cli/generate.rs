//! The options of what is made from the command line itself, for those who package and install.

use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct ManOptions {
    /// The directory to write to, such as /usr/local/share/man/man1. It has to be there; pages in it are written over.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
}

#[derive(Args)]
pub(crate) struct CompletionsOptions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}
