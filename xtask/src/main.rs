//! The developer's commands, as `cargo xtask NAME`: test, fuzz, sim, tidy, deny, docs, demo, kills, upgrades and bench.
//!
//! Nothing of the server is linked in here, so that xtask builds in seconds and checks the house from outside it.
//! What needs the server runs its binaries, as a user would.
#![allow(clippy::print_stdout, reason = "these are command-line tools: standard output is where their results go")]

mod bench;
mod demo;
mod deny;
mod docs;
mod fuzz;
mod http;
mod kills;
mod load;
mod machine;
mod proc;
mod process;
mod server;
mod sim;
mod smtp_probe;
mod test;
mod throwaway;
mod tidy;
mod upgrades;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The developer's commands for ringpost",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything a change must pass: format, clippy, tidy, licences, model checks, tests, fuzzing
    Test(test::Options),
    /// Build the fuzz targets of engine/fuzz and run each for a while
    Fuzz(fuzz::Options),
    /// Simulate the mail host in a world where everything breaks, from seeds
    Sim(sim::Options),
    /// The rules of the house that neither rustc nor clippy knows
    Tidy,
    /// Licences, sources and banned packages of everything that is linked in
    Deny,
    /// Write the generated reference pages in docs/
    Docs,
    /// A minute of 1000 messages a minute and then flat out, against a throw-away server
    Demo(demo::Options),
    /// Kill the server under load a thousand times, and count what is lost, altered or duplicated
    Kills(kills::Options),
    /// Has another process take over from a loaded server again and again: nobody may be refused, and nothing lost
    Upgrades(upgrades::Options),
    /// Measure CPU, syncs, memory and latency, alone or beside a Postfix on the same machine
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::clean_up_when_interrupted();
    let workspace = match Workspace::here() {
        Ok(workspace) => workspace,
        Err(error) => return failed(&error),
    };
    let outcome = match arguments.command {
        // The last line of `test` is its result, so it reports its own errors.
        Command::Test(options) => return test::run(&workspace, &options),
        Command::Fuzz(options) => fuzz::run(&workspace, &options),
        Command::Sim(options) => sim::run(&workspace, &options),
        Command::Tidy => tidy::run(&workspace),
        Command::Deny => deny::run(&workspace),
        Command::Docs => docs::write(&workspace),
        Command::Demo(options) => demo::run(&workspace, &options),
        Command::Kills(options) => kills::run(&workspace, &options),
        Command::Upgrades(options) => upgrades::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
