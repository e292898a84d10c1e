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
mod logging;
mod main_requests;
mod nftables;
mod notify;
mod orders;
mod plan;
mod privileges;
mod queue_orders;
mod recovered;
mod reload;
mod shard;
mod signals;
mod state;
mod telemetry;
mod upgrade;

use clap::Parser;
use std::process::ExitCode;

/// Mail passes through many small buffers of like size; this allocator gives their memory back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(cli::Arguments::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("ringpost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; gives the status that the process ends with.
fn run(command: cli::Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        cli::Command::Serve(options) => lifecycle::serve(&options),
        cli::Command::Check(options) => check::check(&options),
        cli::Command::Config(cli::ConfigCommand::Show(options)) => commands::show_config(&options),
        cli::Command::Ban(command) => commands::ban(command),
        cli::Command::Explain(options) => commands::explain(&options),
        cli::Command::Reload(options) => commands::reload(&options),
        cli::Command::Canary(command) => commands::canary(&command),
        cli::Command::Drain(options) => commands::drain(&options),
        cli::Command::Upgrade(options) => commands::upgrade(&options),
        cli::Command::Queue(command) => commands::queue(&command),
        cli::Command::Status(options) => return commands::status(&options),
        cli::Command::Top(options) => commands::top(&options),
        cli::Command::Sessions(options) => commands::sessions(&options),
        cli::Command::Shards(options) => commands::shards(&options),
        cli::Command::Limits(options) => commands::limits(&options),
        cli::Command::Log(command) => commands::log(&command),
        cli::Command::Profile(options) => commands::profile(&options),
        cli::Command::Audit(options) => commands::audit(&options),
        cli::Command::Backup(options) => commands::backup(&options),
        cli::Command::Restore(options) => commands::restore(&options),
        cli::Command::Spool(cli::SpoolCommand::Check(options)) => commands::check_spool(&options),
        cli::Command::Man(options) => commands::man(&options),
        cli::Command::Completions(options) => commands::completions(&options),
        cli::Command::CrashReport => commands::crash_report(),
    };
    done.map(|()| ExitCode::SUCCESS)
}
