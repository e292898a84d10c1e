//! Traces of messages, as a collector gets them: one tree from SMTP over the checks and the spool to every delivery.

use crate::support::collector::{Came, Collector, one};
use crate::support::http::Http;
use crate::support::net::own_address;
use crate::support::presented::{PROXY, Presented, by_proxy};
use crate::support::queue::{SENDERS, hasty, reports};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, queued_id};
use crate::support::text::message;
use crate::support::wait_until;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, SystemTime};

const ALICE: &str = "alice@example.com";

/// Of spans whose times come from the two clocks, which are read one after the other.
const CLOCKS: u64 = 5_000_000;

/// A Maildir for everybody of example.com, too.
fn with_maildirs() -> Settings {
    hasty().domain("example.com", "\"any\"", "mail/{domain}/{local}")
}

/// Every message is traced.
fn traced(settings: Settings, collector: &Collector) -> Settings {
    settings.set("telemetry", &collector.endpoint()).set("telemetry", "sample = 1")
}

/// Fails unless a span lies within another.
#[track_caller]
fn within(inner: &Came, outer: &Came) {
    let ((inner_start, inner_end), (start, end)) = (inner.times(), outer.times());
    let holds = inner_start + CLOCKS >= start && inner_end <= end + CLOCKS && inner_start <= inner_end;
    assert!(holds, "{} is not within {}: {inner:#?} {outer:#?}", inner.name(), outer.name());
}

/// Fails unless a span begins after another has ended.
#[track_caller]
fn follows(later: &Came, earlier: &Came) {
    let holds = later.times().0 + CLOCKS >= earlier.times().1;
    assert!(holds, "{} does not follow {}: {later:#?} {earlier:#?}", later.name(), earlier.name());
}

fn nanos_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// Sends a message that is put off at first, and of whose recipients two are refused; gives its id and its session's.
fn send_through_the_greylist(server: &Server, sent: &[u8]) -> (String, String) {
    let host: IpAddr = Ipv4Addr::new(198, 18, 7, 1).into();
    let began = nanos_now();
    let first_try = |client: &mut Client| client.ask(&format!("RCPT TO:<{ALICE}>")).code;
    let Presented { mut client, .. } = by_proxy(server.smtp(), host, "mail.example.org");
    client.say("MAIL FROM:<a@sender.example>", 250);
    assert_eq!(first_try(&mut client), 450);
    client.quit();
    let (mut client, session) = loop {
        let Presented { mut client, id } = by_proxy(server.smtp(), host, "mail.example.org");
        client.say("MAIL FROM:<a@sender.example>", 250);
        if first_try(&mut client) == 250 {
            break (client, id);
        }
        assert!(nanos_now() - began < 30_000_000_000, "it is put off for good");
        std::thread::sleep(Duration::from_millis(100));
    };
    let refused = client.ask("RCPT TO:<bob@nowhere.example>");
    assert_eq!(refused.code, 550);
    // The same sender and network, another recipient: put off, and it does no harm.
    assert_eq!(client.ask("RCPT TO:<bob@hook.example>").code, 450);
    client.say("DATA", 354);
    let id = queued_id(&client.content(sent));
    client.quit();
    (id, session)
}

#[test]
fn one_tree_from_smtp_over_the_checks_and_the_spool_to_the_deliveries() {
    let collector = Collector::start();
    let http = Http::start(|_, _| (204, String::new()));
    let url = format!("url = \"http://{}/\"", http.address);
    let settings = traced(with_maildirs(), &collector).listener_line(PROXY).target("hook", "webhook", &[&url]);
    let settings = settings.domain_to("hook.example", "\"hook\"", &[]);
    let settings = settings.set("screen", "weight_helo_own_name = 1").set("screen", "score_reject = 1");
    let settings = ["mode = \"all\"", "delay = \"1s\"", "network_passes = 0"]
        .iter()
        .fold(settings, |settings, line| settings.set("greylist", line));
    let server = Server::start(settings);
    let (began, sent) = (nanos_now(), message("traced", "x\r\n"));
    let (id, session) = send_through_the_greylist(&server, &sent);
    let spans = collector.wait_for(&id, "delivery.attempt", 1);
    let ended = nanos_now();
    let root = one(&spans, "smtp.message");
    assert!(root.is_root_of(&id), "{root:#?}");
    let told = |span: &Came, keys: &[&str]| keys.iter().map(|key| span.attribute(key)).collect::<Vec<_>>();
    let keys = ["ringpost.message.id", "ringpost.session.id", "ringpost.message.from", "client.address"];
    assert_eq!(told(root, &keys), [id.as_str(), &session, "a@sender.example", "198.18.7.1"]);
    assert_eq!(told(root, &["ringpost.reply.code", "ringpost.recipients"]), ["250", "1"]);
    assert!(root.attribute("ringpost.message.size").parse::<usize>().is_ok_and(|size| size >= sent.len()));
    assert!(!root.has_failed() && root.times().0 + CLOCKS >= began && root.times().1 <= ended);
    let steps = ["smtp.screen", "smtp.body", "spool.commit"];
    for step in steps {
        let span = one(&spans, step);
        assert!(span.is_child_of(&id) && !span.has_failed(), "{span:#?}");
        within(span, root);
    }
    follows(one(&spans, "spool.commit"), one(&spans, "smtp.body"));
    let of = |name: &str| spans.iter().filter(|span| span.name() == name).collect::<Vec<_>>();
    let outcomes = |name: &str| of(name).into_iter().map(Came::has_failed).collect::<Vec<_>>();
    assert_eq!(outcomes("smtp.greylist"), [false, true]);
    assert_eq!(outcomes("smtp.recipient"), [false, true, false]);
    for span in of("smtp.greylist").into_iter().chain(of("smtp.recipient")) {
        assert!(span.is_child_of(&id), "{span:#?}");
        within(span, root);
    }
    let attempt = one(&spans, "delivery.attempt");
    assert!(attempt.is_child_of(&id) && !attempt.has_failed(), "{attempt:#?}");
    follows(attempt, one(&spans, "spool.commit"));
    assert_eq!(
        told(attempt, &["ringpost.destination", "ringpost.attempt", "ringpost.outcome", "ringpost.recipients"]),
        ["example.com", "1", "delivered", "1"]
    );
    // The one that was put off is a tree of its own, which ends with its session.
    let refused: Vec<Came> = collector.spans().into_iter().filter(|span| span.name() == "smtp.message").collect();
    assert!(refused.iter().any(|span| span.attribute("ringpost.outcome") == "abandoned"), "{refused:#?}");
    // Of what is sampled the log names the trace.
    let line = server.wait_for_line("delivered", |line| line["id"] == id.as_str());
    assert!(root.traceparent().contains(line["trace_id"].as_str().expect("a trace")), "{line}");
}

#[test]
fn a_webhook_is_told_the_context_of_its_attempt() {
    let collector = Collector::start();
    let http = Http::start(|number, _| (if number == 1 { 503 } else { 204 }, String::new()));
    let url = format!("url = \"http://{}/\"", http.address);
    let settings = hasty().target("hook", "webhook", &[&url]).domain_to("example.com", "\"hook\"", &[]);
    let mut server = Server::start(traced(settings, &collector));
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &[ALICE], &message("context", "x\r\n"));
    let spans = collector.wait_for(&id, "delivery.attempt", 2);
    let attempts: Vec<&Came> = spans.iter().filter(|span| span.name() == "delivery.attempt").collect();
    let requests = http.wait_for(2);
    for ((request, attempt), (number, outcome)) in
        requests.iter().zip(&attempts).zip([("1", "deferred"), ("2", "delivered")])
    {
        assert_eq!(request.field("traceparent"), attempt.traceparent());
        assert!(attempt.is_child_of(&id), "{attempt:#?}");
        assert_eq!(
            (attempt.attribute("ringpost.attempt").as_str(), attempt.attribute("ringpost.outcome").as_str()),
            (number, outcome)
        );
        assert_eq!(attempt.attribute("server.address"), http.address.to_string());
        assert_eq!(attempt.has_failed(), outcome == "deferred");
    }
    assert!(attempts[0].attribute("ringpost.reason").contains("HTTP 503"), "{:#?}", attempts[0]);
    // Not sampled: it is told that, too. Not traced at all: it is told nothing.
    for (line, want) in [("sample = 0", Some("-00")), ("endpoint = \"\"", None)] {
        server.reconfigure(|settings| settings.set("telemetry", line));
        server.tell(&["reload"]).ok();
        let before = http.requests().len();
        Client::hello(server.smtp()).deliver("a@sender.example", &[ALICE], &message("more", "x\r\n"));
        let request = http.wait_for(before + 1).remove(before);
        assert_eq!(request.find("traceparent").map(|value| &value[value.len() - 3..]), want, "{line}");
    }
}

#[test]
fn the_share_of_messages_is_what_the_config_in_force_says() {
    let collector = Collector::start();
    let mut server = Server::start(traced(Settings::default(), &collector).set("telemetry", "sample = 0"));
    let deliver = |server: &Server, count: usize| -> Vec<String> {
        let mut client = Client::hello(server.smtp());
        (0..count).map(|_| client.deliver("a@example.org", &[ALICE], &message("share", "x\r\n"))).collect()
    };
    let none = deliver(&server, 5);
    server.wait_until_delivered();
    server.reconfigure(|settings| settings.set("telemetry", "sample = 1.0"));
    server.tell(&["reload"]).ok();
    let all = deliver(&server, 5);
    all.iter().for_each(|id| drop(collector.wait_for(id, "delivery.attempt", 1)));
    assert!(none.iter().all(|id| collector.of(id).is_empty()));
    // Half of them: each has all of its spans or none.
    server.reconfigure(|settings| settings.set("telemetry", "sample = 0.5"));
    server.tell(&["reload"]).ok();
    let some = deliver(&server, 64);
    server.wait_until_delivered();
    // What is left is sent at the stop.
    server.stop();
    let names = |id: &String| collector.of(id).iter().map(|span| span.name().to_owned()).collect::<BTreeSet<_>>();
    let taken = some.iter().map(names).filter(|names| !names.is_empty()).collect::<Vec<_>>();
    assert!((8..=56).contains(&taken.len()), "{} of 64", taken.len());
    for names in taken {
        assert!(
            ["smtp.message", "spool.commit", "delivery.attempt"].iter().all(|name| names.contains(*name)),
            "{names:?}"
        );
    }
}

/// What is delivered after a restart belongs to the tree that the session began.
#[test]
fn a_restart_between_acceptance_and_delivery_does_not_split_the_tree() {
    for crash in [false, true] {
        let collector = Collector::start();
        let mut server = Server::start(traced(with_maildirs(), &collector));
        server.block("example.com/alice");
        let id = Client::hello(server.smtp()).deliver("a@sender.example", &[ALICE], &message("restart", "x\r\n"));
        // Spans are not kept over a crash: these are to be with the collector by then.
        wait_until("the first attempt came to nothing", || {
            let spans = collector.of(&id);
            ["smtp.message", "delivery.attempt"].iter().all(|name| spans.iter().any(|span| span.name() == *name))
        });
        if crash {
            server.kill();
        } else {
            server.stop();
        }
        server.unblock("example.com/alice");
        server.start_again();
        let delivered = |span: &Came| span.attribute("ringpost.outcome") == "delivered";
        wait_until("it is delivered", || collector.of(&id).iter().any(delivered));
        let spans = collector.of(&id);
        assert!(one(&spans, "smtp.message").is_root_of(&id));
        let attempts = spans.iter().filter(|span| span.name() == "delivery.attempt");
        assert!(attempts.clone().all(|span| span.is_child_of(&id)), "{spans:#?}");
        let outcomes: BTreeSet<String> = attempts.map(|span| span.attribute("ringpost.outcome")).collect();
        assert_eq!(outcomes, BTreeSet::from(["deferred".to_owned(), "delivered".to_owned()]), "crash: {crash}");
    }
}

/// A report is a step of the message that it is about, and a message of its own.
#[test]
fn a_report_hangs_on_the_message_that_it_is_about() {
    let collector = Collector::start();
    let http = Http::start(|_, _| (400, String::new()));
    let url = format!("url = \"http://{}/\"", http.address);
    let settings = hasty().target("hook", "webhook", &[&url]).domain_to("example.com", "\"hook\"", &[]);
    let server = Server::start(traced(settings, &collector));
    let id = Client::hello(server.smtp()).deliver(&format!("a@{SENDERS}"), &[ALICE], &message("refused", "x\r\n"));
    reports(&server, "a", 1);
    let spans = collector.wait_for(&id, "report", 1);
    let (attempt, report) = (one(&spans, "delivery.attempt"), one(&spans, "report"));
    assert_eq!((attempt.attribute("ringpost.outcome").as_str(), attempt.has_failed()), ("failed", true));
    assert!(report.is_child_of(&id) && report.attribute("ringpost.report.kind") == "failure", "{report:#?}");
    follows(report, attempt);
    let made = report.attribute("ringpost.report.id");
    let own = collector.wait_for(&made, "delivery.attempt", 1);
    assert!(one(&own, "report").is_root_of(&made));
    assert_eq!(one(&own, "report").attribute("ringpost.report.about"), id);
    assert!(one(&own, "delivery.attempt").is_child_of(&made));
}

/// Nobody listens where the collector should be; or somebody does, and never answers.
#[test]
fn a_dead_collector_costs_nothing_but_spans() {
    let silent = TcpListener::bind((own_address(), 0)).expect("a port");
    let dead = {
        let listener = TcpListener::bind((own_address(), 0)).expect("a port");
        listener.local_addr().expect("bound")
    };
    for (address, wait) in [(dead, "can't be sent"), (silent.local_addr().expect("bound"), "no answer within")] {
        let endpoint = format!("endpoint = \"http://{address}\"");
        let settings = Settings::default().set("telemetry", &endpoint).set("telemetry", "sample = 1");
        let mut server = Server::start(settings.set("telemetry", "timeout = \"500ms\""));
        let mut client = Client::hello(server.smtp());
        (0..50).for_each(|_| drop(client.deliver("a@example.org", &[ALICE], &message("dead", "x\r\n"))));
        client.quit();
        assert_eq!(server.maildir("example.com/alice").wait_for(50).len(), 50);
        server.wait_for_rest();
        let told = server.wait_for_line("spans can't be sent", |_| true);
        assert!(wait == "can't be sent" || told["reason"].as_str().is_some_and(|why| why.contains(wait)), "{told}");
        assert_eq!(server.get("/readyz").0, 200);
        server.stop();
        let last = server.log().pop().expect("a log");
        assert_eq!((&last["message"], &last["clean"]), (&"shutdown_complete".into(), &true.into()), "{last}");
    }
}

#[test]
fn addresses_that_the_log_does_not_show_are_not_sent_either() {
    let collector = Collector::start();
    let settings = traced(Settings::default(), &collector).set("log", "redact = [\"mail\", \"client\"]");
    let server = Server::start(settings);
    let id = Client::hello(server.smtp()).deliver("secret@example.org", &[ALICE], &message("redacted", "x\r\n"));
    let spans = collector.wait_for(&id, "delivery.attempt", 1);
    for key in ["ringpost.message.from", "client.address", "ringpost.helo", "server.address", "ringpost.reason"] {
        assert!(spans.iter().all(|span| span.attribute(key).is_empty()), "{key}: {spans:#?}");
    }
    assert_eq!(one(&spans, "smtp.message").attribute("ringpost.message.id"), id);
}
