//! When messages are tried, for whom, and when they are given up.

use super::*;

/// The wait is this long, but for the units in which times are kept.
#[track_caller]
fn check_wait(verdict: &Verdict, wanted: Duration) {
    let wait = verdict.wait.expect("it is tried again");
    assert!(wait >= wanted && wait < wanted + UNIT, "{wait:?}, not {wanted:?}");
}

#[test]
fn retries_wait_longer_each_time_up_to_the_maximum() {
    let mut bench = Bench::new();
    bench.push(to("local", 1));
    for (number, wait) in (1..).zip([10, 20, 40, 60, 60]) {
        let attempt = bench.attempt_later();
        assert_eq!((attempt.number, attempt.again), (number, number > 1));
        let verdict = bench.defer(&attempt);
        check_wait(&verdict, seconds(wait));
        assert!(!verdict.settled && !verdict.state_changed);
        bench.none();
        bench.pass(seconds(wait - 1));
        bench.none();
    }
}

#[test]
fn jitter_spreads_what_failed_together() {
    let options = Options { retry_jitter_percent: 20, attempts_max: 100, retry_max: Span::seconds(10), ..options() };
    let mut bench = Bench::with(options);
    (0..100).for_each(|n| bench.push(to("local", n)));
    let mut waits: Vec<_> = (0..100)
        .map(|_| {
            let attempt = bench.attempt();
            bench.defer(&attempt).wait.expect("tried again")
        })
        .collect();
    waits.sort();
    assert!(waits[0] >= seconds(6) && waits[99] <= seconds(10) + UNIT, "{waits:?}");
    assert!(waits[99] - waits[0] > seconds(3), "{waits:?}");
}

#[test]
fn only_the_recipients_left_are_tried_again() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local", &[0, 1, 2, 3])]));
    let attempt = bench.attempt();
    assert_eq!(attempt.recipients, [0, 1, 2, 3]);
    let verdict = bench.outcome(&attempt, &[(3, delivered()), (0, deferred()), (2, delivered())]);
    assert_eq!(verdict.delivered, [(2, How::Final), (3, How::Final)]);
    assert!(verdict.state_changed && !verdict.settled && verdict.wait.is_some());
    let attempt = bench.attempt_later();
    assert_eq!(attempt.recipients, [0, 1], "one was put off, one was not named");
    assert!(bench.outcome(&attempt, &[(0, delivered()), (1, delivered())]).settled);
    assert!(bench.queue.is_empty());
}

#[test]
fn an_outcome_counts_once_and_for_its_attempt() {
    let mut bench = Bench::new();
    bench.push(to("local", 1));
    let first = bench.attempt();
    bench.none();
    assert!(bench.defer(&first).wait.is_some());
    assert!(bench.outcome(&first, &[(0, delivered())]).unknown, "it is over");
    let second = bench.attempt_later();
    assert!(bench.outcome(&first, &[(0, delivered())]).unknown, "another is under way");
    assert!(bench.outcome(&second, &[(0, delivered())]).settled);
    bench.push(to("local", 2));
    let other = bench.attempt();
    assert!(bench.outcome(&second, &[(0, delivered())]).unknown, "its record is another's now");
    assert!(bench.outcome(&other, &[(0, delivered())]).settled);
}

#[test]
fn local_attempts_are_bounded_together_and_a_message_is_queued_once() {
    let mut bench = Bench::new();
    for (destination, n) in [("local-a", 1), ("local-a", 1), ("local-a", 2), ("local-b", 3)] {
        bench.push(to(destination, n));
    }
    assert_eq!(bench.queue.len(), 3);
    let (a, b) = (bench.attempt(), bench.attempt());
    assert_eq!((&*a.destination, &*b.destination), ("local-a", "local-b"), "in turns");
    bench.none();
    assert_eq!(bench.queue.in_flight(), 2);
    bench.outcome(&b, &[(0, delivered())]);
    assert_eq!(bench.attempt().id, id(2));
}

#[test]
fn a_message_is_settled_when_all_its_legs_are_over() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1]), leg("local-b", &[1])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    assert_eq!((a.recipients.as_slice(), b.recipients.as_slice()), (&[0, 1][..], &[1][..]));
    let verdict = bench.outcome(&a, &[(0, delivered()), (1, failed())]);
    assert_eq!((verdict.failed, verdict.settled), (vec![(1, nobody())], false));
    let verdict = bench.outcome(&b, &[(1, delivered())]);
    assert_eq!((verdict.delivered, verdict.settled), (vec![(1, How::Final)], false), "a failure is not reported yet");
    assert!(!bench.queue.reported(id(1), at("local-a"), &[0]), "that one was served");
    assert!(bench.queue.reported(id(1), at("local-a"), &[1]));
    assert!(bench.queue.is_empty());
    assert!(!bench.queue.reported(id(1), at("local-a"), &[1]), "there is no such message");
}

#[test]
fn a_report_counts_for_the_destination_that_it_is_of() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0]), leg("local-b", &[0])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    let failed_at_a = bench.outcome(&a, &[(0, failed())]).destination;
    let failed_at_b = bench.outcome(&b, &[(0, failed())]).destination;
    assert_eq!((failed_at_a, failed_at_b), (at("local-a"), at("local-b")));
    assert!(!bench.queue.bury(id(1), failed_at_b, &[(0, nobody())]));
    assert!(!bench.queue.bury(id(1), failed_at_b, &[(0, nobody())]), "once");
    let dead = |bench: &Bench| {
        let totals = bench.queue.totals().destinations;
        totals.iter().map(|totals| (totals.destination.to_string(), totals.dead_recipients)).collect::<Vec<_>>()
    };
    assert_eq!(dead(&bench), [("local-a".to_owned(), 0), ("local-b".to_owned(), 1)]);
    assert!(!bench.queue.reported(id(1), failed_at_a, &[0]));
    bench.queue.retry(id(1), bench.now);
    assert_eq!(&*bench.attempt().destination, "local-b");
    bench.none();
}

#[test]
fn what_can_not_be_delivered_in_time_is_given_up_with_what_was_said_last() {
    let mut bench = Bench::with(Options { delay_notice: None, ..options() });
    bench.push(to("local", 1));
    let started = bench.now.tick;
    let verdict = loop {
        let attempt = bench.attempt_later();
        let verdict = bench.defer(&attempt);
        if verdict.wait.is_none() {
            break verdict;
        }
    };
    let lived = bench.now.tick.since(started);
    assert!(
        lived >= seconds(3600) && lived < seconds(3600) + UNIT * 2,
        "the last attempt is when it expires: {lived:?}"
    );
    assert_eq!(verdict.failed, [(0, Reason { status: Status(5, 4, 7), ..busy() })]);
    assert!(bench.queue.reported(id(1), at("local"), &[0]));
}

#[test]
fn a_message_that_comes_too_late_has_one_attempt() {
    let mut bench = Bench::new();
    bench.pass(seconds(7200));
    bench.push(to("local", 1));
    let attempt = bench.attempt();
    let verdict = bench.outcome(&attempt, &[]);
    assert_eq!(verdict.failed[0].1.to_string(), "5.4.7 delivery time expired");
}

#[test]
fn a_step_of_the_wall_clock_gives_nothing_up() {
    for wall in [0, WALL * 2] {
        let mut bench = Bench::new();
        bench.push(to("local", 1));
        bench.now.wall = Timestamp::from_unix_micros(wall);
        let attempt = bench.attempt();
        assert!(bench.defer(&attempt).failed.is_empty());
    }
}

#[test]
fn the_sender_is_told_once_that_a_message_is_late() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local", &[0, 1]), leg("next-hop", &[1])]));
    bench.push(NewItem { null_sender: true, ..to("local", 2) });
    assert!(matches!(bench.next(), Some(Action::Lease { .. })));
    bench.queue.leased("next-hop", Lease::Wait { span: seconds(100_000), open: true }, bench.now);
    let mut told = Vec::new();
    while told.is_empty() {
        match bench.next() {
            Some(Action::Attempt(attempt)) => {
                let verdict = bench.defer(&attempt);
                assert_eq!(verdict.state_changed, !verdict.delayed.is_empty());
                if !verdict.delayed.is_empty() {
                    told.push((attempt.id, verdict.delayed));
                }
            }
            Some(Action::Delay { id, recipients }) => told.push((id, recipients)),
            Some(other) => panic!("{other:?}"),
            None => bench.now.tick = bench.queue.next_due().expect("waits"),
        }
    }
    let age = bench.now.tick.nanos() / 1_000_000_000 - 5;
    assert!((600..=660).contains(&age), "{age}");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, id(1));
    assert_eq!(told[0].1.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1], "each once");
    for _ in 0..20 {
        let attempt = bench.attempt_later();
        assert!(bench.defer(&attempt).delayed.is_empty());
    }
}

#[test]
fn recipients_go_where_their_routes_lead_now() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1]), leg("local-b", &[1])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    let verdict = bench.outcome(&a, &[(0, moved("local-c")), (1, moved("local-b"))]);
    assert!(!verdict.settled && verdict.wait.is_none());
    let c = bench.attempt();
    assert_eq!((&*c.destination, c.recipients.as_slice(), c.number), ("local-c", &[0][..], 1));
    assert!(!bench.outcome(&c, &[(0, delivered())]).settled);
    let verdict = bench.outcome(&b, &[(1, delivered())]);
    assert!(verdict.settled, "to go there twice is to go there once: {verdict:?}");
}

#[test]
fn recipients_move_to_every_destination_of_their_new_route() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1])]));
    let a = bench.attempt();
    let outcomes = [(0, moved("local-b")), (0, moved("local-c")), (1, moved("local-c")), (1, moved("local-a"))];
    assert!(!bench.outcome(&a, &outcomes).settled);
    let (b, c) = (bench.attempt(), bench.attempt());
    assert_eq!((&*b.destination, b.recipients.as_slice()), ("local-b", &[0][..]));
    assert_eq!((&*c.destination, c.recipients.as_slice()), ("local-c", &[0, 1][..]));
    assert!(!bench.outcome(&b, &[(0, delivered())]).settled);
    assert!(bench.outcome(&c, &[(0, delivered()), (1, delivered())]).settled);
}

#[test]
fn recipients_do_not_move_to_where_they_were_served() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0]), leg("local-b", &[0, 1])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    bench.outcome(&a, &[(0, delivered())]);
    assert!(!bench.outcome(&b, &[(0, moved("local-a")), (1, deferred())]).settled);
    let attempt = bench.attempt_later();
    assert_eq!((&*attempt.destination, attempt.recipients.as_slice()), ("local-b", &[1][..]));
    assert!(bench.outcome(&attempt, &[(1, delivered())]).settled);
}

#[test]
fn who_moves_to_where_an_attempt_is_under_way_is_not_judged_by_it() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0]), leg("local-b", &[1])]));
    let (a, b) = (bench.attempt(), bench.attempt());
    bench.outcome(&a, &[(0, moved("local-b"))]);
    bench.pass(seconds(3601));
    let verdict = bench.outcome(&b, &[(1, deferred())]);
    assert_eq!(verdict.failed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
    let attempt = bench.attempt();
    assert_eq!((&*attempt.destination, attempt.recipients.as_slice()), ("local-b", &[0][..]));
}

#[test]
fn routes_that_lead_back_and_forth_are_no_loop_without_rest() {
    let mut bench = Bench::new();
    bench.push(to("local-a", 1));
    let started = bench.now.tick;
    for n in 0..20 {
        let attempt = bench.attempt_later();
        bench.outcome(&attempt, &[(0, moved(["local-b", "local-a"][n % 2]))]);
    }
    assert!(bench.now.tick.since(started) > seconds(150));
}

#[test]
fn a_recipient_that_no_leg_leads_to_is_not_left_out() {
    let mut bench = Bench::new();
    bench.push(NewItem { recipients: 3, ..item(1, vec![leg("local-a", &[0])]) });
    let (a, nowhere) = (bench.attempt(), bench.attempt());
    assert_eq!((&*nowhere.destination, nowhere.recipients.as_slice()), ("", &[1, 2][..]));
    bench.outcome(&a, &[(0, delivered())]);
    bench.outcome(&nowhere, &[(1, moved("local-a")), (2, failed())]);
    let attempt = bench.attempt();
    assert_eq!(attempt.recipients, [1]);
    bench.outcome(&attempt, &[(1, delivered())]);
    assert!(bench.queue.reported(id(1), at(""), &[2]));
}

#[test]
fn a_high_priority_that_never_ends_does_not_starve_a_low_one() {
    let mut bench = Bench::new();
    bench.push(NewItem { priority: Priority::Low, ..to("local", 0) });
    for n in 1..=30 {
        bench.push(NewItem { priority: Priority::High, ..to("local", n) });
        bench.push(NewItem { priority: Priority::High, ..to("local", n + 100) });
        let attempt = bench.attempt();
        bench.outcome(&attempt, &[(0, delivered())]);
        if attempt.id == id(0) {
            return assert!(n <= 10, "its turn came after {n}");
        }
    }
    panic!("its turn did not come");
}

#[test]
fn a_million_that_are_due_at_once_do_not_stop_what_is_new() {
    let mut bench = Bench::with(Options { attempts_max: usize::MAX, retry_jitter_percent: 0, ..options() });
    let many = |n: u32| NewItem { id: SpoolId::from_bytes(u128::from(n).to_be_bytes()), ..to("local-a", 0) };
    bench.now.wall = Timestamp::default();
    for n in 0..20_000 {
        bench.push(many(n));
        let attempt = bench.attempt();
        bench.defer(&attempt);
    }
    bench.pass(seconds(20));
    bench.push(to("local-b", 1));
    let others = std::iter::from_fn(|| match bench.next() {
        Some(Action::Attempt(attempt)) if attempt.id == id(1) => None,
        other => other,
    });
    assert!(others.take(100).count() <= 1, "lanes have their turns");
    let mut left = 0;
    while bench.next().is_some() || bench.queue.next_due().is_some_and(|due| due <= bench.now.tick) {
        left = bench.queue.in_flight();
    }
    assert_eq!(left, 20_001, "and nothing is forgotten");
}
