//! The `ringpost` binary: command line, lifecycle, wiring.

mod bans;
mod check;
mod cli;
mod client;
mod commands;
mod control;
mod greylist;
mod health;
mod in_force;
mod keeper;
mod lifecycle;
mod nftables;
mod orders;
mod plan;
mod queue_orders;
mod recovered;
mod reload;
mod shard;
mod signals;
mod state;

use clap::Parser;
use std::process::ExitCode;

/// Mail passes through many small buffers of like size; this allocator gives their memory back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let result = match arguments.command {
        cli::Command::Serve(options) => lifecycle::serve(&options),
        cli::Command::Check(options) => check::check(&options),
        cli::Command::Config(cli::ConfigCommand::Show(options)) => check::show(&options),
        cli::Command::Ban(command) => commands::ban(command),
        cli::Command::Explain(options) => commands::explain(&options),
        cli::Command::Queue(command) => commands::queue(&command),
        cli::Command::Reload(options) => commands::reload(&options),
        cli::Command::Status(options) => commands::status(&options),
        cli::Command::Backup(options) => commands::backup(&options),
        cli::Command::Restore(options) => commands::restore(&options),
        cli::Command::Spool(cli::SpoolCommand::Check(options)) => commands::check_spool(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringpost: {error:#}");
            ExitCode::FAILURE
        }
    }
}
