//! Metrics equal what clients counted, and come back to zero.

use crate::support::load::load;
use crate::support::metrics::Metrics;
use crate::support::net::reset;
use crate::support::programs::run;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use ringpost_metrics::ProcessGauge;

#[test]
fn what_the_load_tester_counted_is_what_the_server_counted() {
    let server = Server::start(Settings::default().cores(2));
    let acked = server.home.path().join("acked");
    let mut command = load(server.smtp(), &["--messages", "500", "--sessions", "20", "--messages-per-connection", "3"]);
    command.args(["--size", "mix", "--recipients", "2", "--tls", "starttls", "--acked"]).arg(&acked);
    run(&mut command, "").ok();
    let acked = std::fs::read_to_string(acked).expect("acknowledged").lines().count() as u64;
    assert_eq!(acked, 500);
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), acked);
    assert_eq!(metrics.total("ringpost_recipients_accepted_total"), 2 * acked);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"delivered\""), 2 * acked);
    assert_eq!(metrics.total("ringpost_delivery_seconds_count"), acked);
    let sessions = metrics.total("ringpost_sessions_opened_total");
    assert_eq!(metrics.total("ringpost_sessions_closed_total"), sessions);
    assert_eq!(metrics.sum("ringpost_sessions_closed_total", "how=\"quit\""), sessions);
    assert_eq!(metrics.total("ringpost_tls_handshakes_total"), sessions);
    for name in ["ringpost_messages_rejected_total", "ringpost_messages_deferred_total", "ringpost_spool_errors_total"]
    {
        assert_eq!(metrics.total(name), 0, "{name}");
    }
    let syncs = metrics.total("ringpost_spool_syncs_total");
    assert!(syncs > 0 && metrics.total("ringpost_spool_records_total") >= acked, "{syncs} syncs");
}

/// Adds what a client counted to the sum, by the reply's first digit.
fn add(sum: &mut [u64; 6], client: &Client) {
    sum.iter_mut().zip(client.classes).for_each(|(sum, count)| *sum += count);
}

#[test]
fn replies_by_class_are_what_the_client_read() {
    let server = Server::start(Settings::default().set("limits", "errors_per_session = 4"));
    let mut sum = [0; 6];
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &message("counted", "x\r\n"));
    client.say("NOOP", 250);
    client.say("VRFY a", 252);
    client.say("RCPT TO:<a@example.com>", 503);
    client.begin("a@example.org", &["alice@example.com"]);
    client.send(b"bare\nnewline\r\n.\r\n");
    client.expect(550);
    client.say("QUIT", 221);
    add(&mut sum, &client);
    let mut wrong = Client::hello(server.smtp());
    for _ in 0..4 {
        wrong.say("WRONG", 500);
    }
    wrong.expect(421);
    add(&mut sum, &wrong);
    // All in one write, so that replies are joined.
    let mut joined = Client::connect(server.smtp());
    joined.send(b"EHLO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nRSET\r\nBDAT 2 LAST\r\n\r\nQUIT\r\n");
    while joined.try_reply().expect("a reply").is_some() {}
    add(&mut sum, &joined);
    server.wait_for_rest();
    let metrics = server.metrics();
    for (digit, count) in sum.iter().enumerate().skip(2) {
        let label = format!("class=\"{digit}xx\"");
        assert_eq!(metrics.sum("ringpost_smtp_replies_total", &label), *count, "{label}");
    }
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), 1);
    assert_eq!(metrics.total("ringpost_messages_rejected_total"), 1);
    assert_eq!(metrics.total("ringpost_recipients_refused_total"), 1);
    assert_eq!(metrics.sum("ringpost_sessions_closed_total", "how=\"server\""), 1);
    assert_eq!(metrics.sum("ringpost_sessions_closed_total", "how=\"quit\""), 2);
}

#[test]
fn gauges_come_back_after_clients_that_reset_in_the_middle() {
    let server = Server::start(Settings::default().cores(2).set("spool", "inline_max = \"8KiB\""));
    for number in 0..60 {
        let mut client = Client::hello(server.smtp());
        if number % 2 == 0 {
            client.begin("a@example.org", &["alice@example.com"]);
        } else {
            client.say("MAIL FROM:<a@example.org>", 250);
            client.say("RCPT TO:<alice@example.com>", 250);
            client.send(b"BDAT 1000000 LAST\r\n");
        }
        // In memory, in a body file, or nothing yet.
        let line = b"0123456789012345678901234567890123456789012345678901234567890\r\n";
        client.send(&line.repeat([0, 10, 500, 3000][number % 4]));
        if number % 3 == 0 {
            drop(client);
        } else {
            reset(client.into_stream());
        }
    }
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_messages_accepted_total"), 0);
    assert_eq!(metrics.sum("ringpost_sessions_closed_total", "how=\"peer\""), 60);
    for shard in ["shard-0000", "shard-0001"] {
        let body = server.home.state_dir().join("spool").join(shard).join("body");
        assert_eq!(std::fs::read_dir(body).expect("a folder").count(), 0, "body files are left");
    }
}

/// A line of the Prometheus text format, or not.
fn is_well_formed(line: &str) -> bool {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if let Some(help) = line.strip_prefix("# HELP ") {
        return help.split_once(' ').is_some_and(|(name, text)| is_name(name) && !text.is_empty());
    }
    if let Some(kind) = line.strip_prefix("# TYPE ") {
        let kinds = ["counter", "gauge", "histogram"];
        return kind.split_once(' ').is_some_and(|(name, kind)| is_name(name) && kinds.contains(&kind));
    }
    let Some((series, value)) = line.rsplit_once(' ') else { return line.is_empty() };
    let Some((name, labels)) = series.split_once('{') else {
        return is_of_process(series) && value.parse::<f64>().is_ok();
    };
    let labels = labels.strip_suffix('}').unwrap_or("=");
    let is_label = |label: &str| {
        let value = label.split_once('=').map(|(name, value)| (is_name(name), value));
        value.is_some_and(|(named, value)| named && value.len() > 2 && value.starts_with('"') && value.ends_with('"'))
    };
    is_name(name) && labels.split(',').all(is_label) && value.parse::<f64>().is_ok()
}

/// Whether a metric is of the process, so that not every shard has it.
fn is_of_process(name: &str) -> bool {
    ProcessGauge::ALL.iter().any(|row| row.family().name == name)
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let server = Server::start(Settings::default().cores(2));
    let first = server.get("/metrics").1;
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("text", "x\r\n"));
    server.wait_for_rest();
    for text in [first, server.get("/metrics").1] {
        for line in text.lines() {
            assert!(is_well_formed(line), "{line:?}");
        }
        // Every series tells its shard but those of the process, and both shards have all of them.
        let samples: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let of = |shard: &str| samples.iter().filter(|line| line.contains(shard)).count();
        let (first, second) = (of("shard=\"0\""), of("shard=\"1\""));
        assert!(first == second && first > 0, "{first} {second}");
        for sample in samples.iter().filter(|line| !line.contains("shard=\"")) {
            let name = sample.split(['{', ' ']).next().expect("a name");
            assert!(is_of_process(name), "{sample}");
        }
        let metrics = Metrics::parse(&text);
        for name in declared_names(&text) {
            metrics.total(&name);
        }
    }
}

/// Metrics of shards that are declared with TYPE and are no histograms.
fn declared_names(text: &str) -> Vec<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pairs = types.filter_map(|rest| rest.split_once(' '));
    let of_shards = pairs.filter(|(name, kind)| *kind != "histogram" && !is_of_process(name));
    of_shards.map(|(name, _)| name.to_owned()).collect()
}
