//! `cargo xtask test`: everything a change must pass, in order, stopping at the first step that fails.
//!
//! The last line of its output is the sum, as `tests: 312 passed, 0 failed`, whatever happened before.

mod debian;
mod tally;

use std::io::IsTerminal;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{deny, fuzz, process, tidy};
use tally::Tally;

/// What can be asked of the run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the Debian packages, the licences, the model checks and the fuzz targets
    #[arg(long)]
    quick: bool,
    /// Passed on to cargo test: names of tests, -p CRATE, or more after --
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// A step: its name, whether a quick run leaves it out, and what it does.
struct Step {
    name: &'static str,
    thorough: bool,
    run: fn(&Workspace, &Options, &mut Tally) -> Result<()>,
}

const STEPS: [Step; 9] = [
    Step { name: "packages", thorough: true, run: |_, _, _| debian::install_missing() },
    Step { name: "format", thorough: false, run: |workspace, _, _| format(workspace) },
    Step { name: "clippy", thorough: false, run: |workspace, _, _| clippy(workspace) },
    Step { name: "tidy", thorough: false, run: |workspace, _, _| tidy::run(workspace) },
    Step { name: "deny", thorough: true, run: |workspace, _, _| deny::run(workspace) },
    Step { name: "loom", thorough: true, run: |workspace, _, tally| loom(workspace, tally) },
    Step { name: "binaries", thorough: false, run: |workspace, _, _| binaries(workspace) },
    Step { name: "tests", thorough: false, run: tests },
    Step { name: "fuzz", thorough: true, run: |workspace, _, _| fuzz::smoke(workspace) },
];

/// Runs the steps and prints the sum.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> ExitCode {
    let mut tally = Tally::default();
    let mut durations: Vec<(&str, Duration)> = Vec::new();
    let mut ok = true;
    for step in STEPS.iter().filter(|step| !(options.quick && step.thorough)) {
        println!("── {}", step.name);
        let started = Instant::now();
        let failed_before = tally.failed();
        let result = (step.run)(workspace, options, &mut tally);
        durations.push((step.name, started.elapsed()));
        if let Err(error) = result {
            println!("{}: {error:#}", step.name);
            // A step that isn't made of tests, or that broke before its tests ran, counts as one failure.
            if tally.failed() == failed_before {
                tally.fail_one();
            }
            ok = false;
            break;
        }
    }
    println!("── durations");
    for (name, duration) in durations {
        println!("{name:>10} {:8.1} s", duration.as_secs_f64());
    }
    println!("{tally}");
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn format(workspace: &Workspace) -> Result<()> {
    need_component(workspace, "fmt", "rustfmt")?;
    if !process::succeeds(workspace.cargo().args(["fmt", "--all", "--check"]))? {
        bail!("not formatted as rustfmt does it: cargo fmt --all");
    }
    if !fuzz::is_formatted(workspace)? {
        bail!("not formatted as rustfmt does it: cargo fmt --manifest-path {}", fuzz::MANIFEST);
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<()> {
    need_component(workspace, "clippy", "clippy")?;
    let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    process::run(workspace.cargo().args(arguments))
}

fn need_component(workspace: &Workspace, subcommand: &str, component: &str) -> Result<()> {
    if process::output_of(workspace.cargo().args([subcommand, "--version"])).is_none() {
        bail!("cargo {subcommand} is missing: rustup component add {component}");
    }
    Ok(())
}

/// The model checks, in a target directory of their own: their flag would have everything else built anew.
fn loom(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = workspace.cargo();
    command
        .env("RUSTFLAGS", format!("{flags} --cfg loom").trim_start())
        .args(["test", "--package", "ringpost-control", "--release", "--lib", "--target-dir"])
        .arg(workspace.target_directory().join("loom"));
    stream(&mut command, tally)
}

/// The tests of the daemon start `ringpost-load` too, which `cargo test` alone wouldn't build for them.
fn binaries(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["build", "--workspace", "--bins"]))
}

fn tests(workspace: &Workspace, options: &Options, tally: &mut Tally) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["test", "--no-fail-fast"]);
    let own_choice = options.arguments.iter().take_while(|a| *a != "--").any(|a| chooses_packages(a));
    if !own_choice {
        command.arg("--workspace");
    }
    command.args(&options.arguments);
    stream(&mut command, tally)
}

fn chooses_packages(argument: &str) -> bool {
    argument.starts_with("-p") || argument.starts_with("--package") || argument == "--workspace"
}

/// Runs a cargo test command, passing its output on and adding up its results.
fn stream(command: &mut Command, tally: &mut Tally) -> Result<()> {
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let ok = process::each_line(command, |line| {
        println!("{line}");
        tally.read(line);
    })?;
    if !ok {
        bail!("failed");
    }
    Ok(())
}
