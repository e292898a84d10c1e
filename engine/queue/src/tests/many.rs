//! A message of as many recipients as may be permitted. What takes a step for each two of them would take minutes.

use super::*;
use crate::{HandedOver, RecipientState};

const RECIPIENTS: u32 = 50_000;

fn everybody() -> Vec<u32> {
    (0..RECIPIENTS).collect()
}

fn large() -> NewItem {
    item(1, vec![leg("local-a", &everybody()), leg("local-b", &everybody())])
}

fn all(outcome: &Outcome) -> Vec<(u32, Outcome)> {
    // As they come from a next hop that answers in another order.
    everybody().into_iter().rev().map(|number| (number, outcome.clone())).collect()
}

#[test]
fn all_of_them_fail_at_two_destinations_and_live_again() {
    let mut bench = Bench::new();
    bench.push(large());
    let (a, b) = (bench.attempt(), bench.attempt());
    for attempt in [&a, &b] {
        let verdict = bench.outcome(attempt, &all(&failed()));
        assert_eq!(verdict.failed.len(), RECIPIENTS as usize);
        let mut failed = verdict.failed;
        failed.reverse();
        assert!(!bench.queue.bury(id(1), verdict.destination, &failed));
    }
    assert_eq!(bench.queue.dead(), 1);
    let mut bench = bench.restarted(large());
    assert_eq!(bench.queue.totals().destinations[1].dead_recipients, RECIPIENTS);
    bench.queue.retry(id(1), bench.now);
    assert_eq!(bench.attempt().recipients.len(), RECIPIENTS as usize);
    assert_eq!(bench.queue.recipients(id(1)).len(), 2 * RECIPIENTS as usize);
}

#[test]
fn all_of_them_are_served_reported_or_moved() {
    let mut bench = Bench::new();
    bench.push(large());
    let (a, b) = (bench.attempt(), bench.attempt());
    assert!(bench.outcome(&a, &all(&delivered())).state_changed);
    let mut bench_later = bench.restarted(large());
    assert_eq!(&*bench_later.attempt().destination, "local-b");
    bench_later.none();
    let mut outcomes = all(&failed());
    outcomes.truncate(RECIPIENTS as usize / 2);
    outcomes.extend(all(&moved("local-c")).into_iter().skip(RECIPIENTS as usize / 2));
    let verdict = bench.outcome(&b, &outcomes);
    let numbers: Vec<u32> = verdict.failed.iter().map(|(number, _)| *number).rev().collect();
    assert!(!bench.queue.reported(id(1), verdict.destination, &numbers));
    let c = bench.attempt();
    assert_eq!((&*c.destination, c.recipients.len()), ("local-c", RECIPIENTS as usize / 2));
    let done = bench.queue.recipients(id(1)).iter().filter(|view| view.state == RecipientState::Done).count();
    assert_eq!(done, RECIPIENTS as usize * 3 / 2);
    let mut bench = bench.restarted(item(1, vec![leg("local-c", &everybody())]));
    assert_eq!(bench.attempt().recipients, c.recipients);
}

#[test]
fn all_of_them_are_handed_over() {
    assert!(HandedOver::proof(id(1), &all(&delivered()), &everybody()).is_ok());
}
