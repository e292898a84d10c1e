//! The simulator's part in the tests: a fixed row of seeds, a row that nobody has seen before, and proof that it would notice.

#![allow(clippy::print_stdout, reason = "the seeds of a run are what it takes to see it again")]

use ringpost_sim::{Fault, FaultTally, Options, Run, Totals, run};
use std::hash::{BuildHasher, RandomState};

/// Seeds that are the same in every run of the tests.
const FIXED: u64 = 120;

/// Seeds that are new in every run.
const FRESH: u64 = 200;

/// Runs a seed, and fails with what it takes to see it again.
fn check(seed: u64) -> Run {
    let run = run(&Options::of_seed(seed));
    if let Some(violation) = &run.violation {
        run.last.iter().for_each(|line| println!("{line}"));
        panic!("seed {seed}: {violation}\nto see it again: cargo xtask sim --seed {seed}");
    }
    run
}

#[test]
fn fixed_seeds_hold_and_everything_breaks_in_them() {
    let (mut faults, mut totals) = (FaultTally::default(), Totals::default());
    for seed in 1..=FIXED {
        let run = check(seed);
        faults.add(&run.faults);
        totals.add(&run.totals);
    }
    for fault in Fault::ALL {
        assert!(faults.of(fault) > 0, "never in these seeds: {}", fault.text());
    }
    for (name, number) in totals.rows() {
        assert!(number > 0, "never in these seeds: {name}");
    }
}

#[test]
fn fresh_seeds_hold() {
    let first = RandomState::new().hash_one(0) >> 16;
    println!("{FRESH} seeds from {first}");
    let faults: u64 = (first..first + FRESH).map(|seed| check(seed).faults.total()).sum();
    println!("{faults} faults");
}

#[test]
fn a_seed_is_one_run() {
    for seed in [7, 77, 777] {
        let (one, other) = (check(seed), check(seed));
        assert_eq!((one.hash, one.events, &one.last), (other.hash, other.events, &other.last), "seed {seed}");
    }
    assert_ne!(check(7).hash, check(8).hash);
}

#[test]
fn disks_that_lie_about_their_syncs_are_found_out() {
    let lied = |seed: u64| run(&Options { liar: true, ..Options::of_seed(seed) }).violation;
    let found = (1..=40).filter(|seed| lied(*seed).is_some()).count();
    assert!(found >= 10, "{found} of 40 runs on lying disks were found wanting");
}
