//! The reference page of the config file, as Markdown, from the rows that the reader reads by.

use crate::{
    keys::{Change, Key, Section},
    sections::{
        ROOT, bans, canary, cores, dns, domain, limits, listener, route, screen, server, storage, target, telemetry,
        tls,
    },
};
use std::fmt::Write;

/// Every table of the file, in the order of the page.
pub(crate) static SECTIONS: &[&Section] = &[
    &ROOT,
    &server::SERVER,
    &cores::CORES,
    &cores::LIMITS,
    &cores::OVERRIDE,
    &cores::OVERRIDE_LIMITS,
    &listener::LISTENER,
    &tls::TLS,
    &tls::CERTIFICATES,
    &dns::DNS,
    &limits::LIMITS,
    &limits::SMTP,
    &bans::BANS,
    &bans::RULE,
    &screen::SCREEN,
    &screen::LIST,
    &screen::GREYLIST,
    &storage::SPOOL,
    &storage::QUEUE,
    &domain::DOMAIN,
    &domain::RECIPIENTS_FILE,
    &route::ROUTE,
    &target::TARGET,
    &server::EXPLAIN,
    &server::ADMIN,
    &canary::CANARY,
    &server::LOG,
    &telemetry::TELEMETRY,
];

const HEAD: &str = "\
# The config file

Generated from `engine/config` by `cargo xtask docs`. `config/ringpost.toml` is the same in the form of a file, with
every key at its default; `config/examples/` has the files of real deployments. `ringpost check --config FILE` reports
everything that is wrong with a file at once, and `ringpost config show` prints the effective config.

The file is TOML. Every key may be left out unless its default is given as *required*; a key that is not on this page is
an error.

`ringpost reload` makes the running server read the file again. The column *change* says what becomes of a changed key
then: with *reload* the new value holds from that moment on, with *restart* the running server keeps the old one
and says so.

- A **size** is a string with a unit, `\"4KiB\"`, `\"50MiB\"`, `\"8GiB\"` (powers of 1024), or a whole number of bytes.
- A **duration** is a string with a unit: `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"4h\"`, `\"5d\"`.
- A **core** is meant by the number that Linux gives the CPU, as in `/proc/cpuinfo`.
- A **file** that is read, a certificate, a key, a secret or a list of recipients, is a path, or `\"credential:NAME\"`: the file of this
  name that systemd hands to the service by `LoadCredential=NAME:FILE`, from `$CREDENTIALS_DIRECTORY`.
";

/// The text of `docs/config.md`.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    for section in SECTIONS.iter().filter(|section| !section.path.is_empty()) {
        let _ = writeln!(page, "\n## `{}`\n\n{}", section.header, section.intro);
        if let Some(stand_in) = section.stand_in {
            let _ = writeln!(page, "\nWithout any, the server acts as with\n\n```toml\n{stand_in}```");
        }
        table(&mut page, section);
    }
    page
}

fn table(page: &mut String, section: &Section) {
    // The limits of an override are described where they are first.
    let described = SECTIONS.iter().find(|other| std::ptr::eq(other.keys, section.keys));
    if described.is_some_and(|first| first.path != section.path) {
        return;
    }
    let _ = writeln!(page, "\n| key | type | default | change | meaning |\n| --- | --- | --- | --- | --- |");
    for key in section.keys {
        let (default, doc) = match key {
            key if key.is_table() => (String::new(), format!("See `{}`.", header_of(section, key))),
            Key { default: Some(default), doc, .. } => (format!("`{default}`"), (*doc).to_owned()),
            Key { default: None, doc, .. } => ("*required*".to_owned(), (*doc).to_owned()),
        };
        let change = match (key.is_table(), key.change) {
            (true, _) => "",
            (false, Change::Reload) => "reload",
            (false, Change::Restart) => "restart",
        };
        let because = key.because.map(|because| format!(" {because}.")).unwrap_or_default();
        let kinds: Vec<_> = key.of.iter().map(|kind| format!("`{kind}`")).collect();
        let only = if kinds.is_empty() { String::new() } else { format!(" Only for {}.", kinds.join(", ")) };
        let secret = key.secret.told();
        let (name, documented) = (key.name, key.kind.documented());
        let _ = writeln!(page, "| `{name}` | {documented} | {default} | {change} | {doc}{because}{secret}{only} |");
    }
}

fn header_of(section: &Section, key: &Key) -> &'static str {
    let path = section.path_of(key.name);
    SECTIONS.iter().find(|other| other.path == path).map_or("", |other| other.header)
}
