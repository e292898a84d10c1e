//! Reports to senders (RFC 3464, RFC 3461): who is told what, and when nobody can be.

use crate::support::hop::{Answer, Hop, Manner, Moment};
use crate::support::programs::{program, run};
use crate::support::queue::{SENDERS, hasty, in_state, queue, report, reports, target};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id};
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::process::Command;

const ALICE: &str = "alice@example.com";

/// Mail for example.com goes to a hop.
fn to(hop: &Hop) -> Settings {
    let hosts = format!("hosts = [\"{}\"]", hop.address);
    hasty().target("hop", "smtp", &[&hosts, "breaker_failures = 0"]).domain_to("example.com", "\"hop\"", &[])
}

fn refuse(moment: Moment<'_>) -> Answer {
    match moment {
        Moment::Rcpt(_) => Answer::Say("550 5.1.1 nobody here"),
        _ => Answer::Usual,
    }
}

fn put_off(moment: Moment<'_>) -> Answer {
    match moment {
        Moment::Rcpt(_) => Answer::Say("450 4.2.1 later"),
        _ => Answer::Usual,
    }
}

/// A message with what is said behind MAIL and RCPT; gives its id.
#[track_caller]
fn send(client: &mut Client, mail: &str, rcpt: &str, content: &[u8]) -> String {
    client.say(&format!("MAIL {mail}"), 250);
    client.say(&format!("RCPT {rcpt}"), 250);
    client.say("DATA", 354);
    let reply = client.content(content);
    assert_eq!(reply.code, 250, "{}", reply.text());
    queued_id(&reply)
}

/// RFC 3461 section 4.1, RFC 3461 section 5.2: what each NOTIFY brings, for each fate.
#[test]
fn senders_are_told_what_they_asked_for() {
    let (taking, refusing) = (Hop::obliging(), Manner::default().start(refuse));
    let reporting = Manner::default().offers(&["DSN"]).start(|_| Answer::Usual);
    let mut settings = hasty().domain("local.example", "\"any\"", "mail/{domain}/{local}");
    for (name, hop) in [("taking", &taking), ("refusing", &refusing), ("reporting", &reporting)] {
        let hosts = format!("hosts = [\"{}\"]", hop.address);
        settings = settings.target(name, "smtp", &[&hosts]);
        settings = settings.domain_to(&format!("{name}.example"), &format!("\"{name}\""), &[]);
    }
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("", &[("refusing", "failed")]),
        (" NOTIFY=NEVER", &[]),
        (" NOTIFY=SUCCESS", &[("local", "delivered"), ("taking", "relayed")]),
        (" NOTIFY=FAILURE", &[("refusing", "failed")]),
        (" NOTIFY=DELAY", &[]),
        (" NOTIFY=SUCCESS,FAILURE,DELAY", &[("local", "delivered"), ("taking", "relayed"), ("refusing", "failed")]),
    ];
    for (number, (notify, _)) in (0..).zip(&cases) {
        for target in ["local", "taking", "refusing", "reporting"] {
            let (mail, rcpt) = (format!("FROM:<s{number}@sender.example>"), format!("TO:<x@{target}.example>{notify}"));
            send(&mut client, &mail, &rcpt, &message(target, "x\r\n"));
        }
    }
    server.wait_until_delivered();
    for (number, (notify, told)) in (0..).zip(&cases) {
        let reports = reports(&server, &format!("s{number}"), told.len());
        for (target, action) in *told {
            let address = format!("rfc822; x@{target}.example");
            let about = reports.iter().find(|report| report.recipients[0]["final-recipient"] == address);
            let about = about.unwrap_or_else(|| panic!("{notify}: nothing about {target}"));
            let status = if *action == "failed" { "5.1.1" } else { "2.0.0" };
            about.says(&format!("x@{target}.example"), action, status, "");
            assert_eq!((about.recipients.len(), about.returned.as_str()), (1, "text/rfc822-headers"));
        }
    }
    // Whoever can report is asked to, and does.
    let rcpt: Vec<String> = reporting.wait_for(6).into_iter().flat_map(|taken| taken.rcpt).collect();
    for ((notify, _), line) in cases.iter().zip(&rcpt) {
        assert_eq!(line, &format!("RCPT TO:<x@reporting.example>{notify}"));
    }
    let metrics = server.metrics();
    for (kind, count) in [("failure", 3), ("success", 2), ("relayed", 2), ("delay", 0)] {
        assert_eq!(metrics.sum("ringpost_reports_total", &format!("kind=\"{kind}\"")), count, "{kind}");
    }
}

/// RFC 3461 section 4.3, RFC 3461 section 4.4, RFC 3461 section 4.2.
#[test]
fn a_report_has_what_the_sender_gave_to_know_it_by() {
    let hop = Manner::default().start(refuse);
    let server = Server::start(to(&hop));
    let mut client = Client::hello(server.smtp());
    let body = lines(4, 2_000);
    let (small, large) = (message("small", &body), message("large", &lines(5, 100_000)));
    for (sender, parameters, content, full) in [
        ("none", "", &small, false),
        ("headers", " RET=HDRS", &small, false),
        ("full", " RET=FULL", &small, true),
        ("large", " RET=FULL", &large, false),
    ] {
        let mail = format!("FROM:<{sender}@sender.example>{parameters} ENVID=QQ+2B31+3D4159");
        let rcpt = format!("TO:<{ALICE}> ORCPT=rfc822;Alice+2BOld@example.org");

        let id = send(&mut client, &mail, &rcpt, content);
        let report = report(&server, sender);
        report.says(ALICE, "failed", "5.1.1", "smtp; 550 nobody here");
        assert_eq!(report.about["original-envelope-id"], "QQ+31=4159");
        let of = report.of(ALICE);
        assert_eq!(of["original-recipient"], "rfc822; Alice+Old@example.org");
        assert_eq!(of["final-log-id"], id);
        assert!(report.about.contains_key("arrival-date"), "{:?}", report.about);
        assert_eq!(report.returned, if full { "message/rfc822" } else { "text/rfc822-headers" }, "{sender}");
        assert!(report.contains(b"\r\nSubject: "));
        assert_eq!(report.contains(body.as_bytes()), full, "{sender}");
        assert!(report.words.contains(ALICE) && report.words.contains("nobody here"), "{}", report.words);
        assert_eq!(report.field("From"), "Mail Delivery System <MAILER-DAEMON@mx.example.com>");
        let subject = if sender == "large" { "<large@example.org>" } else { "<small@example.org>" };
        assert_eq!(report.field("In-Reply-To"), subject);
    }
    server.wait_until_delivered();
}

/// As somebody sends it who has not written this.
#[test]
fn swaks_gets_its_report() {
    let hop = Manner::default().start(refuse);
    let server = Server::start(to(&hop));
    let mut command = Command::new(program("swaks", "swaks"));
    let (host, port) = (server.smtp().ip().to_string(), server.smtp().port().to_string());
    command.args(["--server", &host, "--port", &port, "--helo", "client.example.org", "--from", "a@sender.example"]);
    command.args(["--to", "alice@example.com,bob@example.com", "--header", "Subject: from swaks"]);
    run(&mut command, "").ok();
    let report = report(&server, "a");
    for address in [ALICE, "bob@example.com"] {
        report.says(address, "failed", "5.1.1", "smtp; 550 nobody here");
    }
    assert!(report.contains(b"\r\nSubject: from swaks\r\n"));
}

/// A double bounce: what nobody can be told of is kept, over restarts, until an operator has seen to it.
#[test]
fn what_nobody_can_be_told_of_is_a_dead_letter() {
    let hop = Manner::default().start(refuse);
    let mut server = Server::start(to(&hop));
    let mut client = Client::hello(server.smtp());
    // From nobody; and from somewhere that no domain, route or default target is for.
    let sent = message("dead", "x\r\n");
    let null = send(&mut client, "FROM:<>", &format!("TO:<{ALICE}>"), &sent);
    let stranger = send(&mut client, "FROM:<x@elsewhere.example>", &format!("TO:<{ALICE}>"), &sent);
    // Here nobody wants to know.
    send(&mut client, "FROM:<x@elsewhere.example>", &format!("TO:<{ALICE}> NOTIFY=NEVER"), &sent);
    client.quit();
    for restart in 0..2 {
        wait_until("both are dead letters", || in_state(&server, "dead") == 2);
        server.wait_for_metric("ringpost_queue_dead_messages", 2);
        wait_until("the third is gone", || queue(&server, &["status"])["messages"] == 2);
        let page = queue(&server, &["list", "--state", "dead"]);
        let ids: Vec<&str> =
            page["messages"].as_array().expect("messages").iter().filter_map(|it| it["id"].as_str()).collect();
        assert_eq!(ids, [null.as_str(), stranger.as_str()]);
        let view = queue(&server, &["show", &null]);
        let recipient = &view["envelope"]["recipients"][0]["targets"][0];
        assert_eq!(
            (&recipient["state"], &recipient["reason"]["status"]),
            (&"dead".into(), &"5.1.1".into()),
            "{view:#}"
        );
        assert_eq!(recipient["reason"]["text"], "nobody here");
        let table = server.tell(&["queue", "list", "--state", "dead"]).ok().out;
        assert!(table.contains(&null) && table.contains(ALICE), "{table}");
        if restart == 0 {
            assert_eq!(server.metrics().total("ringpost_dead_letters_buried_total"), 2);
            server.kill();
            server.start_again();
        }
    }
    assert_eq!(server.metrics().total("ringpost_reports_total"), 0);
    // Nobody tries them by themselves.
    let before = hop.connections();
    hop.change(|_| Answer::Usual);
    send(&mut Client::hello(server.smtp()), "FROM:<a@sender.example>", "TO:<bob@example.com>", &sent);
    hop.only();
    assert_eq!(hop.connections(), before + 1);
    assert_eq!(server.tell(&["queue", "retry", &null]).ok().out, "1 message to be tried at once\n");
    let taken = hop.wait_for(2).remove(1);
    assert!(taken.body.ends_with(&sent) && taken.mail.starts_with("MAIL FROM:<>"), "{taken:?}");
    server.tell(&["queue", "retry", "--state", "dead"]).ok();
    hop.wait_for(3);
    server.wait_until_delivered();
    assert_eq!(server.metrics().total("ringpost_queue_dead_messages"), 0);
}

/// A report that can't be delivered is reported to nobody.
#[test]
fn a_report_that_bounces_is_a_dead_letter() {
    let hop = Manner::default().start(refuse);
    let settings = to(&hop).domain_to("also.example", "\"hop\"", &[]);
    let server = Server::start(settings);
    let id = send(
        &mut Client::hello(server.smtp()),
        "FROM:<x@also.example>",
        &format!("TO:<{ALICE}>"),
        &message("x", "x\r\n"),
    );
    wait_until("the report is a dead letter", || in_state(&server, "dead") == 1);
    let page = queue(&server, &["list", "--state", "dead"]);
    let dead = &page["messages"][0];
    assert_eq!((&dead["from"], &dead["to"][0]), (&"".into(), &"x@also.example".into()), "{page:#}");
    assert_ne!(dead["id"], id.as_str());
    wait_until("only the report is left", || queue(&server, &["status"])["messages"] == 1);
    assert_eq!(server.metrics().sum("ringpost_reports_total", "kind=\"failure\""), 1);
    assert_eq!(target(&server, "hop")["active"], 0);
}

/// RFC 5321 section 4.5.4.1: in the end it is given up, and its sender told why it could not be delivered.
#[test]
fn what_gets_too_old_is_given_up_and_told() {
    let (later, silent) = (Manner::default().start(put_off), Manner::default().start(|_| Answer::Silence));
    let hosts = format!("hosts = [\"{}\"]", silent.address);
    let settings = to(&later)
        .target("silent", "smtp", &[&hosts, "concurrency = 1"])
        .domain_to("silent.example", "\"silent\"", &[])
        .set("queue", "expire_after = \"2s\"")
        .set("queue", "delay_notice = \"0s\"");
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    send(&mut client, "FROM:<a@sender.example>", &format!("TO:<{ALICE}>"), &message("old", "x\r\n"));
    send(&mut client, "FROM:<hung@sender.example>", "TO:<x@silent.example>", &message("hung", "x\r\n"));
    // This one never gets its turn.
    send(&mut client, "FROM:<b@sender.example>", "TO:<y@silent.example>", &message("unserved", "x\r\n"));
    report(&server, "a").says(ALICE, "failed", "5.4.7", "smtp; 450 later");
    report(&server, "b").says("y@silent.example", "failed", "5.4.7", "delivery time expired");
    assert_eq!(later.count(), 0);
    assert_eq!(server.maildir(&format!("{SENDERS}/hung")).count(), 0, "an attempt under way is no failure");
    assert_eq!(server.metrics().sum("ringpost_reports_total", "kind=\"failure\""), 2);
}

#[test]
fn a_delay_is_told_once_over_restarts() {
    let hop = Manner::default().start(put_off);
    let mut server = Server::start(to(&hop).set("queue", "delay_notice = \"300ms\""));
    let mut client = Client::hello(server.smtp());
    send(&mut client, "FROM:<a@sender.example>", &format!("TO:<{ALICE}>"), &message("late", "x\r\n"));
    send(
        &mut client,
        "FROM:<never@sender.example>",
        &format!("TO:<{ALICE}> NOTIFY=FAILURE"),
        &message("late", "x\r\n"),
    );
    send(&mut client, "FROM:<>", &format!("TO:<{ALICE}>"), &message("late", "x\r\n"));
    client.quit();
    let told = report(&server, "a");
    told.says(ALICE, "delayed", "4.2.1", "smtp; 450 later");
    assert!(told.of(ALICE).contains_key("will-retry-until"), "{:?}", told.of(ALICE));
    assert_eq!(told.returned, "text/rfc822-headers");
    let attempts = |server: &Server, least: u64| {
        wait_until("it is tried again and again", || {
            let page = queue(server, &["list"]);
            let tries = |it: &serde_json::Value| it["targets"][0]["attempts"].as_u64().unwrap_or(0);
            page["messages"].as_array().expect("messages").iter().all(|it| tries(it) >= least)
        });
    };
    attempts(&server, 8);
    server.kill();
    server.start_again();
    attempts(&server, 5);
    hop.change(|_| Answer::Usual);
    hop.wait_for(3);
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 1, "told once");
    assert_eq!(server.maildir(&format!("{SENDERS}/never")).count(), 0);
    assert_eq!(in_state(&server, "dead"), 0);
}
