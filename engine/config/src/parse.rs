//! From text to config: TOML first, then every section.
//!
//! Where the text is not TOML, only that is reported: what a broken table meant to say can't be judged. The faults of
//! TOML itself are collected table by table, since the parser stops at the first.

use crate::{
    config::Config,
    credentials::Credentials,
    errors::{Errors, Fault, locate},
    reader::{Reader, Table},
    routing::Routing,
    sections::{
        ROOT, bans, canary, cores, dns, domain, limits, listener, route, screen, server, storage, target, telemetry,
        tls,
    },
};
use std::{collections::BTreeSet, ops::Range};
use toml_edit::Document;

/// Most faults of TOML that are looked for. Each takes another reading of the text.
const SYNTAX_FAULTS_MAX: usize = 20;

impl Config {
    /// Reads the text of a config file. `file_name` is only for the errors.
    ///
    /// # Errors
    /// Everything that is wrong with the text, in its order.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Errors> {
        Self::parse_with(file_name, text, &Credentials::Unresolved)
    }

    /// The same, with the paths of the credentials that it names.
    ///
    /// # Errors
    /// Everything that is wrong with the text, in its order.
    pub fn parse_with(file_name: &str, text: &str, credentials: &Credentials) -> Result<Self, Errors> {
        parse(text, credentials).map(|(config, _)| config).map_err(|faults| locate(file_name, text, faults))
    }
}

/// The config, and the path of every key that was asked for.
pub(crate) fn parse(text: &str, credentials: &Credentials) -> Result<(Config, BTreeSet<String>), Vec<Fault>> {
    let Ok(document) = Document::parse(text) else { return Err(syntax_faults(text)) };
    let reader = Reader::new(text, credentials);
    let config = read(&reader.root(document.as_table(), &ROOT));
    let (faults, asked) = reader.finish();
    if faults.is_empty() { Ok((config, asked)) } else { Err(faults) }
}

fn read(root: &Table<'_>) -> Config {
    let (server, state_dir) = server::server(root);
    let spool = storage::spool(root);
    let cores = cores::cores(root, &spool.inline_max);
    let (admin, admin_listen) = server::admin(root, &state_dir);
    let (tls, tls_required) = tls::tls(root);
    let around = listener::Around { using: &cores.using, admin: &admin_listen, tls_required: &tls_required };
    let listeners = listener::listeners(root, &around);
    let session = limits::session(root, &server, &cores.using, &spool.options);
    let targets = target::targets(root);
    let (domains, routes) = domain::domains(root, &listeners, &targets);
    let patterns = route::patterns(root, &targets);
    let queue = storage::queue(root, &targets);
    let screen = screen::screen(root);
    let watched =
        bans::Watched { listeners: &listeners, ledger: &session.ledger, pregreet_wait: &screen.pregreet_wait };
    let policy = ringpost_policy::Options {
        domains,
        hops_max: session.hops_max,
        connections_soft_percent: session.connections_soft_percent,
        banner_delay: session.banner_delay,
        bans: bans::bans(root, &watched),
        greylist: screen::greylist(root, &screen),
        ledger: session.ledger,
        screen: screen.options,
    };
    Config {
        server,
        cores,
        listeners,
        tls,
        dns: dns::dns(root),
        limits: session.limits,
        smtp: session.smtp,
        spool: spool.options,
        space: spool.space,
        queue: queue.options,
        policy,
        routing: Routing {
            domains: routes,
            patterns,
            default_target: queue.default_target,
            next_hop_timeout: queue.next_hop_timeout,
        },
        targets: targets.list,
        explain: server::explain(root),
        admin,
        canary: canary::canary(root),
        log: server::log(root),
        telemetry: telemetry::telemetry(root),
    }
}

/// The faults of a text that is not TOML: the first of each table. A table with a fault is blanked and the rest read
/// again, so that places stay what they are in the text.
fn syntax_faults(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut rest = text.to_owned();
    while faults.len() < SYNTAX_FAULTS_MAX {
        let Err(error) = Document::parse(rest.as_str()) else { break };
        let place = error.span().unwrap_or_default();
        let key = match text.get(place.clone()) {
            Some(key) if error.message() == "duplicate key" => key.to_owned(),
            _ => String::new(),
        };
        let table = table_around(text, place.start);
        let blank = text[table.clone()].replace(|c| c != '\n', " ");
        faults.push(Fault { place, key, reason: error.message().to_owned(), suggestion: None });
        // Characters of several bytes leave the blank shorter than the table.
        rest.replace_range(table.clone(), &format!("{blank}{}", " ".repeat(table.len() - blank.len())));
    }
    faults
}

/// The lines from the header at or before `at` to the next one. A header here is a line that starts like one: also in
/// a text that is not TOML this is where its writer began a table.
fn table_around(text: &str, at: usize) -> Range<usize> {
    let (mut start, mut line_start) = (0, 0);
    for line in text.split_inclusive('\n') {
        let header = line.strip_prefix("[[").or_else(|| line.strip_prefix('['));
        if header.is_some_and(|header| header.starts_with(|c: char| c.is_ascii_alphabetic())) {
            if line_start > at {
                return start..line_start;
            }
            start = line_start;
        }
        line_start += line.len();
    }
    start..text.len()
}

#[cfg(test)]
mod tests {
    use crate::tests::check;

    #[test]
    fn text_that_is_not_toml() {
        check(
            "[server]\nhostname = mx\n[log]\nlevel = 'info'\n# ü\n\
             level = 'warn'\n[queue]\nretry_max = 1\n[admin\n[cores]\nuse = [\n",
            &[
                "f:2:12: string values must be quoted, expected literal string",
                "f:6:1: level: duplicate key",
                "f:9:7: unclosed table, expected `]`",
                "f:11:8: unclosed array, expected `]`",
            ],
        );
    }
}
