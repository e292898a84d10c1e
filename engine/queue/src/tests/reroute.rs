//! What becomes of messages that wait when their routes change.

use super::*;
use crate::{Changed, RecipientState, State};

/// A message for two recipients at a next hop that is left alone.
fn waiting() -> Bench {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("hop", &[0, 1])]));
    assert!(matches!(bench.next(), Some(Action::Lease { .. })));
    bench.queue.leased("hop", Lease::Wait { span: seconds(1000), open: true }, bench.now);
    bench.none();
    bench
}

#[test]
fn who_waits_for_a_destination_that_fails_need_not_wait_to_go_elsewhere() {
    let mut bench = waiting();
    let now = NewItem { priority: Priority::High, ..item(1, vec![leg("local-a", &[0]), leg("local-b", &[0, 1])]) };
    assert!(bench.queue.reroute(id(1), now, bench.now));
    assert_eq!(bench.queue.totals().by_priority, [1, 0, 0]);
    assert_eq!(bench.queue.totals().destinations[0].ready, 0, "at the former");
    let (a, b) = (bench.attempt(), bench.attempt());
    assert_eq!((&*a.destination, a.recipients.as_slice(), a.again), ("local-a", &[0][..], false));
    assert_eq!((&*b.destination, b.recipients.as_slice()), ("local-b", &[0, 1][..]));
    bench.outcome(&a, &[(0, delivered())]);
    assert!(bench.outcome(&b, &[(0, delivered()), (1, delivered())]).settled);
    bench.none();
    assert_eq!((bench.queue.totals().by_priority, bench.queue.len()), ([0; 3], 0));
}

#[test]
fn what_is_under_way_or_unknown_is_left_as_it_is() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0]), leg("local-b", &[0])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    assert!(!bench.queue.reroute(id(1), to("hop", 1), bench.now));
    bench.outcome(&a, &[(0, deferred())]);
    assert!(!bench.queue.reroute(id(1), to("hop", 1), bench.now), "the other one is under way");
    let verdict = bench.outcome(&b, &[(0, failed())]);
    assert!(!bench.queue.reroute(id(1), to("hop", 1), bench.now), "it is being reported");
    bench.queue.reported(id(1), verdict.destination, &[0]);
    assert!(bench.queue.reroute(id(1), to("hop", 1), bench.now));
    assert!(!bench.queue.reroute(id(9), to("hop", 9), bench.now));
    assert!(matches!(bench.next(), Some(Action::Lease { .. })));
}

#[test]
fn where_a_destination_stays_its_attempts_and_its_time_do() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1]), leg("local-b", &[1])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    bench.outcome(&a, &[(0, deferred()), (1, deferred())]);
    bench.outcome(&b, &[(1, deferred())]);
    let before = bench.queue.show(id(1), bench.now).expect("there").legs[0].clone();
    let now = || item(1, vec![leg("local-c", &[1]), leg("local-a", &[0])]);
    assert!(bench.queue.reroute(id(1), now(), bench.now));
    let legs = bench.queue.show(id(1), bench.now).expect("there").legs;
    let kept = legs.iter().find(|leg| &*leg.destination == "local-a").expect("it stays");
    assert_eq!((kept.attempts, kept.due_in, &kept.last), (before.attempts, before.due_in, &before.last));
    assert_eq!((kept.recipients, legs.len()), (1, 2));
    let c = bench.attempt();
    assert_eq!((&*c.destination, c.number, c.again), ("local-c", 1, true), "it was tried elsewhere");
    bench.none();
    bench.outcome(&c, &[(1, delivered())]);
    let a = bench.attempt_later();
    assert_eq!((&*a.destination, a.recipients.as_slice(), a.number), ("local-a", &[0][..], 2));
    assert!(bench.outcome(&a, &[(0, delivered())]).settled);
}

/// Three recipients at `local-a`: one served, one dead, one put off. The sender was told of the delay.
fn mixed() -> Bench {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1, 2])]));
    bench.pass(seconds(700));
    let attempt = bench.attempt();
    let verdict = bench.outcome(&attempt, &[(0, delivered()), (1, failed()), (2, deferred())]);
    assert!(!verdict.delayed.is_empty());
    assert!(!bench.queue.bury(id(1), verdict.destination, &[(1, nobody())]));
    bench
}

#[test]
fn what_is_remembered_of_a_message_stays() {
    let mut bench = mixed();
    assert_eq!(bench.queue.hold(id(1), bench.now), Changed::Yes);
    let state = bench.queue.state(id(1));
    let now = || item(1, vec![leg("local-b", &[0, 1, 2])]);
    assert!(bench.queue.reroute(id(1), now(), bench.now));
    bench.none();
    let view = bench.queue.show(id(1), bench.now).expect("there");
    assert_eq!((view.state, view.delay_told), (State::Held, true));
    let standing: Vec<_> = bench.queue.recipients(id(1)).iter().map(|view| (view.number, view.state)).collect();
    use RecipientState::{Dead, Done, Pending};
    assert_eq!(standing, [(0, Done), (1, Dead), (2, Pending)]);
    let totals = bench.queue.totals().destinations;
    assert_eq!(totals.iter().map(|totals| totals.dead_recipients).collect::<Vec<_>>(), [0, 1]);
    assert_ne!(bench.queue.state(id(1)), state, "who is dead is so at the new destination");
    bench.queue.release(id(1), bench.now);
    let attempt = bench.attempt();
    assert_eq!((&*attempt.destination, attempt.recipients.as_slice()), ("local-b", &[2][..]));
    assert!(!bench.outcome(&attempt, &[(2, delivered())]).settled);
    assert_eq!(bench.later(), forgotten(1, Forgotten::DeadLetter));
}

#[test]
fn a_dead_letter_keeps_its_time_and_lives_again_elsewhere() {
    let mut bench = Bench::new();
    bench.push(to("local-a", 1));
    let attempt = bench.attempt();
    let verdict = bench.outcome(&attempt, &[(0, failed())]);
    bench.queue.bury(id(1), verdict.destination, &[(0, nobody())]);
    bench.pass(seconds(80_000));
    assert!(bench.queue.reroute(id(1), to("local-b", 1), bench.now));
    assert_eq!(bench.queue.dead(), 1);
    bench.none();
    assert!(bench.queue.next_due().is_some_and(|due| due.since(bench.now.tick) <= seconds(6_400)));
    assert_eq!(bench.queue.retry(id(1), bench.now), Changed::Yes);
    assert_eq!(&*bench.attempt().destination, "local-b");
}

#[test]
fn one_of_which_nothing_is_left_by_its_new_routes_is_forgotten() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0]), leg("local-b", &[0])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    bench.outcome(&a, &[(0, delivered())]);
    bench.outcome(&b, &[(0, deferred())]);
    assert!(bench.queue.reroute(id(1), to("local-a", 1), bench.now));
    assert_eq!(bench.next(), Some(forgotten(1, Forgotten::NothingLeft)));
    bench.none();
    assert!(bench.queue.is_empty());
}

#[test]
fn who_has_no_route_any_more_waits_where_it_can_be_seen() {
    let mut bench = waiting();
    assert!(bench.queue.reroute(id(1), NewItem { recipients: 2, ..item(1, vec![leg("local-a", &[0])]) }, bench.now));
    let (one, other) = (bench.attempt(), bench.attempt());
    let mut found = [(one.destination.to_string(), one.recipients), (other.destination.to_string(), other.recipients)];
    found.sort();
    assert_eq!(found, [(String::new(), vec![1]), ("local-a".to_owned(), vec![0])]);
}
