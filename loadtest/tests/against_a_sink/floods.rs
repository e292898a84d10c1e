//! `flood`: every kind of connection must end, at the sink, as its kind says.

use crate::run::Run;
use crate::sink::{Ending, Options, Sink, Tls};

/// The result of a flood: done, refused and failed.
#[track_caller]
fn check_flood(run: &Run, done: u64, refused: u64, failed: u64) {
    let record = run.record();
    let result = &record["result"];
    let found: Vec<_> = ["done", "refused", "failed"].iter().map(|name| result[name].as_u64()).collect();
    assert_eq!(found, [Some(done), Some(refused), Some(failed)], "{result}");
    assert_eq!(result["started"].as_u64(), Some(done + refused + failed));
}

#[track_caller]
fn check_endings(sink: &Sink, count: usize, ending: Ending) {
    let endings = sink.endings(count);
    assert_eq!(endings.len(), count);
    assert!(endings.iter().all(|found| *found == ending), "{endings:?}");
}

#[test]
fn sessions_to_the_end() {
    let sink = Sink::start(Options::default());
    let run = Run::of(&sink, "flood", &["--kind", "connect", "--count", "60", "--concurrency", "7", "--threads", "2"]);
    run.exits(0);
    check_flood(&run, 60, 0, 0);
    assert_eq!(run.record()["result"]["replies"]["221"], 60);
    check_endings(&sink, 60, Ending::InOrder);
    Run::of(&sink, "flood", &["--count", "10", "--noops", "3"]).exits(0);
    assert_eq!(sink.noops(), 30);
}

#[test]
fn refused_connections_are_counted_by_reply() {
    let refuse: fn(u64) -> bool = |number| number % 3 == 0;
    let sink = Sink::start(Options { refuse_connection: refuse, ..Options::default() });
    let run = Run::of(&sink, "flood", &["--count", "30", "--concurrency", "3"]);
    run.exits(1);
    check_flood(&run, 20, 10, 0);
    let refusals = &run.record()["result"]["refusals"];
    assert_eq!((&refusals[0]["code"], &refusals[0]["count"]), (&421.into(), &10.into()));
}

#[test]
fn a_rate_and_a_duration_end_a_flood() {
    let sink = Sink::start(Options::default());
    let run = Run::of(&sink, "flood", &["--rate", "100/s", "--duration", "200ms", "--concurrency", "20"]);
    run.exits(0);
    check_flood(&run, 20, 0, 0);
}

#[test]
fn handshakes_are_full_ones_and_end_in_order() {
    for (tls, option) in [(Tls::Starttls, "off"), (Tls::Starttls, "starttls"), (Tls::Implicit, "implicit")] {
        for version in ["1.2", "1.3"] {
            let sink = Sink::start(Options { tls, ..Options::default() });
            let options = ["--kind", "handshake", "--count", "20", "--tls", option, "--tls-version", version];
            let run = Run::of(&sink, "flood", &options);
            run.exits(0);
            check_flood(&run, 20, 0, 0);
            let record = run.record();
            assert_eq!(record["result"]["stages"]["tls"]["count"], 20);
            let labels = record["result"]["tls"].as_object().expect("is a table");
            let mark = format!("TLSv{}", version.replace('.', "_"));
            assert!(labels.keys().all(|label| label.starts_with(&mark)), "{labels:?}");
            assert_eq!((sink.handshakes(), sink.resumed()), (20, 0));
            check_endings(&sink, 20, Ending::InOrder);
        }
    }
    let run = Run::of(&Sink::start(Options::default()), "flood", &["--kind", "handshake", "--count", "5"]);
    run.exits(1);
    check_flood(&run, 0, 0, 5);
    assert_eq!(run.record()["result"]["breaks"]["protocol"]["count"], 5);
}

#[test]
fn resets_come_in_every_place_in_turn() {
    for (tls, option) in [(Tls::Starttls, "off"), (Tls::Implicit, "implicit")] {
        let sink = Sink::start(Options { tls, ..Options::default() });
        let options = ["--kind", "reset", "--count", "80", "--concurrency", "5", "--tls", option];
        let run = Run::of(&sink, "flood", &options);
        run.exits(0);
        check_flood(&run, 80, 0, 0);
        let record = run.record();
        let places = record["result"]["reset_places"].as_object().expect("is a table");
        assert_eq!(places.len(), 8);
        assert!(places.values().all(|count| *count == 10), "{places:?}");
        check_endings(&sink, 80, Ending::Reset);
        // Only where the reset comes behind the end of the message can it have arrived.
        assert!(sink.received().len() <= 10);
    }
}

/// The sink says nothing until the client has: who waits for a banner would wait for ever.
#[test]
fn clients_that_talk_first_do_not_wait_for_the_banner() {
    let sink = Sink::start(Options { wait_for_client: true, ..Options::default() });
    let run = Run::of(&sink, "flood", &["--kind", "pregreet", "--count", "20", "--timeout", "20s"]);
    run.exits(0);
    check_flood(&run, 20, 0, 0);
    let sink = Sink::start(Options { wait_for_client: true, refuse_connection: |_| true, ..Options::default() });
    let run = Run::of(&sink, "flood", &["--kind", "pregreet", "--count", "20", "--timeout", "20s"]);
    run.exits(1);
    check_flood(&run, 0, 20, 0);
    assert_eq!(run.record()["result"]["refusals"][0]["command"], "talking first");
}
