//! What operators do with messages, and how they find them.

use super::*;
use crate::{Changed, Filter, RecipientState, State};

#[test]
fn a_held_message_rests_until_it_is_released() {
    let mut bench = Bench::new();
    bench.push(to("local", 1));
    let attempt = bench.attempt();
    assert_eq!(bench.queue.hold(id(1), bench.now), Changed::Yes);
    assert_eq!(bench.queue.hold(id(1), bench.now), Changed::No);
    bench.pass(seconds(100_000));
    let verdict = bench.defer(&attempt);
    assert!(verdict.failed.is_empty() && verdict.delayed.is_empty(), "what is held does not expire: {verdict:?}");
    bench.pass(seconds(100_000));
    bench.none();
    assert_eq!((bench.queue.held(), bench.queue.retry(id(1), bench.now)), (1, Changed::No));
    assert_eq!(bench.queue.release(id(1), bench.now), Changed::Yes);
    assert_eq!(bench.queue.release(id(1), bench.now), Changed::No);
    let attempt = bench.attempt();
    assert_eq!(bench.defer(&attempt).failed.len(), 1, "it had its attempt");
}

#[test]
fn a_held_message_is_still_held_after_a_restart() {
    let mut bench = Bench::new();
    bench.push(to("local", 1));
    bench.queue.hold(id(1), bench.now);
    let mut bench = bench.restarted(to("local", 1));
    bench.none();
    assert_eq!(bench.queue.held(), 1);
    assert_eq!(bench.queue.release(id(1), bench.now), Changed::Yes);
    assert!(bench.queue.state(id(1)).is_empty());
    assert!(bench.attempt().again);
}

#[test]
fn a_retry_does_not_wait() {
    let mut bench = Bench::new();
    bench.push(to("local", 1));
    let attempt = bench.attempt();
    assert_eq!(bench.queue.retry(id(1), bench.now), Changed::No, "it is being tried");
    bench.defer(&attempt);
    assert_eq!(bench.queue.retry(id(1), bench.now), Changed::Yes);
    assert_eq!(bench.attempt().number, 2);
    assert_eq!(bench.queue.retry(id(9), bench.now), Changed::Unknown);
}

#[test]
fn what_is_dropped_is_gone_and_its_attempt_counts_until_it_is_over() {
    let mut bench = Bench::with(Options { attempts_max: 1, ..options() });
    bench.push(item(1, vec![leg("local", &[0]), leg("local-b", &[0])]));
    bench.push(to("local", 2));
    let attempt = bench.attempt();
    assert!(bench.queue.drop_message(id(1)));
    assert!(!bench.queue.drop_message(id(1)));
    assert_eq!((bench.queue.len(), bench.queue.in_flight()), (1, 1));
    bench.none();
    assert!(bench.outcome(&attempt, &[(0, delivered())]).unknown);
    assert_eq!(bench.attempt().id, id(2));
}

/// A message whose one recipient is buried.
fn buried(n: u8, bench: &mut Bench) {
    bench.push(to("local", n));
    let attempt = bench.attempt();
    assert_eq!(bench.outcome(&attempt, &[(0, failed())]).failed, [(0, nobody())]);
    assert_eq!(bench.queue.show(id(n), bench.now).map(|view| view.state), Some(State::Active), "being reported");
    assert!(!bench.queue.bury(id(n), at("local"), &[(0, nobody())]));
    assert_eq!(bench.queue.show(id(n), bench.now).map(|view| view.state), Some(State::Dead));
}

#[test]
fn dead_letters_are_kept_for_their_time_and_the_oldest_of_too_many_go() {
    let mut bench = Bench::new();
    for n in 1..=5 {
        buried(n, &mut bench);
        bench.pass(seconds(10));
        let oldest = (n > 3).then(|| forgotten(n - 3, Forgotten::DeadLetter));
        assert_eq!(bench.next(), oldest);
        bench.none();
    }
    assert_eq!((bench.queue.dead(), bench.queue.len()), (3, 3));
    for n in 3..=5 {
        assert_eq!(bench.later(), forgotten(n, Forgotten::DeadLetter), "they are not kept for ever");
        bench.none();
    }
    assert!(bench.queue.is_empty());
}

#[test]
fn a_dead_letter_lives_again() {
    let mut bench = Bench::new();
    buried(1, &mut bench);
    assert_eq!(bench.queue.hold(id(1), bench.now), Changed::No);
    assert_eq!(bench.queue.totals().destinations[0].dead_recipients, 1);
    let mut bench = bench.restarted(to("local", 1));
    bench.none();
    assert_eq!((bench.queue.dead(), bench.queue.totals().destinations[0].dead_recipients), (1, 1));
    assert_eq!(bench.queue.retry(id(1), bench.now), Changed::Yes);
    assert_eq!((bench.queue.dead(), bench.queue.totals().destinations[0].dead_recipients), (0, 0));
    assert!(bench.queue.state(id(1)).is_empty());
    let attempt = bench.attempt();
    assert!(bench.outcome(&attempt, &[(0, delivered())]).settled);
    bench.none();
    assert_eq!(bench.queue.next_due(), None);
}

#[test]
fn who_lives_again_during_an_attempt_is_not_judged_by_it() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local", &[0, 1])]));
    let attempt = bench.attempt();
    bench.outcome(&attempt, &[(0, failed())]);
    assert!(!bench.queue.bury(id(1), at("local"), &[(0, nobody())]));
    let attempt = bench.attempt_later();
    assert_eq!((attempt.recipients.as_slice(), bench.queue.retry(id(1), bench.now)), (&[1][..], Changed::Yes));
    bench.pass(seconds(3601));
    assert_eq!(bench.outcome(&attempt, &[]).failed.len(), 1);
    assert_eq!(bench.attempt().recipients, [0]);
}

#[test]
fn a_dead_letter_keeps_its_time_over_a_restart_and_steps_of_the_clock() {
    let mut bench = Bench::new();
    buried(1, &mut bench);
    bench.pass(seconds(80_000));
    let mut bench = bench.restarted(to("local", 1));
    bench.now.wall = Timestamp::from_unix_micros(WALL * 3);
    bench.none();
    bench.pass(seconds(6_000));
    bench.none();
    bench.pass(seconds(500));
    assert_eq!(bench.next(), Some(forgotten(1, Forgotten::DeadLetter)));
}

fn ids(bench: &Bench, filter: &Filter) -> Vec<u8> {
    let page = bench.queue.page(filter, None, 100, 100, bench.now);
    page.entries.iter().map(|view| view.id.to_bytes()[15]).collect()
}

#[test]
fn filters_find_what_they_say() {
    let mut bench = Bench::new();
    bench.push(NewItem { null_sender: true, sender_domain: DomainHash::of(""), ..to("local", 1) });
    let attempt = bench.attempt();
    bench.defer(&attempt);
    bench.pass(seconds(5));
    let other = NewLeg { domain: DomainHash::of("Other.Example"), ..leg("hop", &[0]) };
    bench.push(NewItem { priority: Priority::High, ..item(2, vec![other]) });
    bench.push(item(3, vec![leg("local", &[0]), NewLeg { domain: DomainHash::SEVERAL, ..leg("hop", &[1]) }]));
    bench.queue.hold(id(3), bench.now);
    let state = |state| Filter { states: vec![state], ..Filter::default() };
    let recipient = |domain| Filter { recipient_domain: Some(DomainHash::of(domain)), ..Filter::default() };
    let sender = |domain| Filter { sender_domain: Some(DomainHash::of(domain)), ..Filter::default() };
    let to = |name: &str| Filter { destination: Some(name.into()), ..Filter::default() };
    let cases = [
        (Filter::default(), vec![1, 2, 3]),
        (state(State::Deferred), vec![1]),
        (state(State::Ready), vec![2]),
        (state(State::Held), vec![3]),
        (state(State::Dead), vec![]),
        (Filter { states: vec![State::Held, State::Ready], ..Filter::default() }, vec![2, 3]),
        (Filter { priority: Some(Priority::High), ..Filter::default() }, vec![2]),
        (to("hop"), vec![2, 3]),
        (to("nowhere"), vec![]),
        (recipient("other.example"), vec![2, 3]),
        (recipient("EXAMPLE.org"), vec![1, 3]),
        (sender(""), vec![1]),
        (sender("example.com"), vec![2, 3]),
        (Filter { older_than: Some(seconds(1000)), ..Filter::default() }, vec![]),
        (Filter { newer_than: Some(seconds(1000)), ..Filter::default() }, vec![1, 2, 3]),
    ];
    for (filter, wanted) in cases {
        assert_eq!(ids(&bench, &filter), wanted, "{filter:?}");
    }
}

#[test]
fn who_is_served_somewhere_is_not_found_there() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1, 2]), leg("hop", &[0])]));
    let to = |name: &str| Filter { destination: Some(name.into()), ..Filter::default() };
    let check = |bench: &Bench, wanted: &[&str]| {
        for name in ["local-a", "local-b", "hop"] {
            let found = wanted.contains(&name);
            assert_eq!(ids(bench, &to(name)).len(), usize::from(found), "{name}");
            assert_eq!(bench.queue.fits(&to(name), id(1), bench.now), found, "{name}");
        }
    };
    check(&bench, &["local-a", "hop"]);
    let attempt = std::iter::from_fn(|| bench.next())
        .find_map(|action| if let Action::Attempt(attempt) = action { Some(attempt) } else { None })
        .expect("due");
    check(&bench, &["local-a", "hop"]);
    bench.outcome(&attempt, &[(0, delivered()), (1, moved("local-b")), (2, failed())]);
    check(&bench, &["local-a", "local-b", "hop"]);
    bench.queue.bury(id(1), at("local-a"), &[(2, nobody())]);
    check(&bench, &["local-a", "local-b", "hop"]);
    bench.queue.retry(id(1), bench.now);
    while let Some(action) = bench.next() {
        if let Action::Attempt(attempt) = action {
            let all: Vec<_> = attempt.recipients.iter().map(|number| (*number, delivered())).collect();
            bench.outcome(&attempt, &all);
        }
    }
    check(&bench, &["hop"]);
    assert!(!bench.queue.fits(&Filter::default(), id(9), bench.now), "there is no such message");
}

#[test]
fn pages_follow_each_other_and_each_is_bounded() {
    let mut bench = Bench::new();
    (0..200).rev().for_each(|n| bench.push(to(if n % 10 == 0 { "hop" } else { "local" }, n)));
    let filter = Filter { destination: Some("hop".into()), ..Filter::default() };
    let (mut after, mut found, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = bench.queue.page(&filter, after, 3, 25, bench.now);
        assert!(page.entries.len() <= 3 && page.scanned <= 25);
        found.extend(page.entries.iter().map(|view| view.id));
        pages += 1;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, (0..200).step_by(10).map(id).collect::<Vec<_>>());
    assert!((8..=10).contains(&pages), "{pages}");
    let all = bench.queue.page(&Filter::default(), None, 200, 1000, bench.now);
    assert_eq!((all.entries.len(), all.next, all.scanned), (200, None, 200));
}

#[test]
fn a_view_says_where_everything_stands() {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local-a", &[0, 1, 2]), leg("hop", &[2])]));
    let attempt = std::iter::from_fn(|| bench.next())
        .find_map(|action| if let Action::Attempt(attempt) = action { Some(attempt) } else { None })
        .expect("due");
    bench.outcome(&attempt, &[(0, delivered()), (1, deferred()), (2, failed())]);
    let view = bench.queue.show(id(1), bench.now).expect("there");
    assert_eq!((view.state, view.recipients, view.size, view.legs.len()), (State::Ready, 3, 1000, 2));
    let own = &view.legs[0];
    assert_eq!((&*own.destination, own.state, own.attempts, own.recipients), ("local-a", State::Deferred, 1, 1));
    assert!(own.due_in.is_some_and(|due| due >= seconds(10)));
    assert_eq!(own.last, Some(busy()));
    let recipients = bench.queue.recipients(id(1));
    let seen: Vec<_> = recipients.iter().map(|view| (view.number, view.destination.as_deref(), view.state)).collect();
    use RecipientState::{Done, Pending, Reporting};
    let wanted = [
        (0, Some("local-a"), Done),
        (1, Some("local-a"), Pending),
        (2, Some("hop"), Pending),
        (2, Some("local-a"), Reporting),
    ];
    assert_eq!(seen, wanted);
    let totals = bench.queue.totals();
    assert_eq!((totals.messages(), totals.of(State::Ready), totals.by_priority), (1, 1, [0, 1, 0]));
    assert_eq!(totals.oldest, Some(id(1)));
    let hop = &totals.destinations[0];
    assert_eq!((&*hop.destination, hop.ready, hop.deferred), ("hop", 1, 0));
    let own = &totals.destinations[1];
    assert_eq!((&*own.destination, own.ready, own.deferred, own.last.as_ref()), ("local-a", 0, 1, Some(&busy())));
}
