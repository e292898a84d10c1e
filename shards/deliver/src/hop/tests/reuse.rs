//! Connections that are used for several messages, and what becomes of those that wait.

use super::shard::{A_WHILE, Act, Message, patient, times};
use super::{FAREWELL, GREETING, MESSAGE, check};
use ringpost_base::Span;
use ringpost_config::HopOptions;

fn with_waits(count: usize) -> Vec<Act> {
    times(count).into_iter().flat_map(|delivery| [delivery, Act::Wait(A_WHILE)]).collect()
}

#[test]
fn a_connection_is_used_again() {
    let script = format!("{GREETING}{MESSAGE}{MESSAGE}{MESSAGE}");
    let (came, bodies) = check(patient(), &[&[&script]], times(3), &["relayed"; 3]);
    assert_eq!((came.connections, bodies[0].len()), ([1, 2, 0], 3));
}

#[test]
fn also_after_a_refusal() {
    let refused = "C MAIL\nS 250 ok\nC RCPT\nS 550 5.1.1 who?\n";
    let script = format!("{GREETING}{refused}C RSET\nS 250 ok\n{MESSAGE}");
    check(patient(), &[&[&script]], times(2), &["failed 550 5.1.1 who?", "relayed"]);
}

#[test]
fn not_after_an_answer_by_which_the_session_has_lost_its_way() {
    let lost = format!("{GREETING}C MAIL\nS 503 5.5.1 say hello first\n{FAREWELL}");
    let taken = format!("{GREETING}{MESSAGE}");
    let want = ["deferred 503 4.5.1 say hello first", "relayed"];
    check(patient(), &[&[&lost, &taken]], times(2), &want);
}

#[test]
fn messages_of_a_connection_are_counted() {
    let (two, one) = (format!("{GREETING}{MESSAGE}{MESSAGE}{FAREWELL}"), format!("{GREETING}{MESSAGE}"));
    let options = HopOptions { messages_per_connection: 2, ..patient() };
    let acts = [times(3), vec![Act::Wait(A_WHILE)]].concat();
    let (came, _) = check(options, &[&[&two, &one]], acts, &["relayed"; 3]);
    assert_eq!(came.connections, [2, 1, 0]);
}

#[test]
fn what_waits_for_too_long_is_closed() {
    let script = format!("{GREETING}{MESSAGE}{FAREWELL}");
    let options = HopOptions { idle_timeout: Span::millis(50), ..patient() };
    let (came, _) = check(options, &[&[&script, &script]], with_waits(2), &["relayed"; 2]);
    assert_eq!(came.connections, [2, 0, 0]);
}

#[test]
fn closing_says_farewell_to_those_that_wait() {
    let script = format!("{GREETING}{MESSAGE}{FAREWELL}");
    let acts = [times(1), vec![Act::Close], times(1), vec![Act::Wait(A_WHILE)]].concat();
    // What is opened afterwards is not kept.
    check(patient(), &[&[&script, &script]], acts, &["relayed"; 2]);
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_no_failure() {
    let taken = format!("{GREETING}{MESSAGE}");
    for last in ["", "S 421 4.4.2 idle for too long\n"] {
        // It is seen before it is used.
        let closed = format!("{taken}{last}");
        let (came, _) = check(patient(), &[&[&closed, &taken]], with_waits(2), &["relayed"; 2]);
        assert_eq!(came.connections, [2, 0, 0], "{last:?}");
        // It is seen when it is used.
        let closing = format!("{taken}C MAIL\n{last}");
        let (came, _) = check(patient(), &[&[&closing, &taken]], times(2), &["relayed"; 2]);
        assert_eq!(came.connections, [2, 1, 0], "{last:?}");
    }
}

#[test]
fn a_connection_that_dies_when_it_is_used_is_repeated_once() {
    // The new one may be as bad: that one counts.
    let closing = format!("{GREETING}{MESSAGE}C MAIL\n");
    let fresh = format!("{GREETING}C MAIL\n");
    let want = ["relayed", "deferred 4.4.2; hop failed"];
    let (came, _) = check(patient(), &[&[&closing, &fresh]], times(2), &want);
    assert_eq!(came.connections, [2, 1, 0]);
}

#[test]
fn a_connection_that_dies_later_counts() {
    let closing = format!("{GREETING}{MESSAGE}C MAIL\nS 250 ok\nC RCPT\n");
    check(patient(), &[&[&closing]], times(2), &["relayed", "deferred 4.4.2; hop failed"]);
}

#[test]
fn at_the_same_time_there_are_several() {
    // Whichever comes back last is used for the third message.
    let script = format!("{GREETING}{MESSAGE}MORE\n{MESSAGE}");
    let acts = [vec![Act::DeliverAll(vec![Message::default(); 2])], times(1)].concat();
    let (came, bodies) = check(patient(), &[&[&script, &script]], acts, &["relayed"; 3]);
    assert_eq!((came.connections, bodies[0].len()), ([2, 1, 0], 3));
}
