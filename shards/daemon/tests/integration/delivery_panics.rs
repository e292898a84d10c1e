//! A delivery that panics ends that delivery, and nothing else.

use crate::support::http::Http;
use crate::support::queue::{hasty, last_reason};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;

const ALICE: &str = "alice@example.com";

/// Settings in which mail for example.com goes to a target of a kind, whose name is `odd`, and that for example.net to another.
fn settings(kind: &str, line: &str) -> Settings {
    let settings = hasty().target("odd", kind, &[line]).domain_to("example.com", "\"odd\"", &[]);
    settings.domain("example.net", "\"any\"", "mail/{domain}/{local}")
}

#[test]
fn a_delivery_that_panics_is_tried_again_and_the_others_go_on() {
    let http = Http::start(|_, _| (204, String::new()));
    let url = format!("url = \"http://{}/\"", http.address);
    for (kind, line) in [("maildir", "path = \"odd/{local}\""), ("file", "path = \"odd\""), ("webhook", &url)] {
        let mut server = Server::start(settings(kind, line).fault("delivery.panic", "odd"));
        let mut client = Client::hello(server.smtp());
        let id = client.deliver("a@sender.example", &[ALICE], &message("odd", "x\r\n"));
        let other = client.deliver("a@sender.example", &["bob@example.net"], &message("other", "x\r\n"));
        assert_eq!(server.maildir("example.net/bob").only().sent(), message("other", "x\r\n"), "{kind}");
        // More than once: after the first panic there is somebody to try it again.
        wait_until("it is tried again", || server.metrics().total("ringpost_deliveries_panicked_total") >= 3);
        assert_eq!(last_reason(&server, &id), "4.3.0 a fault of this server", "{kind}");
        assert!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"deferred\"") >= 3, "{kind}");
        let line = server.wait_for_line("delivery panicked", |line| line["id"] == id.as_str());
        assert_eq!(line["destination"], "odd", "{line}");
        assert!(
            !server.log().iter().any(|line| line["message"] == "delivery panicked" && line["id"] == other.as_str())
        );
        // The session that brought it is as good as ever.
        client.say("NOOP", 250);
        server.stop();
        server.change(Settings::without_faults);
        server.start_again();
        server.wait_until_delivered();
        server.stop();
    }
    assert_eq!(http.requests().len(), 1);
}
