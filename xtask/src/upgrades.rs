//! `cargo xtask upgrades`: the test of upgrades and reloads under load, as shipped and for as long as is asked for.
//!
//! It is the same test that `cargo xtask test` runs for some seconds; here its numbers are the result.

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// The test that is run.
const TEST: &str = "upgrade::upgrades_under_load_refuse_nobody_and_lose_nothing";

/// Where it reads how often, and how long each time.
const COUNT_VARIABLE: &str = "RINGPOST_TEST_UPGRADES";
const SECONDS_VARIABLE: &str = "RINGPOST_TEST_UPGRADE_SECONDS";

/// What can be asked of it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often another process takes over, each time after a reload
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// How long the server is loaded with 200 messages a second each time
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(3..=3600))]
    seconds: u32,
}

/// Builds, upgrades, and says what came of it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    // The test starts the load tester, which its own build doesn't bring along.
    process::run(workspace.cargo().args(["build", "--release", "--package", "ringpost-load"]))?;
    let mut command = workspace.cargo();
    command.args(["test", "--release", "--package", "ringpost", "--test", "integration", "--", "--exact", TEST]);
    command.arg("--nocapture").env(COUNT_VARIABLE, options.count.to_string());
    command.env(SECONDS_VARIABLE, options.seconds.to_string());
    let mut passed = false;
    let ok = process::each_line(&mut command, |line| {
        passed |= line.starts_with("test result: ok. 1 passed");
    })?;
    if !ok || !passed {
        bail!("clients notice an upgrade; the last lines above say how");
    }
    Ok(())
}
