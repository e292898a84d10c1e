//! What the spool keeps of a message, and what a restart makes of it.

use super::*;

fn check_restart(bench: &Bench, item: NewItem, wanted: &[(&str, &[u32])]) {
    let mut bench = bench.restarted(item);
    let mut found = Vec::new();
    while let Some(action) = bench.next() {
        match action {
            Action::Attempt(attempt) => {
                assert!(attempt.again);
                found.push((attempt.destination.to_string(), attempt.recipients.clone()));
                bench.outcome(&attempt, &[]);
            }
            Action::Lease { destination, .. } => bench.grant(&destination, 10),
            _ => {}
        }
    }
    found.sort();
    let wanted: Vec<_> = wanted.iter().map(|(name, numbers)| (name.to_string(), numbers.to_vec())).collect();
    assert_eq!(found, wanted);
}

/// Two recipients at `local-a`, of whom the second is served, and the first at `local-b`, where it is put off.
fn half_done() -> Bench {
    let mut bench = Bench::new();
    bench.push(routed_before());
    let (a, b) = (bench.attempt(), bench.attempt());
    assert!(bench.outcome(&a, &[(0, deferred()), (1, delivered())]).state_changed);
    bench.outcome(&b, &[(0, deferred())]);
    bench
}

fn routed_before() -> NewItem {
    item(1, vec![leg("local-a", &[0, 1]), leg("local-b", &[0])])
}

#[test]
fn what_was_done_is_not_done_again() {
    check_restart(&half_done(), routed_before(), &[("local-a", &[0]), ("local-b", &[0])]);
}

#[test]
fn who_is_done_with_is_not_sent_elsewhere_by_other_routes() {
    let routed_now = item(1, vec![leg("local-c", &[0, 1])]);
    check_restart(&half_done(), routed_now, &[("local-c", &[0])]);
}

#[test]
fn who_was_served_at_one_of_two_destinations_is_not_served_there_again() {
    let mut bench = half_done();
    let attempt = bench.attempt_later();
    assert_eq!((&*attempt.destination, attempt.recipients.as_slice()), ("local-a", &[0][..]));
    bench.outcome(&attempt, &[(0, delivered())]);
    check_restart(&bench, routed_before(), &[("local-b", &[0])]);
    let routed_now = item(1, vec![leg("local-a", &[0, 1]), leg("local-c", &[0])]);
    check_restart(&bench, routed_now, &[("local-c", &[0])]);
}

#[test]
fn who_is_being_reported_is_tried_again_and_who_is_reported_is_not() {
    let mut bench = Bench::new();
    let two = || item(1, vec![leg("local-a", &[0, 1])]);
    bench.push(two());
    let attempt = bench.attempt();
    bench.outcome(&attempt, &[(0, failed()), (1, deferred())]);
    check_restart(&bench, two(), &[("local-a", &[0, 1])]);
    assert!(!bench.queue.reported(id(1), at("local-a"), &[0]));
    check_restart(&bench, two(), &[("local-a", &[1])]);
}

#[test]
fn who_is_buried_stays_so_whatever_the_routes() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1])]));
    let attempt = bench.attempt();
    bench.outcome(&attempt, &[(0, failed()), (1, deferred())]);
    assert!(!bench.queue.bury(id(1), at("local-a"), &[(0, nobody())]));
    check_restart(&bench, item(1, vec![leg("local-a", &[0, 1])]), &[("local-a", &[1])]);
    let routed_now = item(1, vec![leg("local-c", &[0]), leg("local-a", &[1])]);
    check_restart(&bench, routed_now.clone(), &[("local-a", &[1])]);
    let mut bench = bench.restarted(routed_now);
    let attempt = bench.attempt();
    assert!(!bench.outcome(&attempt, &[(1, delivered())]).settled);
    assert_eq!(bench.queue.dead(), 1);
    bench.queue.retry(id(1), bench.now);
    assert_eq!(&*bench.attempt().destination, "local-c");
}

#[test]
fn a_notice_of_delay_is_not_repeated_after_a_restart() {
    let mut bench = Bench::new();
    bench.push(to("local", 1));
    bench.pass(seconds(700));
    let attempt = bench.attempt();
    assert_eq!(bench.defer(&attempt).delayed, [(0, busy())]);
    let mut bench = bench.restarted(to("local", 1));
    let attempt = bench.attempt();
    assert!(bench.defer(&attempt).delayed.is_empty());
}

#[test]
fn a_message_of_which_nothing_is_left_is_forgotten_at_once() {
    let mut bench = Bench::new();
    bench.push(NewItem { recovered: true, legacy_done: vec![0, 7], ..to("local", 1) });
    assert_eq!(bench.next(), Some(forgotten(1, Forgotten::NothingLeft)));
    bench.none();
    assert!(bench.queue.is_empty());
}

#[test]
fn recipients_done_by_the_first_format_are_done() {
    let mut bench = Bench::new();
    let legs = vec![leg("local-a", &[0, 1, 2, 3])];
    bench.push(NewItem { recovered: true, legacy_done: vec![2, 9], ..item(1, legs) });
    let attempt = bench.attempt();
    assert_eq!((attempt.recipients.as_slice(), attempt.again), (&[0, 1, 3][..], true));
}

#[test]
fn a_damaged_state_is_taken_as_none_and_said() {
    let mut bench = Bench::new();
    let pushed = bench.queue.push(NewItem { state: [9, 9, 9].into(), recovered: true, ..to("local", 1) }, bench.now);
    assert!(pushed.new && pushed.damaged);
    assert_eq!(bench.attempt().recipients, [0]);
}
