//! What shards are granted, and in which order.

use super::*;
use ringpost_base::Span;

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const C: ShardId = ShardId(2);

fn at(millis: u64) -> Tick {
    Tick::from_nanos(millis * 1_000_000)
}

fn owner(options: DestinationOptions) -> Destinations {
    let mut owner = Destinations::new();
    owner.configure([("hop".into(), options)].into_iter());
    owner
}

fn of(concurrency: u32) -> DestinationOptions {
    DestinationOptions { concurrency, lease_messages: 10, ..DestinationOptions::default() }
}

const GRANTED: Lease = Lease::Granted { messages: 10 };
const NONE: LeaseReport = LeaseReport { delivered: 0, hop_failures: 0, unused: 0 };
const FAILURE: LeaseReport = LeaseReport { hop_failures: 1, ..NONE };
const SUCCESS: LeaseReport = LeaseReport { delivered: 1, ..NONE };

fn in_use(owner: &Destinations) -> u32 {
    owner.view(at(0))[0].in_use
}

#[test]
fn slots_are_shared_by_all_shards() {
    let mut owner = owner(of(2));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(B, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(C, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(1)), [C]);
    assert_eq!(owner.lease(C, "hop", 0, at(2)), GRANTED);
    assert_eq!(owner.lease(A, "other", 0, at(2)), Lease::Unknown);
}

#[test]
fn a_free_slot_goes_to_who_has_waited_for_the_longest() {
    let mut owner = owner(of(1));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(B, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.lease(C, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(1)), [B]);
    assert_eq!(owner.lease(A, "hop", 0, at(1)), Lease::Busy, "who gave it back does not get it before B");
    assert_eq!(owner.lease(C, "hop", 0, at(1)), Lease::Busy);
    assert_eq!(owner.lease(B, "hop", 0, at(2)), GRANTED);
    assert_eq!(owner.release(B, "hop", 1, SUCCESS, at(3)), [C]);
    assert_eq!(owner.lease(C, "hop", 0, at(3)), GRANTED);
    assert_eq!(owner.release(C, "hop", 1, SUCCESS, at(4)), [A]);
}

#[test]
fn a_shard_that_was_told_and_does_not_come_loses_its_turn() {
    let mut owner = owner(of(1));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(B, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(1)), [B]);
    assert_eq!(owner.lease(C, "hop", 0, at(500)), Lease::Busy);
    assert_eq!(owner.lease(C, "hop", 0, at(1500)), GRANTED);
}

#[test]
fn lost_news_of_a_free_slot_does_not_keep_the_next_one_from_the_others() {
    let mut owner = owner(of(2));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(A, "hop", 1, at(0)), GRANTED);
    assert_eq!(owner.lease(B, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.lease(C, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(1)), [B]);
    assert_eq!(owner.lease(A, "hop", 1, at(2)), Lease::Busy, "it is promised");
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(2000)), [C, A], "and B did not hear of it");
    assert_eq!(owner.lease(C, "hop", 0, at(2001)), GRANTED);
}

#[test]
fn a_shard_that_does_not_want_its_turn_passes_it_on() {
    let mut owner = owner(of(1));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(B, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.lease(C, "hop", 0, at(0)), Lease::Busy);
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(1)), [B]);
    assert_eq!(owner.release(B, "hop", 0, NONE, at(2)), [C]);
    assert_eq!(owner.lease(C, "hop", 0, at(2)), GRANTED);
}

#[test]
fn a_lost_grant_is_found_out_by_the_next_question() {
    let mut owner = owner(of(2));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(A, "hop", 0, at(1000)), GRANTED, "it says that it has none");
    assert_eq!(in_use(&owner), 1);
    assert_eq!(owner.lease(A, "hop", 1, at(1000)), GRANTED);
    assert_eq!(in_use(&owner), 2);
    assert_eq!(owner.release(A, "hop", 9, NONE, at(1000)), [], "more than it had");
    assert_eq!(in_use(&owner), 0);
}

#[test]
fn a_rate_bounds_what_leases_are_for_and_what_is_unused_comes_back() {
    let options = DestinationOptions { messages_per_minute: Some(60), lease_messages: 100, ..of(100) };
    let mut owner = owner(options);
    let mut granted = 0;
    while let Lease::Granted { messages } = owner.lease(A, "hop", 0, at(0)) {
        assert!(messages <= 7, "others are to have their share");
        granted += messages;
    }
    assert_eq!(granted, 60);
    assert_eq!(owner.lease(A, "hop", 0, at(0)), Lease::Wait { span: Duration::from_secs(1), open: false });
    assert_eq!(owner.lease(B, "hop", 0, at(1000)), Lease::Granted { messages: 1 });
    owner.release(B, "hop", 1, LeaseReport { unused: 50, ..NONE }, at(1000));
    assert_eq!(owner.lease(C, "hop", 0, at(1000)), Lease::Granted { messages: 1 }, "no more than it was given");
    assert_eq!(owner.view(at(1000))[0].rate_left, Some(0));
}

#[test]
fn a_destination_that_fails_is_left_alone_and_then_tried_by_one() {
    let options = DestinationOptions { breaker_failures: 2, breaker_pause: Span::seconds(10), ..of(5) };
    let mut owner = owner(options);
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(A, "hop", 1, at(0)), GRANTED);
    owner.release(A, "hop", 1, FAILURE, at(0));
    owner.release(A, "hop", 1, FAILURE, at(0));
    assert_eq!(owner.lease(B, "hop", 0, at(4000)), Lease::Wait { span: Duration::from_secs(6), open: true });
    assert_eq!(owner.lease(B, "hop", 0, at(10_000)), Lease::Granted { messages: 1 });
    assert_eq!(owner.lease(A, "hop", 0, at(10_000)), Lease::Busy);
    assert_eq!(owner.view(at(10_000))[0].breaker, BreakerState::HalfOpen);
    assert_eq!(owner.release(B, "hop", 1, FAILURE, at(11_000)), [A], "it asks, and learns how long it is to wait");
    assert_eq!(owner.lease(A, "hop", 0, at(11_000)), Lease::Wait { span: Duration::from_secs(20), open: true });
    assert_eq!(owner.lease(A, "hop", 0, at(31_000)), Lease::Granted { messages: 1 });
    assert_eq!(owner.lease(B, "hop", 0, at(31_000)), Lease::Busy);
    assert_eq!(owner.release(A, "hop", 1, SUCCESS, at(31_000)), [B]);
    assert_eq!(owner.lease(B, "hop", 0, at(31_000)), GRANTED);
}

#[test]
fn a_destination_that_was_set_up_anew_is_not_left_alone_any_more() {
    let options = DestinationOptions { breaker_failures: 1, ..of(2) };
    let mut owner = owner(options.clone());
    assert!(matches!(owner.lease(ShardId(1), "hop", 0, at(0)), Lease::Granted { .. }));
    owner.release(ShardId(1), "hop", 1, LeaseReport { hop_failures: 1, ..LeaseReport::default() }, at(0));
    assert!(matches!(owner.lease(ShardId(1), "hop", 0, at(1)), Lease::Wait { open: true, .. }));
    assert!(owner.configure([("hop".into(), options.clone())].into_iter()).is_empty(), "as it was");
    assert!(matches!(owner.lease(ShardId(1), "hop", 0, at(2)), Lease::Wait { open: true, .. }));
    owner.renew("hop");
    assert!(matches!(owner.lease(ShardId(1), "hop", 0, at(3)), Lease::Granted { .. }));
    let other = DestinationOptions { concurrency: 3, ..options };
    assert_eq!(owner.configure([("hop".into(), other)].into_iter()), [Rc::from("hop")]);
}

#[test]
fn a_destination_that_is_gone_is_forgotten_when_its_last_slot_is_back() {
    let mut owner = owner(of(1));
    assert_eq!(owner.lease(A, "hop", 0, at(0)), GRANTED);
    assert_eq!(owner.lease(B, "hop", 0, at(0)), Lease::Busy);
    owner.configure([("new".into(), of(1))].into_iter());
    assert_eq!(owner.lease(C, "hop", 0, at(0)), Lease::Unknown);
    assert_eq!(owner.view(at(0)).len(), 1);
    assert_eq!(owner.by_name.len(), 2);
    assert_eq!(owner.release(A, "hop", 1, NONE, at(1)), [B], "to learn that it is gone");
    assert_eq!(owner.by_name.len(), 1);
    owner.configure([("hop".into(), of(3))].into_iter());
    assert_eq!(owner.lease(A, "hop", 0, at(2)), GRANTED);
}
