//! `[telemetry]`: traces of messages, for a collector.

use crate::{
    config::Telemetry,
    keys::{Key, Kind, Section},
    reader::{Table, Trouble},
    secrets::Secret,
    sections::webhook::{HTTPS, url},
};
use ringpost_base::Span;

pub(crate) static TELEMETRY: Section = Section {
    path: "telemetry",
    header: "[telemetry]",
    intro: "Traces of messages by OpenTelemetry: one tree for each that is sampled, from SMTP over the checks and the spool to \
            every attempt to deliver it. Addresses that `log.redact` names are left out of them too.",
    stand_in: None,
    keys: &[
        Key::new(
            "endpoint",
            Kind::Text("a URL, such as \"http://127.0.0.1:4318\", or \"\""),
            r#""""#,
            "The collector, which takes OTLP by HTTP at `/v1/traces` below this URL. Empty: nothing is traced. One that is away \
             costs its traces and nothing else.",
        )
        .secret(Secret::Url),
        Key::new(
            "sample",
            Kind::Share,
            "0.01",
            "The share of messages that are traced. Which they are follows from their ids, so that all parts of a \
             trace are there, after a restart too.",
        ),
        Key::new(
            "timeout",
            Kind::Time { min: Span::millis(100), max: Span::seconds(60) },
            r#""5s""#,
            "How long a request to the collector may take.",
        ),
        Key::new(
            "ca",
            Kind::Text("a PEM file, or \"\""),
            r#""""#,
            "The authorities that the collector's certificate is verified against, for an endpoint of `https://`. Empty: \
             those of the system.",
        ),
        Key::new(
            "headers_file",
            Kind::Text("a file, or \"\""),
            r#""""#,
            "A file with header fields for the collector, one a line, such as `Authorization: Bearer SECRET`. Read when the \
             config is read. Empty: none.",
        ),
    ],
};

pub(crate) fn telemetry(root: &Table<'_>) -> Telemetry {
    let (table, default) = (root.table("telemetry", &TELEMETRY), Telemetry::default());
    let endpoint = table.optional("endpoint", endpoint);
    let ca = table.optional_file("ca");
    let over_tls = endpoint.value.as_deref().is_some_and(|endpoint| endpoint.starts_with(HTTPS));
    table.reader.require(ca.value.is_none() || over_tls, &[ca.spot(), endpoint.spot()], || {
        format!("there is no TLS to use it in: the endpoint does not begin with {HTTPS:?}")
    });
    Telemetry {
        endpoint: endpoint.value,
        sample: table.share("sample", default.sample).value,
        timeout: table.time("timeout", default.timeout).value,
        ca: ca.value,
        headers_file: table.optional_file("headers_file").value,
    }
}

fn endpoint(text: &str) -> Result<(), Trouble> {
    url(text)?;
    if text.contains('?') {
        return Err(format!("{text:?} has a query, behind which no path can be added").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{Config, Share, tests::check};
    use ringpost_base::Span;

    #[test]
    fn values() {
        let text = "[telemetry]\nendpoint = 'https://otel.example.org:4318/x'\nsample = 0.25\ntimeout = '500ms'\n\
                    ca = '/etc/ca.pem'\nheaders_file = 'credential:otel'";
        let telemetry = Config::parse("f", text).expect("the text has no fault").telemetry;
        assert_eq!(telemetry.endpoint.as_deref(), Some("https://otel.example.org:4318/x"));
        assert_eq!((telemetry.sample.as_f64(), telemetry.timeout), (0.25, Span::millis(500)));
        assert_eq!(telemetry.ca.as_deref(), Some("/etc/ca.pem"));
        assert_eq!(telemetry.headers_file.as_deref(), Some("credential:otel"));
    }

    #[test]
    fn shares() {
        let share = |text: &str| Config::parse("f", &format!("telemetry.sample = {text}")).map(|c| c.telemetry.sample);
        for (text, want, shown) in [
            ("0", 0.0, "0"),
            ("1", 1.0, "1"),
            ("1.0", 1.0, "1"),
            ("1e-6", 0.000_001, "0.000001"),
            ("0.123456", 0.123_456, "0.123456"),
            ("0.000_000_4", 0.0, "0"),
        ] {
            let share = share(text).expect(text);
            assert_eq!((share.as_f64(), share.to_string().as_str()), (want, shown), "{text}");
            assert_eq!(Share::of(want), Some(share));
        }
        for none in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::of(none), None, "{none}");
        }
    }

    #[test]
    fn faults() {
        check(
            "[telemetry]\nendpoint = 'localhost:4318'\nsample = 1.5\ntimeout = '1h'",
            &[
                "f:2:12: telemetry.endpoint: \"localhost:4318\" does not begin with \"https://\" or \"http://\"",
                "f:3:10: telemetry.sample: 1.5 is out of range: 0 to 1",
                "f:4:11: telemetry.timeout: '1h' is out of range: 100ms to 1m",
            ],
        );
        check(
            "[telemetry]\nendpoint = 'http://a/?b'\nsample = '1%'\nca = 'x'",
            &[
                "f:2:12: telemetry.endpoint: \"http://a/?***\" has a query, behind which no path can be added",
                "f:3:10: telemetry.sample: found a string, wants a number from 0 to 1",
            ],
        );
        check(
            "telemetry = { endpoint = 'http://a', ca = 'x', sample = nan }",
            &[
                "f:1:43: telemetry.ca: there is no TLS to use it in: the endpoint does not begin with \"https://\"",
                "f:1:57: telemetry.sample: nan is out of range: 0 to 1",
            ],
        );
        check("telemetry.sample = -1", &["f:1:20: telemetry.sample: -1 is out of range: 0 to 1"]);
    }
}
