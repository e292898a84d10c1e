//! `cargo xtask sim`: builds the simulator of `shards/sim` and runs seeds of it.
//!
//! A violation ends the run with the seed, what was found, the last events, and the command that shows it again.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// What can be asked of the run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The seed to run; with more of them, the first. Otherwise they begin anywhere
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many seeds to run, at least; 100 if nothing is asked for
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,
    /// How many faults are to strike, at least
    #[arg(long, value_name = "MIN")]
    faults: Option<u64>,
    /// For how many minutes to go on, at least
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// A fault put in on purpose, to see that it is found: liar, disks that say they have synced and have not
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Print every event
    #[arg(long)]
    trace: bool,
    /// Build it with all optimisations first, which pays for runs of many minutes
    #[arg(long)]
    release: bool,
}

/// Builds the simulator and runs what is asked for.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--package", "ringpost-sim"]);
    if options.release {
        command.arg("--release");
    }
    command.arg("--");
    let numbers = [
        ("--seed", options.seed.map(|seed| seed.to_string())),
        ("--seeds", options.seeds.map(|seeds| seeds.to_string())),
        ("--faults", options.faults.map(|faults| faults.to_string())),
        ("--minutes", options.minutes.map(|minutes| minutes.to_string())),
        ("--bug", options.bug.clone()),
    ];
    for (name, value) in numbers {
        value.into_iter().for_each(|value| {
            command.args([name, &value]);
        });
    }
    if options.trace {
        command.arg("--trace");
    }
    process::run(&mut command)
}
