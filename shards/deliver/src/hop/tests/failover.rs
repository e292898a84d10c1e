//! Which server is tried, and which is tried next.

use super::server::Server;
use super::shard::{A_WHILE, Act, Message, hasty, host, patient, place, play, times};
use super::{GREETING, MESSAGE, check};
use ringpost_config::{HopHost, HopOptions, HopPlace, TargetKind};
use std::net::TcpListener;

/// A port that nobody listens on.
fn closed_port() -> HopPlace {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    HopPlace::Tcp { host: "127.0.0.1".into(), port: listener.local_addr().expect("bound").port() }
}

/// A message over a connection that is used only once.
fn taken() -> String {
    format!("{GREETING}{MESSAGE}")
}

#[test]
fn the_next_server_is_tried_if_the_first_does_not_work() {
    let mail = format!("{GREETING}C MAIL\n");
    let rcpt = format!("{mail}S 250 ok\nC RCPT\n");
    let data = format!("{rcpt}S 250 ok\nC DATA\n");
    for first in [
        "",
        "S 554 5.3.2 no",
        "S 450 4.3.2 busy",
        "S 421 4.3.2 closing",
        "S 220 mx\nC EHLO\nS 421 4.3.2 closing",
        "S 220 mx\nC EHLO\nS 500 what?\nC HELO\nS 500 what?",
        "S this is no banner",
        &format!("{mail}S 421 4.3.2 closing"),
        &mail,
        &format!("{rcpt}S 421 4.3.2 closing"),
        &rcpt,
        &format!("{data}S 421 4.3.2 closing"),
        &data,
    ] {
        let (came, _) = check(patient(), &[&[first], &[&taken()]], times(1), &["relayed"]);
        assert_eq!(came.connections[1], 0, "{first:?}");
    }
}

#[test]
fn a_server_that_hangs_is_left_for_the_next() {
    let (banner, mail) = ("HANG", format!("{GREETING}C MAIL\nHANG"));
    for first in [banner, &mail] {
        check(hasty(), &[&[first], &[&taken()]], times(1), &["relayed"]);
    }
}

#[test]
fn a_message_that_was_sent_to_its_end_is_not_given_to_another_server() {
    let sent = format!("{GREETING}{}", MESSAGE.replace("S 250 2.0.0 taken\n", ""));
    let silent = format!("{sent}HANG");
    // The other server has no script: it is not to be connected to.
    check(hasty(), &[&[&silent], &[]], times(1), &["deferred 4.4.2; hop failed"]);
    check(patient(), &[&[&sent], &[]], times(1), &["deferred 4.4.2; hop failed"]);
}

#[test]
fn a_refusal_of_the_message_is_not_carried_to_another_server() {
    let refused = format!("{GREETING}C MAIL\nS 550 5.7.1 no\n");
    check(patient(), &[&[&refused], &[]], times(1), &["failed 550 5.7.1 no"]);
}

#[test]
fn at_most_four_servers_are_tried_at_a_time() {
    let dead: &[&str] = &["S 554 no"];
    let servers = [dead, dead, dead, dead, &[]];
    check(patient(), &servers, times(1), &["deferred 554 4.3.2 no; hop failed"]);
}

#[test]
fn a_server_that_failed_is_put_aside() {
    let once = HopOptions { messages_per_connection: 1, ..patient() };
    let taken = taken();
    // Without it the second message would go to the first server again.
    check(once, &[&["S 554 no"], &[&taken, &taken, &taken]], times(3), &["relayed"; 3]);
}

#[test]
fn a_server_that_failed_is_tried_where_there_is_no_other() {
    check(patient(), &[&["S 554 no", &taken()]], times(2), &["deferred 554 4.3.2 no; hop failed", "relayed"]);
}

/// A client that waits for the delivery gives up before our own timeouts do, and comes again.
#[test]
fn a_server_that_hung_until_the_delivery_was_given_up_is_put_aside() {
    let once = HopOptions { messages_per_connection: 1, ..patient() };
    let (taken, sent) = (taken(), format!("{GREETING}{}", MESSAGE.replace("S 250 2.0.0 taken\n", "")));
    for hanging in ["HANG", &format!("{GREETING}C MAIL\nHANG"), &format!("{sent}HANG")] {
        let acts = [vec![Act::GiveUp(Message::default(), A_WHILE)], times(2)].concat();
        check(once.clone(), &[&[hanging], &[&taken, &taken]], acts, &["given up", "relayed", "relayed"]);
    }
}

/// Connects to servers of these weights, for each delivery anew; each is to be used so often.
fn check_weights(weights: &[(u32, usize)]) {
    let taken = taken();
    let scripts = |count: &usize| vec![taken.as_str(); *count];
    let servers: Vec<Server> = weights.iter().map(|(_, count)| Server::start(&scripts(count))).collect();
    let hosts: Vec<HopHost> =
        servers.iter().zip(weights).map(|(server, (weight, _))| host(place(server), *weight)).collect();
    let options = HopOptions { hosts, messages_per_connection: 1, ..patient() };
    let deliveries = weights.iter().map(|(_, count)| count).sum();
    let came = play(TargetKind::Smtp(options), times(deliveries));
    assert_eq!(came.deliveries, vec!["relayed"; deliveries], "{weights:?}");
    // Each server checks that its scripts were used up.
    servers.into_iter().for_each(|server| drop(server.end()));
}

#[test]
fn servers_are_used_by_their_weights() {
    check_weights(&[(1, 2), (1, 2)]);
    check_weights(&[(2, 4), (1, 2)]);
    check_weights(&[(1, 3), (0, 0)]);
}

#[test]
fn a_reserve_is_used_when_all_others_have_failed() {
    let taken = taken();
    let reserve = Server::start(&[&taken]);
    let hosts = vec![host(place(&reserve), 0), host(closed_port(), 1), host(closed_port(), 2)];
    let came = play(TargetKind::Smtp(HopOptions { hosts, ..patient() }), times(1));
    assert_eq!((came.deliveries, came.connections), (vec!["relayed".to_owned()], [1, 0, 2]));
    reserve.end();
}

#[test]
fn names_are_looked_up() {
    let server = Server::start(&[&taken()]);
    let HopPlace::Tcp { port, .. } = place(&server) else { panic!("it is on TCP") };
    let named = |name: &str| host(HopPlace::Tcp { host: name.into(), port }, 1);
    // Nobody answers questions here; this machine is known without.
    let hosts = vec![named("mx.example.invalid"), named("LocalHost")];
    let came = play(TargetKind::Smtp(HopOptions { hosts, ..patient() }), times(1));
    assert_eq!((came.deliveries, came.connections), (vec!["relayed".to_owned()], [1, 0, 1]));
    server.end();
    let hosts = vec![named("mx.example.invalid")];
    let came = play(TargetKind::Smtp(HopOptions { hosts, ..patient() }), times(1));
    assert_eq!(came.deliveries, ["deferred 4.4.3; hop failed"]);
}

#[test]
fn nobody_there() {
    let hosts = vec![host(closed_port(), 1), host(HopPlace::Unix("/nowhere/at/all".into()), 1)];
    let came = play(TargetKind::Lmtp(HopOptions { hosts, ..patient() }), times(1));
    assert_eq!((came.deliveries, came.connections), (vec!["deferred 4.4.1; hop failed".to_owned()], [0, 0, 2]));
    let came = play(TargetKind::Smtp(patient()), vec![Act::Close, times(1).remove(0)]);
    assert_eq!(came.deliveries, ["deferred 4.3.0"]);
}
