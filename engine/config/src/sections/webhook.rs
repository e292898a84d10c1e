//! The keys of a `[[target]]` that takes messages by HTTP.

use crate::{
    check,
    keys::Choice,
    reader::{Setting, Table, Trouble},
    sections::hop,
    targets::{WebhookFormat, WebhookOptions},
};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Most header fields of the config, and longest value of one, in octets: servers refuse more than some KiB in all.
const HEADERS_MAX: usize = 32;
const HEADER_VALUE_MAX: usize = 4096;
/// Longest name of a header field, in octets.
const HEADER_NAME_MAX: usize = 128;
/// Longest URL, in octets: what servers take at least, and proxies at most.
const URL_MAX: usize = 8000;

/// Header fields that a request has from us, or that would change where it ends.
const HEADERS_OWN: [&str; 7] =
    ["content-type", "content-length", "host", "user-agent", "idempotency-key", "connection", "transfer-encoding"];

/// How the names of our own header fields begin.
const HEADERS_OWN_PREFIX: &str = "ringpost-";

/// What a URL may have beside letters and digits.
const URL_CHARACTERS: &str = "-._~:/?[]@!$&'()*+,;=%";

/// What the name of a header field may have beside letters and digits.
const TOKEN_CHARACTERS: &str = "!#$%&'*+-.^_`|~";

impl Choice for WebhookFormat {
    const ALL: &'static [(&'static str, Self)] = &[("json", Self::Json), ("multipart", Self::Multipart)];
}

pub(crate) fn webhook(table: &Table<'_>) -> WebhookOptions {
    let default = WebhookOptions::default();
    let url = table.text("url", "", url);
    let ca = table.optional_file("ca");
    let (certificate, cert) = hop::certificate(table, "cert", "key");
    for setting in [&ca, &cert] {
        let holds = setting.value.is_none() || url.value.starts_with(HTTPS);
        table.reader.require(holds, &[setting.spot(), url.spot()], || {
            format!("there is no TLS to use it in: the url does not begin with {HTTPS:?}")
        });
    }
    WebhookOptions {
        format: table.choice("format", default.format).value,
        secret_file: table.optional_file("secret_file").value,
        ca: ca.value,
        certificate,
        timeout: table.time("timeout", default.timeout).value,
        headers: headers(table),
        url: url.value,
    }
}

const HTTP: &str = "http://";
pub(crate) const HTTPS: &str = "https://";

pub(crate) fn url(text: &str) -> Result<(), Trouble> {
    let Some(rest) = text.strip_prefix(HTTPS).or_else(|| text.strip_prefix(HTTP)) else {
        let bare = !text.contains("://") && text.contains('.');
        let guess = if bare { Some(format!("{HTTPS}{text}")) } else { None };
        let reason = format!("{text:?} does not begin with {HTTPS:?} or {HTTP:?}");
        return Err(Trouble::from(reason).suggest(guess.filter(|guess| url(guess).is_ok())));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || URL_CHARACTERS.contains(c);
    let reason = if text.len() > URL_MAX {
        return Err(format!("the URL is longer than {URL_MAX} octets").into());
    } else if text.contains('#') {
        "has a fragment, which no server is sent"
    } else if authority.contains('@') {
        // What stands there may be a password.
        return Err("the URL has a user in it; give what the server asks for in headers".into());
    } else if let Some(other) = text.chars().find(|c| !fits(*c)) {
        return Err(format!("{text:?} is not a URL: it has {other:?}, which has to be written as %XX").into());
    } else if authority.is_empty() {
        "has no host"
    } else {
        return self::authority(authority);
    };
    Err(format!("{text:?} {reason}").into())
}

/// A host, and perhaps a port.
fn authority(text: &str) -> Result<(), Trouble> {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, behind))) if address.parse::<Ipv6Addr>().is_ok() => ("", behind),
        Some(_) => return Err(format!("{text:?} is not an IPv6 address in brackets").into()),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_address = host.is_empty() && text.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    if !is_address && host.is_empty() {
        return Err(format!("{text:?} has no host").into());
    }
    if !is_address {
        check::hostname(host)?;
    }
    let sound =
        port.is_empty() || port.strip_prefix(':').and_then(|port| port.parse().ok()).is_some_and(|port: u16| port > 0);
    if sound { Ok(()) } else { Err(format!("{text:?} has no port from 1 to 65535 behind its colon").into()) }
}

fn headers(table: &Table<'_>) -> Vec<(String, String)> {
    let (names, values): (Vec<_>, Vec<_>) = table.pairs("headers", header_name, header_value).into_iter().unzip();
    let folded: Vec<Setting<String>> =
        names.iter().cloned().map(|name| name.map(|name| name.to_ascii_lowercase())).collect();
    table.reader.distinct(&folded, |name, earlier| format!("{name:?} is a header field already, {earlier}"));
    if let Some(surplus) = names.get(HEADERS_MAX) {
        let reason = || format!("{} header fields are more than {HEADERS_MAX}", names.len());
        table.reader.require(false, &[surplus.spot()], reason);
    }
    names.into_iter().map(|name| name.value).zip(values).collect()
}

fn header_name(name: &str) -> Result<(), Trouble> {
    let fits = |c: char| c.is_ascii_alphanumeric() || TOKEN_CHARACTERS.contains(c);
    if name.is_empty() || name.len() > HEADER_NAME_MAX || !name.chars().all(fits) {
        let reason = "is not the name of a header field: letters, digits and";
        return Err(format!("{name:?} {reason} {TOKEN_CHARACTERS}, at most {HEADER_NAME_MAX}").into());
    }
    let folded = name.to_ascii_lowercase();
    if HEADERS_OWN.contains(&folded.as_str()) || folded.starts_with(HEADERS_OWN_PREFIX) {
        return Err(format!("{name:?} is a header field that the server itself writes").into());
    }
    Ok(())
}

/// The value is not repeated in a fault: it may be a secret.
fn header_value(value: &str) -> Result<(), Trouble> {
    let reason = if value.len() > HEADER_VALUE_MAX {
        format!("is longer than {HEADER_VALUE_MAX} octets")
    } else if value.trim() != value {
        "begins or ends with a blank".to_owned()
    } else if !value.chars().all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic()) {
        "has a character that is not printable ASCII".to_owned()
    } else {
        return Ok(());
    };
    Err(format!("the value {reason}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, TargetKind, config::Certificate, tests::check};
    use ringpost_base::Span;

    fn target(keys: &str) -> String {
        format!("[[target]]\nname = 'local'\nkind = 'webhook'\n{keys}")
    }

    #[track_caller]
    fn options(keys: &str) -> WebhookOptions {
        let config = Config::parse("f", &target(keys)).unwrap_or_else(|errors| panic!("{errors}\n{keys}"));
        let TargetKind::Webhook(webhook) = &config.targets[0].kind else { panic!("{:?}", config.targets) };
        webhook.clone()
    }

    #[test]
    fn values() {
        let webhook = options(
            "url = 'https://a.example/'\nformat = 'multipart'\nsecret_file = 's'\nca = 'ca'\ncert = 'c'\nkey = 'k'\n\
             timeout = '1s'\nheaders = { Authorization = 'Bearer x y', 'x.y' = '' }",
        );
        assert_eq!((webhook.url.as_str(), webhook.format), ("https://a.example/", WebhookFormat::Multipart));
        assert_eq!((webhook.secret_file.as_deref(), webhook.ca.as_deref()), (Some("s"), Some("ca")));
        assert_eq!(webhook.certificate, Some(Certificate { cert: "c".into(), key: "k".into(), ocsp: None }));
        assert_eq!(webhook.timeout, Span::seconds(1));
        let headers = [("Authorization", "Bearer x y"), ("x.y", "")];
        assert_eq!(webhook.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let table = options("url = 'http://a'\n[target.headers]\nb = '1'\na = '2'");
        assert_eq!(table.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert!(!format!("{webhook:?}").contains("Bearer"), "a value may be a secret");
    }

    #[test]
    fn urls() {
        for good in [
            "http://localhost",
            "https://a.example:8443/mail?x=%20y&z",
            "http://192.0.2.1:80/",
            "https://[2001:db8::1]/a",
            "https://[::1]:443",
            "http://a?b",
        ] {
            assert!(url(good).is_ok(), "{good}");
        }
        for (bad, reason) in [
            ("", "\"\" does not begin with \"https://\" or \"http://\""),
            ("ftp://a", "\"ftp://a\" does not begin with \"https://\" or \"http://\""),
            (
                "a.example/x",
                "\"a.example/x\" does not begin with \"https://\" or \"http://\"; did you mean \
                 \"https://a.example/x\"?",
            ),
            ("https://a/#b", "\"https://a/#b\" has a fragment, which no server is sent"),
            ("https://u:p@a/", "the URL has a user in it; give what the server asks for in headers"),
            ("https:///a", "\"https:///a\" has no host"),
            ("https://:80/a", "\":80\" has no host"),
            ("https://a b/", "\"https://a b/\" is not a URL: it has ' ', which has to be written as %XX"),
            ("https://a/ä", "\"https://a/ä\" is not a URL: it has 'ä', which has to be written as %XX"),
            ("https://a:0/", "\"a:0\" has no port from 1 to 65535 behind its colon"),
            ("https://a:/", "\"a:\" has no port from 1 to 65535 behind its colon"),
            ("https://[::1/", "\"[::1\" is not an IPv6 address in brackets"),
            ("https://[::1]x/", "\"[::1]x\" has no port from 1 to 65535 behind its colon"),
            ("https://a..b/", "\"a..b\" is not a host name: it has an empty label"),
        ] {
            check(&target(&format!("url = '{bad}'")), &[&format!("f:4:7: target[0].url: {reason}")]);
        }
        assert!(url(&format!("http://a/{}", "a".repeat(URL_MAX))).is_err());
    }

    #[test]
    fn what_takes_tls() {
        check(
            &target("url = 'http://a'\nca = 'a'\ncert = 'b'\nkey = 'c'"),
            &[
                "f:5:6: target[0].ca: there is no TLS to use it in: the url does not begin with \"https://\"",
                "f:6:8: target[0].cert: there is no TLS to use it in: the url does not begin with \"https://\"",
            ],
        );
        check(
            &target("url = 'https://a'\nkey = 'c'"),
            &["f:5:7: target[0].key: cert and key belong together, and only one of them is here"],
        );
        check(
            &target("format = 'xml'"),
            &[
                "f:1:1: target[0].url: missing, wants a URL, such as \"https://example.com/mail\"",
                "f:4:10: target[0].format: \"xml\" is not one of json, multipart",
            ],
        );
    }

    #[test]
    fn header_fields() {
        let own = |name: &str| format!("{name:?} is a header field that the server itself writes");
        check(
            &target(
                "url = 'http://a'\n[target.headers]\nContent-Type = 'x'\nRINGPOST-Id = 'x'\n'a b' = 'x'\na = 5\n\
                 b = ' secret'\nc = \"secret\\n\"\nd = 'x'\nD = 'y'\n\"\\u001b\" = 'x'",
            ),
            &[
                &format!("f:6:1: target[0].headers.Content-Type: {}", own("Content-Type")),
                &format!("f:7:1: target[0].headers.RINGPOST-Id: {}", own("RINGPOST-Id")),
                "f:8:1: target[0].headers.\"a b\": \"a b\" is not the name of a header field: letters, digits and \
                 !#$%&'*+-.^_`|~, at most 128",
                "f:9:5: target[0].headers.a: found an integer, wants a text",
                "f:10:5: target[0].headers.b: the value begins or ends with a blank",
                "f:11:5: target[0].headers.c: the value begins or ends with a blank",
                "f:13:1: target[0].headers.D: \"d\" is a header field already, target[0].headers.d",
                "f:14:1: target[0].headers.\"\\u{1b}\": \"\\u{1b}\" is not the name of a header field: letters, \
                 digits and !#$%&'*+-.^_`|~, at most 128",
            ],
        );
        check(
            &target("url = 'http://a'\nheaders = 'a: b'"),
            &["f:5:11: target[0].headers: found a string, wants a table of texts, such as { X-Tenant = \"a\" }"],
        );
        let many: Vec<_> = (0..=HEADERS_MAX).map(|n| format!("h{n} = ''")).collect();
        let errors = Config::parse("f", &target(&format!("url = 'http://a'\nheaders = {{ {} }}", many.join(", "))));
        let errors = errors.expect_err("one too many").to_string();
        assert!(errors.ends_with("target[0].headers.h32: 33 header fields are more than 32"), "{errors}");
        let long = "a".repeat(HEADER_VALUE_MAX + 1);
        assert!(header_value(&long[1..]).is_ok() && header_value(&long).is_err() && header_value("ä").is_err());
    }
}
