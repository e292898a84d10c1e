//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A mail exchanger for bare-metal Linux: one io_uring engine per core, durable before 250.
#[derive(Parser)]
#[command(name = "ringpost", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs the server in the foreground until SIGTERM or SIGINT.
    Serve(ConfigFile),
    /// Checks a config file and reports every error with its place. Exits 1 if there is one.
    Check(ConfigFile),
    /// Looks at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the effective configuration as TOML: every key with its value, defaults filled in.
    Show(ConfigFile),
}

#[derive(Args)]
pub(crate) struct ConfigFile {
    /// The config file. Without one the embedded defaults are used: a server for 127.0.0.1 and the domain example.com.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
