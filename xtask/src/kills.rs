//! `cargo xtask kills`: the test of kill -9 under load, as shipped and as often as is asked for.
//!
//! It is the same test that `cargo xtask test` runs twenty times over; here its numbers are the result.

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// The test that is run.
const TEST: &str = "crash::kill_9_under_load_loses_and_doubles_nothing";

/// Where it reads how often.
const COUNT_VARIABLE: &str = "RINGPOST_TEST_KILLS";

/// What can be asked of it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often the server is killed: a thousand times takes some ten minutes
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
}

/// Builds, kills, and says what came of it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    // The test starts the load tester, which its own build doesn't bring along.
    process::run(workspace.cargo().args(["build", "--release", "--package", "ringpost-load"]))?;
    let mut command = workspace.cargo();
    command.args(["test", "--release", "--package", "ringpost", "--test", "integration", "--", "--exact", TEST]);
    command.arg("--nocapture").env(COUNT_VARIABLE, options.count.to_string());
    let mut passed = false;
    let ok = process::each_line(&mut command, |line| {
        passed |= line.starts_with("test result: ok. 1 passed");
    })?;
    if !ok || !passed {
        bail!("the server does not keep its word; the last lines above say how");
    }
    Ok(())
}
