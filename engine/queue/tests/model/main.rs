//! The queues of several shards and the owner of their destinations against a naive model, over thousands of random steps:
//! attempts that fail in every way, answers and news that are lost, reports that can't be made, operators, clocks that
//! jump, restarts from what the spool kept.
//!
//! Throughout: nobody is served twice who was served before, nobody by two attempts at once; nothing is settled of which
//! somebody was neither served nor reported; what is held rests; no destination has more attempts than it may, or more
//! messages a minute. And when the trouble ends, everything comes to an end.

mod mail;
mod world;

use world::World;

/// Steps of a run.
const STEPS: usize = 3000;

fn run(seed: u64) {
    eprintln!("seed {seed}");
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle_all();
}

#[test]
fn nothing_is_lost_and_nothing_is_done_twice() {
    (1..=150).for_each(run);
}
