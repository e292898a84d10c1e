//! Next hops by SMTP: a real Postfix, a second server of ours, and hops that misbehave.

use crate::support::authority::{Authority, Issued};
use crate::support::hop::{Answer, Hop, Manner, Manners, Moment};
use crate::support::net::{client_address, free_port, own_address};
use crate::support::postfix::Postfix;
use crate::support::queue::{SENDERS, hasty, in_state, last_reason, queue, report, target};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::unbound::{Names, Unbound};
use crate::support::{eventually, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const ALICE: &str = "alice@example.com";

/// Mail for example.com goes to the target `hop` with these hosts.
fn to(hosts: &[SocketAddr], lines: &[&str]) -> Settings {
    with_target(hasty(), &hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), lines).domain_to(
        "example.com",
        "\"hop\"",
        &[],
    )
}

fn with_target(settings: Settings, hosts: &[String], lines: &[&str]) -> Settings {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
    let hosts = format!("hosts = [{}]", hosts.join(", "));
    settings.target("hop", "smtp", &[&[hosts.as_str()], lines].concat())
}

/// So many messages over one session; gives their ids.
fn send(server: &Server, count: usize) -> Vec<String> {
    let mut client = Client::hello(server.smtp());
    let ids = (0..count).map(|number| client.deliver("a@sender.example", &[ALICE], &numbered(number))).collect();
    client.quit();
    ids
}

fn numbered(number: usize) -> Vec<u8> {
    message(&format!("number{number}"), "x\r\n")
}

/// Waits until a message has been put off, for this reason.
#[track_caller]
fn wait_for_reason(server: &Server, id: &str, words: &[&str]) {
    let mut last = String::new();
    let found = eventually(|| {
        last = last_reason(server, id);
        words.iter().all(|word| last.contains(word)).then_some(())
    });
    assert!(found.is_some(), "not {words:?} but {last:?}");
}

/// An authority, and a certificate that it made for `postfix.example.net`.
fn certified() -> (tempfile::TempDir, Authority, Issued) {
    let folder = tempfile::Builder::new().prefix("ringpost-test-").tempdir().expect("a folder");
    // Postfix reads it as a user of its own.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("may be set");
    let authority = Authority::new(folder.path());
    let issued = authority.server("postfix", "ec", &["postfix.example.net"]);
    (folder, authority, issued)
}

fn verified(authority: &Authority) -> [String; 3] {
    let ca = format!("tls_ca = \"{}\"", authority.cert().display());
    ["tls = \"verified\"".into(), ca, "tls_name = \"postfix.example.net\"".into()]
}

/// Us, a Postfix that has TLS, and behind it another of us, which keeps what comes.
#[test]
fn a_real_postfix_is_a_next_hop_over_verified_tls() {
    let (_folder, authority, issued) = certified();
    let stranger = tempfile::tempdir().expect("a folder");
    let stranger = Authority::new(stranger.path());
    let last = Server::start(Settings::default());
    // The first of these two has CHUNKING, the second has not, so that dots are stuffed.
    let tls = format!(
        "smtpd_tls_security_level = encrypt\nsmtpd_tls_loglevel = 1\nsmtpd_tls_received_header = yes\n\
         smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
        issued.cert.display(),
        issued.key.display()
    );
    let postfix = Postfix::start(last.smtp(), &tls);
    let plain = Postfix::start(last.smtp(), &format!("{tls}smtpd_discard_ehlo_keywords = chunking\n"));
    let lines_of = |authority: &Authority| verified(authority).map(|line| line);
    let wrong = lines_of(&stranger);
    let mut server = Server::start(to(&[postfix.smtp], &wrong.each_ref().map(String::as_str)));
    let bodies = [".\r\n..\r\n.leading\r\n\r\n.\r\n".to_owned(), String::new(), lines(1, 3_000), lines(2, 600_000)];
    let sent: Vec<Vec<u8>> = (0..).zip(&bodies).map(|(number, body)| message(&format!("m{number}"), body)).collect();
    let mut client = Client::hello(server.smtp());
    let id = client.deliver("a@sender.example", &[ALICE], &sent[0]);
    wait_for_reason(&server, &id, &["4.7.5", "certificate"]);
    assert_eq!(last.maildir("example.com/alice").count(), 0);
    // The right authority: what waits goes by itself.
    let right = lines_of(&authority);
    let right = right.each_ref().map(String::as_str);
    server.reconfigure(|settings| with_target(settings, &[postfix.smtp.to_string()], &right));
    server.tell(&["reload"]).ok();
    last.maildir("example.com/alice").only();
    sent[1..].iter().for_each(|message| drop(client.deliver("a@sender.example", &[ALICE], message)));
    last.maildir("example.com/alice").wait_for(sent.len());
    server.reconfigure(|settings| with_target(settings, &[plain.smtp.to_string()], &right));
    server.tell(&["reload"]).ok();
    sent.iter().for_each(|message| drop(client.deliver("a@sender.example", &[ALICE], message)));
    let stored = last.maildir("example.com/alice").wait_for(2 * sent.len());
    for (number, body) in bodies.iter().enumerate() {
        let subject = format!("\r\nSubject: m{number}\r\n");
        let fits = |bytes: &[u8]| bytes.windows(subject.len()).any(|window| window == subject.as_bytes());
        let own: Vec<_> = stored.iter().filter(|stored| fits(&stored.bytes)).collect();
        assert!(own.len() == 2 && own.iter().all(|stored| stored.body() == body.as_bytes()), "m{number}");
        let text = String::from_utf8_lossy(&own[0].bytes).into_owned();
        assert!(text.contains("Received: from mx.example.com ") && text.contains("using TLSv1.3 "), "{text}");
    }
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 0);
}

#[test]
fn tls_is_used_as_the_target_says() {
    let (folder, authority, issued) = certified();
    let other = authority.server("other", "ec", &["other.example.net"]);
    let secure = Manner::default().secure(&issued).start(|_| Answer::Usual);
    let named = Manner::default().secure(&other).start(|_| Answer::Usual);
    let clear = Hop::obliging();
    let verified = verified(&authority);
    let verified = verified.each_ref().map(String::as_str);
    let mut server = Server::start(to(&[clear.address], &["tls = \"opportunistic\""]));
    let mut client = Client::hello(server.smtp());
    for (hop, lines, came) in [
        (&clear, &["tls = \"opportunistic\""][..], Ok(false)),
        (&secure, &["tls = \"opportunistic\""], Ok(true)),
        (&secure, &["tls = \"off\""], Ok(false)),
        (&secure, &["tls = \"required\""], Ok(true)),
        (&secure, &verified[..], Ok(true)),
        // It is not offered, is for another name, or made by nobody known.
        (&clear, &["tls = \"required\""], Err(&["4.7."][..])),
        (&clear, &verified[..], Err(&["4.7."])),
        (&named, &verified[..], Err(&["4.7.5", "postfix.example.net"])),
        (&secure, &["tls = \"verified\"", "tls_name = \"postfix.example.net\""], Err(&["4.7.5", "certificate"])),
    ] {
        server.reconfigure(|settings| with_target(settings, &[hop.address.to_string()], lines));
        server.tell(&["reload"]).ok();
        let before = hop.count();
        let id = client.deliver("a@sender.example", &[ALICE], &message("tls", "x\r\n"));
        match came {
            Ok(tls) => assert_eq!(hop.wait_for(before + 1)[before].secure, tls, "{lines:?}"),
            Err(words) => {
                wait_for_reason(&server, &id, words);
                assert_eq!(hop.count(), before, "{lines:?}");
                server.tell(&["queue", "drop", &id]).ok();
            }
        }
        server.wait_until_delivered();
    }
    drop(folder);
}

/// Two servers of ours: the second takes as much as the first gives it, in chunks, over few connections.
#[test]
fn connections_are_kept_for_further_messages() {
    let last = Server::start(Settings::default());
    let lines = ["tls = \"required\"", "concurrency = 1", "messages_per_connection = 30", "idle_timeout = \"1m\""];
    let mut server = Server::start(to(&[last.smtp()], &lines));
    send(&server, 25);
    last.maildir("example.com/alice").wait_for(25);
    server.wait_until_delivered();
    let counts = |server: &Server| {
        let metrics = server.metrics();
        ["opened", "reused", "failed"]
            .map(|how| metrics.sum("ringpost_hop_connections_total", &format!("outcome=\"{how}\"")))
    };
    assert_eq!(counts(&server), [1, 24, 0]);
    // After so many messages a connection has done enough.
    send(&server, 10);
    let stored = last.maildir("example.com/alice").wait_for(35);
    server.wait_until_delivered();
    assert_eq!(counts(&server), [2, 33, 0]);
    assert!(stored.iter().all(|stored| stored.trace().contains("Received: from mx.example.com ([127.0.0.1])")));
    // A next hop that is started again has closed them all.
    let mut last = last;
    last.stop();
    last.start_again();
    send(&server, 1);
    last.maildir("example.com/alice").wait_for(36);
    server.wait_until_delivered();
    assert_eq!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"deferred\""), 0);
    // Whoever stops says farewell to them.
    server.stop();
    last.wait_for_metric("ringpost_sessions_open", 0);
}

#[test]
fn another_host_takes_the_place_of_one_that_is_closed() {
    let (closed, second) = (free_port(own_address()), Hop::obliging());
    let server = Server::start(to(&[closed, second.address], &[]));
    send(&server, 20);
    second.wait_for(20);
    server.wait_until_delivered();
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"deferred\""), 0);
    assert!(metrics.sum("ringpost_hop_connections_total", "outcome=\"failed\"") >= 1);
    assert_eq!(target(&server, "hop")["breaker"], "closed");
    // One that refuses to talk is as good as closed.
    let busy = Manner::default().at(closed).start(|moment| match moment {
        Moment::Banner => Answer::Say("421 4.3.2 not today"),
        _ => Answer::Usual,
    });
    send(&server, 20);
    second.wait_for(40);
    server.wait_until_delivered();
    assert_eq!(busy.count(), 0);
}

#[test]
fn connections_are_shared_out_by_weight() {
    let (many, few, reserve) = (Hop::obliging(), Hop::obliging(), Hop::obliging());
    let weights = [(&many, 3), (&few, 1), (&reserve, 0)];
    let hosts = weights.map(|(hop, weight)| format!("{} weight={weight}", hop.address));
    let settings = with_target(hasty(), &hosts, &["messages_per_connection = 1"]);
    let server = Server::start(settings.domain_to("example.com", "\"hop\"", &[]));
    send(&server, 80);
    wait_until("all have come", || many.count() + few.count() == 80);
    server.wait_until_delivered();
    let count = few.count();
    assert!((15..=25).contains(&count), "{count} of 80 with a quarter of the weight");
    assert_eq!(reserve.connections(), 0);
    // With the others gone it is the reserve's turn.
    let (gone, lost) = (many.address, few.address);
    drop((many, few));
    send(&server, 5);
    reserve.wait_for(5);
    server.wait_until_delivered();
    assert!(gone != lost, "two hops");
}

/// Sessions on both cores, and one number for all of them.
#[test]
fn the_concurrency_of_a_target_is_one_number_for_all_cores() {
    let hop = Manner::default().start(|moment| match moment {
        Moment::End => Answer::Hold,
        _ => Answer::Usual,
    });
    let server = Server::start(to(&[hop.address], &["concurrency = 3"]).cores(2));
    for number in 0..24 {
        let mut client = Client::hello_from(client_address(number, 1), server.smtp());
        client.deliver("a@sender.example", &[ALICE], &numbered(number.into()));
        client.quit();
    }
    let by_core = server.metrics().by_shard("ringpost_queue_messages");
    assert!(by_core.iter().all(|count| *count > 0), "not all cores have got mail: {by_core:?}");
    for _ in 0..12 {
        wait_until("as many are under way as may be", || hop.held() == 3);
        let status = target(&server, "hop");
        assert_eq!((&status["in_use"], &status["active"]), (&3.into(), &3.into()), "{status:#}");
        hop.release(1);
    }
    hop.release(12);
    hop.wait_for(24);
    server.wait_until_delivered();
    assert_eq!(hop.peak(), 3);
    // A higher number holds from the reload on.
    let mut server = server;
    server.reconfigure(|settings| with_target(settings, &[hop.address.to_string()], &["concurrency = 7"]));
    server.tell(&["reload"]).ok();
    send(&server, 20);
    wait_until("as many are under way as may be now", || hop.held() == 7);
    hop.release(20);
    hop.wait_for(44);
    server.wait_until_delivered();
    assert_eq!(hop.peak(), 7);
}

#[test]
fn the_rate_of_a_target_is_one_number_for_all_cores() {
    let hop = Hop::obliging();
    let mut server = Server::start(to(&[hop.address], &["rate = 5"]).cores(2));
    let settle = |server: &Server| {
        server.wait_for_metric("ringpost_queue_attempts", 0);
        hop.count()
    };
    for number in 0..20 {
        let mut client = Client::hello_from(client_address(number, 1), server.smtp());
        client.deliver("a@sender.example", &[ALICE], &numbered(number.into()));
        client.quit();
    }
    wait_until("a minute's worth has come", || hop.count() >= 5);
    wait_until("the cores know that they have to wait", || {
        server.metrics().sum("ringpost_leases_total", "answer=\"wait\"") >= 2
    });
    // One more comes every 12 seconds.
    let count = settle(&server);
    assert!((5..=10).contains(&count), "{count} messages at once, with a rate of 5 a minute");
    assert_eq!(queue(&server, &["status"])["messages"], 20 - count);
    server.reconfigure(|settings| with_target(settings, &[hop.address.to_string()], &["rate = 0"]));
    server.tell(&["reload"]).ok();
    hop.wait_for(20);
    server.wait_until_delivered();
}

/// It takes connections and says nothing; and another one that says nothing to the end of a message.
#[test]
fn a_hung_next_hop_delays_nobody_elses_mail() {
    let silent = Manner::default().start(|_| Answer::Silence);
    let last_words = Manner::default().start(|moment| match moment {
        Moment::End => Answer::Silence,
        _ => Answer::Usual,
    });
    let good = Hop::obliging();
    let mut settings = hasty().cores(2);
    for (name, hop) in [("silent", &silent), ("last-words", &last_words), ("good", &good)] {
        let hosts = format!("hosts = [\"{}\"]", hop.address);
        settings = settings.target(name, "smtp", &[&hosts, "concurrency = 5"]);
        settings = settings.domain_to(&format!("{name}.example"), &format!("\"{name}\""), &[]);
    }
    let mut server = Server::start(settings);
    for number in 0..20 {
        let mut client = Client::hello_from(client_address(number, 1), server.smtp());
        for target in ["silent", "last-words", "good"] {
            for nth in 0..5 {
                let to = format!("x{nth}@{target}.example");
                client.deliver("a@sender.example", &[&to], &numbered(nth));
            }
        }
        // One message for all of them, too.
        let to = ["x@silent.example", "x@last-words.example", "x@good.example"];
        client.deliver("a@sender.example", &to, &numbered(0));
        client.quit();
    }
    good.wait_for(20 * 6);
    wait_until("as many are hung as may be", || silent.open() == 5 && last_words.open() == 5);
    assert_eq!(target(&server, "silent")["in_use"], 5);
    assert_eq!(queue(&server, &["status"])["messages"], 20 * (5 + 5 + 1));
    // Nor do they keep it from stopping.
    server.change(|settings| settings.set("server", "drain_timeout = \"1s\""));
    server.kill();
    server.start_again();
    wait_until("they hang again", || silent.open() == 5 && last_words.open() == 5);
    server.stop();
    assert_eq!(good.count(), 20 * 6, "what was delivered comes no second time");
}

/// RFC 5321 section 5.1: the addresses of a name are tried one after the other; and the certificate is to be for the name.
#[test]
fn hosts_are_found_by_the_dns() {
    let (_folder, authority, issued) = certified();
    let hop = Manner::default().secure(&issued).start(|_| Answer::Usual);
    let (port, dead) = (hop.address.port(), own_address());
    let names = Names::default()
        .record(&format!("postfix.example.net A {dead}"))
        .record(&format!("postfix.example.net A {}", hop.address.ip()))
        .record(&format!("other.example.net A {}", hop.address.ip()));
    let unbound = Unbound::start(&names);
    let ca = format!("tls_ca = \"{}\"", authority.cert().display());
    let lines = ["tls = \"verified\"", ca.as_str(), "idle_timeout = \"0s\"", "breaker_failures = 0"];
    let hosts = |name: &str| vec![format!("{name}.example.net:{port}")];
    let settings = hasty().set("dns", &unbound.servers()).set("dns", "timeout = \"10s\"");
    let settings = with_target(settings, &hosts("postfix"), &lines).domain_to("example.com", "\"hop\"", &[]);
    let mut server = Server::start(settings);
    send(&server, 10);
    assert!(hop.wait_for(10).iter().all(|taken| taken.secure));
    server.wait_until_delivered();
    assert_eq!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"deferred\""), 0);
    for (name, words) in [("nowhere", ["4.4.3", "nowhere.example.net"]), ("other", ["4.7.5", "other.example.net"])] {
        server.reconfigure(|settings| with_target(settings, &hosts(name), &lines));
        server.tell(&["reload"]).ok();
        let id = send(&server, 1).remove(0);
        wait_for_reason(&server, &id, &words);
        server.tell(&["queue", "drop", &id]).ok();
    }
    assert_eq!(hop.count(), 10);
}

#[test]
fn higher_priorities_have_more_turns_and_lower_ones_some() {
    let hop = Manner::default().start(|moment| match moment {
        Moment::End => Answer::Hold,
        _ => Answer::Usual,
    });
    let mut settings = to(&[hop.address], &["concurrency = 1"]);
    for priority in ["high", "normal", "low"] {
        let line = format!("priority = \"{priority}\"");
        settings = settings.domain_to(&format!("{priority}.example"), "\"hop\"", &[&line]);
    }
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    client.deliver("a@sender.example", &[ALICE], &numbered(0));
    wait_until("the first is under way", || hop.held() == 1);
    for number in 0..10 {
        for priority in ["low", "normal", "high"] {
            client.deliver("a@sender.example", &[&format!("x@{priority}.example")], &numbered(number));
        }
    }
    hop.release(31);
    let order: Vec<char> = hop.wait_for(31)[1..].iter().filter_map(|taken| taken.rcpt[0].chars().nth(11)).collect();
    let of = |first: usize, letter: char| order[..first].iter().filter(|own| **own == letter).count();
    let last = |letter: char| order.iter().rposition(|own| *own == letter);
    let text: String = order.iter().collect();
    assert!(of(10, 'h') >= 5 && of(10, 'l') >= 1 && of(20, 'h') == 10, "{text}");
    assert!(last('h') < last('n') && last('n') < last('l'), "{text}");
    server.wait_until_delivered();
}

/// RFC 5321 section 4.5.3.2.6: a message may come twice rather than not at all.
#[test]
fn a_hop_that_dies_after_the_final_dot_gets_it_again() {
    let deaths = Arc::new(AtomicUsize::new(0));
    let count = deaths.clone();
    let hop = Manner::default().offers(&["PIPELINING", "CHUNKING"]).start(move |moment| match moment {
        Moment::End if count.fetch_add(1, Ordering::Relaxed) < 3 => Answer::Close,
        _ => Answer::Usual,
    });
    let server = Server::start(to(&[hop.address], &["breaker_failures = 0"]));
    let ids = send(&server, 1);
    let taken = hop.wait_for(4);
    assert!(taken.iter().all(|each| each.body == taken[0].body));
    server.wait_until_delivered();
    assert_eq!((hop.count(), deaths.load(Ordering::Relaxed)), (4, 4));
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"deferred\""), 3);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"delivered\""), 1);
    let line = server.wait_for_line("delivery deferred", |line| line["id"] == ids[0].as_str());
    assert_eq!(line["status"], "4.4.2", "{line}");
}

#[test]
fn what_the_sender_asked_for_is_passed_on() {
    let all = ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME", "SIZE 0", "ENHANCEDSTATUSCODES"];
    let hop = Manner::default().offers(&all).start(|_| Answer::Usual);
    let server = Server::start(to(&[hop.address], &[]));
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<użytkownik@sender.example> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=QQ+2B314159", 250);
    client.say("RCPT TO:<alicja+ż@example.com> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{17C}@example.org", 250);
    client.say("RCPT TO:<bob@example.com> NOTIFY=NEVER", 250);
    client.say("RCPT TO:<carol@example.com>", 250);
    client.say("DATA", 354);
    let sent = message("żółw", ".grün\r\n..\r\n");
    assert_eq!(client.content(&sent).code, 250);
    let taken = hop.only();
    assert!(taken.chunked && taken.body.ends_with(&sent), "{taken:?}");
    assert_eq!(taken.helo, "mx.example.com");
    assert!(taken.mail.starts_with("MAIL FROM:<użytkownik@sender.example> "), "{}", taken.mail);
    let size = format!("SIZE={}", taken.body.len());
    for word in ["SMTPUTF8", "BODY=8BITMIME", "RET=HDRS", "ENVID=QQ+2B314159", &size] {
        assert!(taken.mail.split(' ').any(|given| given == word), "no {word} in {}", taken.mail);
    }
    assert_eq!(
        taken.rcpt,
        [
            "RCPT TO:<alicja+ż@example.com> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{17C}@example.org",
            "RCPT TO:<bob@example.com> NOTIFY=NEVER",
            "RCPT TO:<carol@example.com>",
        ]
    );
    // Binary, as it is.
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@sender.example> BODY=BINARYMIME", 250);
    client.say(&format!("RCPT TO:<{ALICE}>"), 250);
    let binary = b"Subject: binary\r\n\r\nno\nline\0ends\r.\r\n.\r\n";
    client.send(format!("BDAT {} LAST\r\n", binary.len()).as_bytes());
    client.send(binary);
    client.expect(250);
    let taken = hop.wait_for(2).remove(1);
    assert!(taken.body.ends_with(binary) && taken.mail.contains(" BODY=BINARYMIME"), "{taken:?}");
    server.wait_until_delivered();
    // Who passes a message on to a hop that reports says nothing itself.
    assert_eq!(server.metrics().total("ringpost_reports_total"), 0);
}

/// RFC 6531 section 3.1, RFC 3030 section 3: what the hop does not have, and the message can't do without.
#[test]
fn a_message_that_the_hop_cannot_take_is_refused_to_its_sender() {
    let hop = Manner::default().offers(&["PIPELINING", "8BITMIME"]).start(|_| Answer::Usual);
    let server = Server::start(to(&[hop.address], &[]));
    let mut client = Client::hello(server.smtp());
    client.say("MAIL FROM:<a@sender.example> SMTPUTF8", 250);
    client.say("RCPT TO:<żółw@example.com>", 250);
    client.say("DATA", 354);
    assert_eq!(client.content(&message("utf8", "x\r\n")).code, 250);
    server.maildir(&format!("{SENDERS}/a")).only();
    client.say("MAIL FROM:<b@sender.example> BODY=BINARYMIME", 250);
    client.say(&format!("RCPT TO:<{ALICE}>"), 250);
    client.send(b"BDAT 20 LAST\r\nSubject: b\r\n\r\nb\0\0\0\r\n");
    client.expect(250);
    report(&server, "b").says(ALICE, "failed", "5.6.1", "");
    // One that only said so is sent all the same.
    client.say("MAIL FROM:<c@sender.example> SMTPUTF8 BODY=8BITMIME", 250);
    client.say(&format!("RCPT TO:<{ALICE}>"), 250);
    client.say("DATA", 354);
    assert_eq!(client.content(&message("plain", "x\r\n")).code, 250);
    hop.only();
    server.wait_until_delivered();
    assert_eq!(server.metrics().sum("ringpost_reports_total", "kind=\"failure\""), 2);
}

#[test]
fn refusals_are_told_and_what_is_put_off_is_tried_again() {
    let hop = Hop::obliging();
    let server = Server::start(to(&[hop.address], &[]));
    let mut client = Client::hello(server.smtp());
    let answers: [(&str, Manners, &str, &str); 4] = [
        ("mail", |moment| at(moment, Stage::Mail, "554 5.7.1 not from there"), "5.7.1", "smtp; 554 not from there"),
        ("rcpt", |moment| at(moment, Stage::Rcpt, "550 5.1.1 no such user"), "5.1.1", "smtp; 550 no such user"),
        ("data", |moment| at(moment, Stage::Data, "554 no"), "5.0.0", "smtp; 554 no"),
        ("end", |moment| at(moment, Stage::End, "552 5.3.4 too large"), "5.3.4", "smtp; 552 too large"),
    ];
    for (sender, decide, status, diagnostic) in answers {
        hop.change(decide);
        client.deliver(&format!("{sender}@sender.example"), &[ALICE], &message(sender, "x\r\n"));
        let report = report(&server, sender);
        report.says(ALICE, "failed", status, diagnostic);
        let of = report.of(ALICE);
        assert_eq!(of["remote-mta"], format!("dns; [{}]", hop.address.ip()), "{of:?}");
    }
    server.wait_until_delivered();
    let before = hop.count();
    // 4xx is no refusal.
    hop.change(|moment| at(moment, Stage::Rcpt, "450 4.2.1 later"));
    let id = send(&server, 1).remove(0);
    wait_for_reason(&server, &id, &["4.2.1", "later"]);
    wait_until("it is tried again and again", || {
        queue(&server, &["show", &id])["targets"][0]["attempts"].as_u64().is_some_and(|attempts| attempts >= 3)
    });
    hop.change(|_| Answer::Usual);
    hop.wait_for(before + 1);
    server.wait_until_delivered();
    assert_eq!(server.metrics().sum("ringpost_reports_total", "kind=\"failure\""), 4);
    assert_eq!(in_state(&server, "dead"), 0);
}

enum Stage {
    Mail,
    Rcpt,
    Data,
    End,
}

/// Says a line at one stage, and is obliging at the others.
fn at(moment: Moment<'_>, stage: Stage, line: &'static str) -> Answer {
    match (moment, stage) {
        (Moment::Mail, Stage::Mail)
        | (Moment::Rcpt(_), Stage::Rcpt)
        | (Moment::Data, Stage::Data)
        | (Moment::End, Stage::End) => Answer::Say(line),
        _ => Answer::Usual,
    }
}
