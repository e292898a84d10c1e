//! Messages whose envelope can't be read: mail that was accepted, and that nobody can deliver until somebody looks at it.

use super::*;
use crate::{Changed, Filter, State};

/// As the spool hands it over, with what the spool has for it: enough for a message with this envelope to be over.
fn found() -> NewItem {
    let mut bench = Bench::new();
    bench.push(item(1, vec![leg("local", &[0]), leg("hop", &[0])]));
    let attempt = std::iter::from_fn(|| bench.next())
        .find_map(|action| if let Action::Attempt(attempt) = action { Some(attempt) } else { None })
        .expect("due");
    bench.outcome(&attempt, &[(0, delivered())]);
    let state = bench.queue.state(id(1)).into();
    NewItem { recovered: true, state, legacy_done: vec![0], unreadable: true, ..to("local", 1) }
}

fn pushed() -> Bench {
    let mut bench = Bench::with(Options { dead_letters_max: 0, ..options() });
    let pushed = bench.queue.push(found(), bench.now);
    assert!(pushed.new && !pushed.damaged);
    bench
}

fn check_untouched(bench: &mut Bench) {
    bench.none();
    let view = bench.queue.show(id(1), bench.now).expect("it is kept");
    assert_eq!((view.state, view.recipients, view.legs.len()), (State::Dead, 0, 1));
    let reason = view.legs[0].last.as_ref().map(|reason| reason.text.to_string()).unwrap_or_default();
    assert!(reason.contains("envelope can't be read"), "{reason}");
    assert_eq!((bench.queue.dead(), bench.queue.len(), bench.queue.totals().messages()), (1, 1, 1));
}

#[test]
fn it_is_neither_tried_nor_forgotten_however_long_it_takes() {
    let mut bench = pushed();
    for _ in 0..10 {
        check_untouched(&mut bench);
        bench.pass(seconds(40 * 86_400));
    }
    assert_eq!(bench.queue.next_due(), None);
}

#[test]
fn no_order_changes_it_but_to_drop_it() {
    let mut bench = pushed();
    for order in [Queue::retry, Queue::hold, Queue::release] {
        assert_eq!(order(&mut bench.queue, id(1), bench.now), Changed::No, "so nothing is noted");
        check_untouched(&mut bench);
    }
    assert!(!bench.queue.reroute(id(1), to("hop", 1), bench.now));
    assert!(!bench.queue.reported(id(1), at("local"), &[0]));
    assert!(!bench.queue.bury(id(1), at("local"), &[(0, nobody())]));
    bench.queue.configure(options(), &|_| None);
    check_untouched(&mut bench);
    assert!(bench.queue.drop_message(id(1)));
    assert_eq!((bench.queue.dead(), bench.queue.len()), (0, 0));
}

#[test]
fn it_is_found_as_dead_and_not_at_a_destination() {
    let mut bench = pushed();
    bench.push(to("local", 2));
    let found = |filter: Filter| bench.queue.page(&filter, None, 10, 10, bench.now).entries.len();
    assert_eq!(found(Filter { states: vec![State::Dead], ..Filter::default() }), 1);
    assert_eq!(found(Filter { destination: Some("local".into()), ..Filter::default() }), 1);
    assert_eq!(found(Filter::default()), 2);
}
