//! What the queue asks of the owners of destinations, and what it gives back.

use super::*;
use crate::{BreakerState, DestinationOptions, Destinations, LeaseReport};
use ringpost_base::ShardId;

fn asks(destination: &str, held: u32) -> Option<Action> {
    Some(Action::Lease { destination: destination.into(), held })
}

fn releases(destination: &str, slots: u32, report: LeaseReport) -> Option<Action> {
    Some(Action::Release { destination: destination.into(), slots, report })
}

fn report(delivered: u32, hop_failures: u32, unused: u32) -> LeaseReport {
    LeaseReport { delivered, hop_failures, unused }
}

#[test]
fn no_attempt_without_a_lease_and_one_question_at_a_time() {
    let mut bench = Bench::new();
    (1..=3).for_each(|n| bench.push(to("hop", n)));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.none();
    bench.grant("hop", 10);
    assert_eq!(bench.attempt().id, id(1));
    bench.none();
}

/// The owner's config changed while its answer was on its way.
#[test]
fn who_was_told_to_wait_asks_again_at_news_whichever_comes_first() {
    let wait = Lease::Wait { span: seconds(3600), open: true };
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.leased("hop", wait, bench.now);
    bench.none();
    bench.queue.freed("hop");
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.freed("hop");
    bench.queue.leased("hop", wait, bench.now);
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.leased("hop", wait, bench.now);
    bench.none();
}

#[test]
fn more_slots_are_asked_for_while_there_is_far_more_work() {
    let mut bench = Bench::new();
    (1..=9).for_each(|n| bench.push(to("hop", n)));
    for held in 0..3 {
        assert_eq!(bench.next(), asks("hop", held));
        bench.grant("hop", 10);
        bench.attempt();
    }
    bench.none();
    bench.pass(seconds(2));
    assert_eq!(bench.next(), asks("hop", 3), "the attempts under way may hang");
}

#[test]
fn a_slot_goes_back_when_there_is_no_work_for_it() {
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.grant("hop", 10);
    let attempt = bench.attempt();
    bench.none();
    bench.outcome(&attempt, &[(0, delivered())]);
    assert_eq!(bench.next(), releases("hop", 1, report(1, 0, 9)));
    bench.none();
}

#[test]
fn a_slot_goes_back_when_its_messages_are_used_up() {
    let mut bench = Bench::new();
    (1..=2).for_each(|n| bench.push(to("hop", n)));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.grant("hop", 1);
    let attempt = bench.attempt();
    assert_eq!(bench.next(), asks("hop", 1), "the next lease is asked for meanwhile");
    bench.queue.leased("hop", Lease::Busy, bench.now);
    bench.none();
    bench.outcome(&attempt, &[(0, delivered())]);
    assert_eq!(bench.next(), releases("hop", 1, report(1, 0, 0)));
    bench.none();
    bench.queue.freed("hop");
    assert_eq!(bench.next(), asks("hop", 0));
}

#[test]
fn a_failure_of_the_destination_gives_the_slot_back_at_once() {
    let mut bench = Bench::new();
    (1..=4).for_each(|n| bench.push(to("hop", n)));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.grant("hop", 10);
    let attempt = bench.attempt();
    assert_eq!(bench.next(), asks("hop", 1));
    bench.queue.leased("hop", Lease::Busy, bench.now);
    bench.queue.outcome(attempt.leg, &[(0, deferred())], Asked::Failed, bench.now);
    assert_eq!(bench.next(), releases("hop", 1, report(0, 1, 9)));
    bench.none();
}

#[test]
fn an_attempt_that_asked_nobody_says_nothing_of_the_destination() {
    let mut bench = Bench::new();
    (1..=3).for_each(|n| bench.push(to("hop", n)));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.grant("hop", 1);
    let attempt = bench.attempt();
    assert_eq!(bench.next(), asks("hop", 1));
    bench.queue.leased("hop", Lease::Busy, bench.now);
    bench.queue.outcome(attempt.leg, &[(0, moved("local-a"))], Asked::Not, bench.now);
    let (elsewhere, next) = (bench.attempt(), bench.attempt());
    let (elsewhere, next) = if elsewhere.id == id(1) { (elsewhere, next) } else { (next, elsewhere) };
    assert_eq!((&*elsewhere.destination, &*next.destination, next.id), ("local-a", "hop", id(2)), "by the same lease");
    bench.queue.drop_message(id(3));
    bench.queue.outcome(next.leg, &[(0, deferred())], Asked::Not, bench.now);
    assert_eq!(bench.next(), releases("hop", 1, report(0, 0, 1)));
    bench.none();
}

#[test]
fn a_destination_that_is_tried_is_tried_again_when_the_try_asked_nobody() {
    let options = DestinationOptions { breaker_failures: 1, breaker_pause: Span::seconds(10), ..Default::default() };
    let mut owner = Destinations::new();
    owner.configure([("hop".into(), options)].into_iter());
    let (own, other) = (ShardId(0), ShardId(1));
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    let mut exchange = |bench: &mut Bench| match bench.next() {
        Some(Action::Lease { destination, held }) => {
            let lease = owner.lease(own, &destination, held, bench.now.tick);
            bench.queue.leased(&destination, lease, bench.now);
            owner.view(bench.now.tick).remove(0)
        }
        Some(Action::Release { destination, slots, report }) => {
            owner.release(own, &destination, slots, report, bench.now.tick);
            let lease = owner.lease(other, &destination, 0, bench.now.tick);
            assert!(!matches!(lease, Lease::Granted { messages: 2.. }), "it is not closed");
            if matches!(lease, Lease::Granted { .. }) {
                owner.release(
                    other,
                    &destination,
                    1,
                    LeaseReport { unused: 1, ..LeaseReport::default() },
                    bench.now.tick,
                );
            }
            owner.view(bench.now.tick).remove(0)
        }
        other => panic!("{other:?}"),
    };
    exchange(&mut bench);
    let attempt = bench.attempt();
    bench.queue.outcome(attempt.leg, &[(0, deferred())], Asked::Failed, bench.now);
    assert_eq!(exchange(&mut bench).breaker, BreakerState::Open);
    bench.pass(seconds(11));
    for asked in [Asked::Not, Asked::Not, Asked::Worked] {
        bench.queue.retry(id(1), bench.now);
        assert_eq!(exchange(&mut bench).breaker, BreakerState::HalfOpen);
        let attempt = bench.attempt();
        bench.queue.outcome(attempt.leg, &[(0, deferred())], asked, bench.now);
        if asked == Asked::Not {
            let seen = exchange(&mut bench);
            assert_eq!((seen.breaker, seen.failures), (BreakerState::HalfOpen, 1), "nothing is known of it");
        }
    }
    assert_eq!(bench.next(), releases("hop", 1, report(1, 0, 0)));
}

#[test]
fn a_destination_that_hangs_delays_nobody_else() {
    let mut bench = Bench::with(Options { attempts_max: 1, ..options() });
    for n in 1..=50 {
        bench.push(to("hangs", n));
    }
    assert_eq!(bench.next(), asks("hangs", 0));
    bench.grant("hangs", 100);
    bench.attempt();
    assert_eq!(bench.next(), asks("hangs", 1));
    bench.queue.leased("hangs", Lease::Busy, bench.now);
    for n in 51..=60 {
        bench.push(to("local", n));
        let attempt = bench.attempt();
        assert_eq!(attempt.id, id(n));
        bench.outcome(&attempt, &[(0, delivered())]);
    }
}

#[test]
fn a_lost_grant_is_asked_about_also_without_work() {
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.leased("hop", Lease::Wait { span: seconds(5), open: false }, bench.now);
    bench.grant("hop", 7);
    bench.none();
    bench.queue.drop_message(id(1));
    bench.none();
    bench.pass(seconds(6));
    assert_eq!(bench.next(), asks("hop", 0), "the owner corrects its count by this");
    bench.grant("hop", 10);
    assert_eq!(bench.next(), releases("hop", 1, report(0, 0, 10)));
    bench.none();
    assert_eq!(bench.queue.next_due(), None);
}

#[test]
fn lost_news_of_a_free_slot_stops_a_lane_for_seconds_only() {
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.leased("hop", Lease::Busy, bench.now);
    bench.none();
    let asked = bench.now.tick;
    assert_eq!(Some(bench.later()), asks("hop", 0));
    assert_eq!(bench.now.tick.since(asked), seconds(10));
    bench.queue.freed("hop");
    bench.queue.leased("hop", Lease::Busy, bench.now);
    assert_eq!(bench.next(), asks("hop", 0), "the news overtook the answer");
}

#[test]
fn a_slot_that_is_not_wanted_any_more_is_passed_on() {
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.leased("hop", Lease::Busy, bench.now);
    bench.queue.drop_message(id(1));
    bench.queue.freed("hop");
    assert_eq!(bench.next(), releases("hop", 0, report(0, 0, 0)));
}

#[test]
fn what_waits_for_a_lease_that_never_comes_is_given_up_in_time() {
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    bench.push(to("hop", 2));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.leased("hop", Lease::Wait { span: seconds(100_000), open: true }, bench.now);
    let (started, mut seen) = (bench.now.tick, Vec::new());
    while seen.len() < 4 {
        let age = bench.now.tick.since(started).as_secs();
        match bench.next() {
            Some(Action::Delay { id, .. }) => seen.push(("late", id, age)),
            Some(Action::Expire { id, leg, recipients, reason }) => {
                assert_eq!((recipients.as_slice(), reason.status), (&[0][..], Status::EXPIRED));
                let verdict = bench.queue.outcome(leg, &[(0, Outcome::Failed(reason))], Asked::Not, bench.now);
                assert_eq!(verdict.failed.len(), 1);
                assert!(bench.queue.reported(id, verdict.destination, &[0]));
                seen.push(("over", id, age));
            }
            Some(Action::Lease { .. }) => {
                bench.queue.leased("hop", Lease::Wait { span: seconds(100_000), open: true }, bench.now);
            }
            Some(other) => panic!("{other:?}"),
            None => bench.now.tick = bench.queue.next_due().expect("waits").max(bench.now.tick),
        }
    }
    seen.sort();
    for (n, (what, of, age)) in seen.into_iter().enumerate() {
        let (wanted, at) = if n < 2 { ("late", 600) } else { ("over", 3600) };
        assert!(what == wanted && of == id(n as u8 % 2 + 1) && (at..=at + 60).contains(&age), "{what} {of} at {age} s");
    }
    assert!(bench.queue.is_empty());
}

#[test]
fn what_is_too_old_at_the_start_has_its_attempt_before_it_is_given_up() {
    let mut bench = Bench::new();
    bench.pass(seconds(100_000));
    (0..100).for_each(|n| bench.push(NewItem { recovered: true, ..to("hop", n) }));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.pass(seconds(1));
    bench.grant("hop", 1000);
    let mut attempts = 0;
    while attempts < 100 {
        match bench.next() {
            Some(Action::Attempt(attempt)) => {
                bench.pass(Duration::from_millis(100));
                bench.outcome(&attempt, &[(0, delivered())]);
                attempts += 1;
            }
            Some(Action::Lease { .. }) => bench.queue.leased("hop", Lease::Busy, bench.now),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_left_of_an_old_lease_is_void() {
    let mut bench = Bench::new();
    (1..=2).for_each(|n| bench.push(to("hop", n)));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.grant("hop", 100);
    let attempt = bench.attempt();
    bench.pass(seconds(120));
    assert_eq!(bench.next(), asks("hop", 1));
    bench.queue.leased("hop", Lease::Busy, bench.now);
    bench.outcome(&attempt, &[(0, delivered())]);
    assert_eq!(bench.next(), releases("hop", 1, report(1, 0, 0)), "their share of the rate has been used by others");
    bench.none();
}

#[test]
fn mail_of_a_destination_that_is_gone_is_routed_again() {
    let mut bench = Bench::new();
    bench.push(to("hop", 1));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.queue.configure(options(), &|_| None);
    bench.grant("hop", 100);
    let mut actions: Vec<_> = std::iter::from_fn(|| bench.next()).collect();
    assert_eq!(actions.pop().as_ref().map(|action| matches!(action, Action::Attempt(_))), Some(true));
    assert_eq!(actions, releases("hop", 1, report(0, 0, 100)).into_iter().collect::<Vec<_>>());
    let totals = bench.queue.totals();
    assert_eq!(totals.destinations.len(), 1);
    assert!(totals.destinations[0].gone);
}

#[test]
fn a_destination_that_is_gone_and_over_is_forgotten() {
    let mut bench = Bench::new();
    bench.push(to("local-a", 1));
    let attempt = bench.attempt();
    bench.queue.configure(options(), &|_| None);
    assert_eq!(bench.queue.totals().destinations.len(), 1);
    bench.outcome(&attempt, &[(0, moved("local-b"))]);
    let attempt = bench.attempt();
    assert!(bench.outcome(&attempt, &[(0, delivered())]).settled);
    let names: Vec<_> = bench.queue.totals().destinations.into_iter().map(|totals| totals.destination).collect();
    assert_eq!(names, ["local-b".into()]);
}

#[test]
fn a_destination_that_becomes_local_needs_no_lease() {
    let mut bench = Bench::new();
    (1..=2).for_each(|n| bench.push(to("hop", n)));
    assert_eq!(bench.next(), asks("hop", 0));
    bench.grant("hop", 100);
    let attempt = bench.attempt();
    bench.queue.configure(options(), &|_| Some(true));
    let other = bench.attempt();
    assert_eq!(other.id, id(2));
    bench.outcome(&attempt, &[(0, delivered())]);
    assert_eq!(bench.next(), releases("hop", 1, report(1, 0, 99)));
    bench.outcome(&other, &[(0, delivered())]);
    bench.none();
}
