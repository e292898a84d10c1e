//! `ringpost-sim`: runs seeds of the simulator and says what they came to. `cargo xtask sim` builds and starts it.
#![allow(clippy::print_stdout, reason = "it is a command-line tool: standard output is where its results go")]

use clap::Parser;
use ringpost_sim::{Fault, FaultTally, Options, Run, Totals, run};
use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Seeds that are run when nothing else is asked for.
const SEEDS: u64 = 100;

/// How often it is said how far it has come.
const NEWS: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(
    name = "ringpost-sim",
    about = "Simulates a mail host in a world where everything breaks",
    max_term_width = 100
)]
struct Arguments {
    /// The seed to run; with --seeds, the first of them. Otherwise they begin anywhere
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run, at least
    #[arg(long)]
    seeds: Option<u64>,
    /// How many faults are to strike, at least
    #[arg(long)]
    faults: Option<u64>,
    /// For how many minutes to go on, at least
    #[arg(long)]
    minutes: Option<f64>,
    /// A fault put in on purpose, to see that it is found: liar (disks that say they have synced and have not)
    #[arg(long, value_parser = ["liar"])]
    bug: Option<String>,
    /// Print every event
    #[arg(long)]
    trace: bool,
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    faults: FaultTally,
    totals: Totals,
    events: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    let began = Instant::now();
    let (mut sum, mut told) = (Sum::default(), began);
    let mut seed = first;
    println!("seeds from {first}");
    loop {
        let options = Options { seed, liar: arguments.bug.is_some(), whole_trace: arguments.trace };
        let run = run(&options);
        sum.add(&run);
        if arguments.trace {
            run.last.iter().for_each(|line| println!("{line}"));
        }
        if run.violation.is_some() {
            sum.print(began.elapsed());
            complain(&run, &arguments);
            return ExitCode::FAILURE;
        }
        if arguments.is_enough(&sum, began.elapsed()) {
            break;
        }
        if told.elapsed() >= NEWS {
            told = Instant::now();
            println!("{} seeds, {} faults, {} s", sum.seeds, sum.faults.total(), began.elapsed().as_secs());
        }
        seed = seed.wrapping_add(1);
    }
    sum.print(began.elapsed());
    println!("violations: 0");
    ExitCode::SUCCESS
}

impl Arguments {
    fn is_enough(&self, sum: &Sum, elapsed: Duration) -> bool {
        let least = match (self.seeds, self.seed, self.faults, self.minutes) {
            (Some(seeds), ..) => seeds,
            (None, Some(_), None, None) => 1,
            (None, _, None, None) => SEEDS,
            _ => 0,
        };
        sum.seeds >= least
            && self.faults.is_none_or(|faults| sum.faults.total() >= faults)
            && self.minutes.is_none_or(|minutes| elapsed.as_secs_f64() >= minutes * 60.0)
    }
}

impl Sum {
    fn add(&mut self, run: &Run) {
        self.seeds += 1;
        self.events += run.events;
        self.faults.add(&run.faults);
        self.totals.add(&run.totals);
    }

    fn print(&self, elapsed: Duration) {
        let Self { seeds, faults, totals, events } = self;
        println!("{seeds} seeds, {events} events, {} faults in {:.1} s", faults.total(), elapsed.as_secs_f64());
        for fault in Fault::ALL {
            println!("{:>10} {}", faults.of(fault), fault.text());
        }
        for (name, number) in totals.rows() {
            println!("{number:>10} {name}");
        }
    }
}

fn complain(run: &Run, arguments: &Arguments) {
    if !arguments.trace {
        run.last.iter().for_each(|line| println!("{line}"));
    }
    println!("violation in seed {}: {}", run.seed, run.violation.as_deref().unwrap_or_default());
    let bug = arguments.bug.as_ref().map_or(String::new(), |bug| format!(" --bug {bug}"));
    println!("to see it again: cargo xtask sim --seed {}{bug}", run.seed);
}
