//! What holds for the whole file: the reference, the shipped files and the reader name the same keys.

use crate::{
    Config, HopTls, TargetKind,
    keys::{Change, Key, Section},
    markdown,
    parse::parse,
    reference::SECTIONS,
    sections::target,
};
use ringpost_base::Priority;
use std::collections::BTreeSet;
use toml_edit::{Document, Item, TableLike};

const SHIPPED: &str = include_str!("../../../config/ringpost.toml");
const SINGLE_HOST: &str = include_str!("../../../config/examples/single-host.toml");
const MANY_CORES: &str = include_str!("../../../config/examples/many-cores.toml");
const INTERNET: &str = include_str!("../../../config/examples/internet.toml");
const BEHIND_HAPROXY: &str = include_str!("../../../config/examples/behind-haproxy.toml");
const LMTP: &str = include_str!("../../../config/examples/lmtp.toml");
const DOVECOT: &str = include_str!("../../../config/examples/dovecot.toml");
const RELAY: &str = include_str!("../../../config/examples/relay.toml");
const PAGE: &str = include_str!("../../../docs/config.md");

/// Reads a text and compares its errors, one line each.
#[track_caller]
pub(crate) fn check(text: &str, errors: &[&str]) {
    let found = match Config::parse("f", text) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(found, errors, "\n{text}");
}

fn good(text: &str) -> Config {
    Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors:#}"))
}

/// The path of every key that the reference describes.
fn described() -> BTreeSet<String> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| section.path_of(key.name))).collect()
}

/// The path of every key that a text has.
fn written(text: &str) -> BTreeSet<String> {
    fn walk(path: &str, items: &dyn TableLike, paths: &mut BTreeSet<String>) {
        for (name, item) in items.iter() {
            let path = crate::keys::join(path, name);
            // The keys in it are the writer's own.
            if let Some(table) = item.as_table_like().filter(|_| path != "target.headers" && path != "log.modules") {
                walk(&path, table, paths);
            }
            if let Item::ArrayOfTables(tables) = item {
                tables.iter().for_each(|table| walk(&path, table, paths));
            }
            for table in item.as_array().into_iter().flatten().filter_map(|value| value.as_inline_table()) {
                walk(&path, table, paths);
            }
            paths.insert(path);
        }
    }
    let mut paths = BTreeSet::new();
    walk("", Document::parse(text).expect(text).as_table(), &mut paths);
    paths
}

/// The shipped file with its commented examples in force: a line that starts with `#` and no blank is one. It takes
/// the place of the line above where both give the same key.
fn with_examples(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        let example = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace()));
        if let Some(example) = example {
            let key = example.split_once(" = ").map(|(key, _)| key);
            let above = lines.last().and_then(|above| above.split_once(" = ")).map(|(key, _)| key);
            if key.is_some() && key == above {
                lines.pop();
            }
        }
        lines.push(example.unwrap_or(line));
    }
    lines.join("\n")
}

#[test]
fn the_shipped_file_is_the_defaults() {
    assert_eq!(good(SHIPPED), Config::default());
}

#[test]
fn the_shipped_file_names_every_key() {
    let examples = with_examples(SHIPPED);
    good(&examples);
    assert_eq!(written(&examples), described());
}

#[test]
fn every_key_that_is_read_is_described_and_the_reverse() {
    let (_, asked) = parse(&with_examples(SHIPPED), &crate::Credentials::default())
        .unwrap_or_else(|_| panic!("another test shows the errors"));
    assert_eq!(asked, described());
}

#[test]
fn every_key_that_is_described_is_rendered() {
    let mut rendered = written(&good(&with_examples(SHIPPED)).render());
    assert_eq!(rendered, described());
    rendered = written(&Config::default().render());
    let missing: Vec<_> =
        described().difference(&rendered).filter(|path| !is_only_in_examples(path)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Tables of which there are none by default, and the other form of a key.
fn is_only_in_examples(path: &str) -> bool {
    let elsewhere = |key: &Key| path == target::TARGET.path_of(key.name) && !key.is_of("maildir");
    let tables = ["cores.override", "tls.certificates.", "bans.rule", "screen.list", "domain.recipients.", "route"];
    tables.iter().any(|table| path.starts_with(table)) || target::TARGET.keys.iter().any(elsewhere)
}

/// A text in which only this key is given, with its default, and what its table requires beside it.
fn with_default(section: &Section, name: &str, default: &str) -> String {
    let table = section.stand_in.unwrap_or_default();
    let others = table.lines().filter(|line| !line.starts_with(&format!("{name} =")));
    let mut text: Vec<String> = others.map(str::to_owned).collect();
    if table.is_empty() {
        text.push(section.header.to_owned());
    }
    text.push(format!("{name} = {default}"));
    text.join("\n")
}

#[test]
fn documented_defaults_are_the_defaults() {
    let own = |section: &&&Section| !is_only_in_examples(&section.path_of(""));
    for section in SECTIONS.iter().filter(own) {
        let own = |key: &&Key| !key.is_table() && !is_only_in_examples(&section.path_of(key.name));
        for key in section.keys.iter().filter(own) {
            if let Some(default) = key.default {
                let text = with_default(section, key.name, default);
                assert_eq!(good(&text), Config::default(), "{text}");
            }
        }
        if let Some(stand_in) = section.stand_in {
            assert_eq!(good(stand_in), Config::default(), "{stand_in}");
        }
    }
}

#[test]
fn a_key_left_out_of_a_written_table_has_its_documented_default() {
    let listener = good("[[listener]]\naddress = ['127.0.0.1:2525']");
    let target = good("[[target]]\nname = 'local'\nkind = 'maildir'");
    let domain = good("[[domain]]\nname = 'example.com'\ntarget = 'local'");
    assert!([listener, target, domain].iter().all(|config| *config == Config::default()));
    for (table, key) in [
        ("[[tls.certificates]]\ncert = 'a'\nkey = 'b'", "ocsp"),
        ("[[screen.list]]\nzone = 'a.example'\nweight = 1", "answers"),
        ("[[route]]\nrecipient = '*'\ntarget = 'local'", "durability"),
        ("[[route]]\nrecipient = '*'\ntarget = 'local'", "priority"),
    ] {
        let (path, _) = table.trim_start_matches("[[").split_once("]]").expect(table);
        let section = SECTIONS.iter().find(|section| section.path == path).expect(path);
        let default = section.key(key).and_then(|key| key.default).expect(key);
        assert_eq!(good(table), good(&format!("{table}\n{key} = {default}")));
    }
}

#[test]
fn a_key_left_out_of_a_target_has_its_documented_default() {
    for (kind, required) in [("lmtp", "hosts = ['a']"), ("smtp", "hosts = ['a']"), ("webhook", "url = 'http://a'")] {
        let table = format!("[[target]]\nname = 'local'\nkind = '{kind}'\n{required}");
        for key in target::TARGET.keys.iter().filter(|key| key.is_of(kind)) {
            if let Some(default) = key.default {
                assert_eq!(good(&table), good(&format!("{table}\n{} = {default}", key.name)), "{kind}: {}", key.name);
            }
        }
    }
}

#[test]
fn kinds_of_targets_are_known_by_their_rows() {
    let kinds = crate::keys::names::<target::KindName>();
    for key in target::TARGET.keys {
        let unknown: Vec<_> = key.of.iter().filter(|kind| !kinds.contains(kind)).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", key.name);
    }
}

/// What else a key may have, of whatever kind: for each key one of these is not its default.
const VALUES: &str = "5|150|60|9|256|true|false|'7s'|'7m'|'37d'|'20ms'|'128KiB'|'1MiB'|'9MiB'|'16MiB'|'off'|'all'|'-'|''|\
                      'x'|'repair'|'1.3'|'debug'|'json'|'ask'|'implicit'|'lmtp'|'error'|'a.example'|'{address}'|\
                      'inet a b c'|'10.9.8.7:66'|['10.9.8.7:66']|['10.9.8.7']|['127.0.0.2']|[]|0|'archive'|'memory'|\
                      'high'|['*@a.example']|'https://a.example/'|'multipart'|{ a = 'warn' }";

#[test]
fn a_change_of_a_key_takes_effect_when_its_row_says() {
    let base = good(&with_examples(SHIPPED));
    let text = base.render_in_full();
    let lines: Vec<&str> = text.lines().collect();
    let mut changed = BTreeSet::new();
    let mut table = "";
    for (n, line) in lines.iter().enumerate() {
        table = line.strip_prefix('[').map_or(table, |header| header.trim_matches(['[', ']']));
        let Some((name, _)) = line.split_once(" = ") else { continue };
        let path = crate::keys::join(table, name);
        let (home, last) = path.rsplit_once('.').expect("keys are in tables");
        let row = SECTIONS.iter().find(|section| section.path == home).and_then(|section| section.key(last));
        let waits = row.unwrap_or_else(|| panic!("{path} has no row")).change == Change::Restart;
        let other = |value: &str| {
            let line = format!("{name} = {value}");
            let text = [&lines[..n], &[&line], &lines[n + 1..]].concat().join("\n");
            Config::parse("f", &text).ok().filter(|config| *config != base)
        };
        let Some(config) = VALUES.split('|').find_map(other) else { continue };
        assert!(!base.differences(&config).is_empty(), "{path}");
        assert_eq!(!base.differences_that_need_restart(&config).is_empty(), waits, "{path}");
        assert_eq!(base.fixed() != config.fixed(), waits, "{path}");
        changed.insert(path);
    }
    let tables: BTreeSet<_> = SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().filter(|key| key.is_table()).map(|key| section.path_of(key.name)))
        .collect();
    let missed: Vec<_> =
        described().into_iter().filter(|path| !changed.contains(path) && !tables.contains(path)).collect();
    // These can't change alone: recipients are a file here, and authorities need certificates.
    let together = ["domain.recipients", "tls.client_certificates"];
    assert_eq!(missed, together);
}

#[test]
fn descriptions_fit_a_table_of_the_page() {
    for section in SECTIONS {
        for key in section.keys.iter().filter(|key| !key.is_table()) {
            let path = section.path_of(key.name);
            assert!(key.doc.ends_with('.') && !key.doc.contains(['|', '\n']), "{path}: {}", key.doc);
            assert!(!key.doc.contains("  "), "{path}: {}", key.doc);
        }
    }
}

#[test]
fn the_page_is_up_to_date() {
    assert!(PAGE == markdown(), "docs/config.md is not what the example `config_reference` prints");
}

#[test]
fn the_example_of_a_single_host() {
    let config = good(SINGLE_HOST);
    assert_eq!(config.server.state_dir, "/var/lib/ringpost");
    assert_eq!(config.listeners[0].address.iter().map(|address| address.port()).collect::<Vec<_>>(), [25, 25]);
    assert!(config.policy.domains.len() > 2 && !config.tls.certificates.is_empty());
    assert_eq!(good(&config.render()), config);
}

#[test]
fn the_example_of_many_cores() {
    let config = good(MANY_CORES);
    assert!(!config.cores.overrides.is_empty());
    let first = config.cores.overrides[0];
    assert_eq!(config.cores.limits_of(first.core), &first.limits);
    assert_ne!(first.limits, config.cores.limits);
    assert_eq!(good(&config.render()), config);
}

#[test]
fn the_example_of_the_internet_has_every_defence_on() {
    let config = good(INTERNET);
    let policy = &config.policy;
    let ledger = &policy.ledger;
    for limit in [
        ledger.connections_per_ip,
        ledger.connections_per_network,
        ledger.connection_rate_per_ip,
        ledger.connection_rate_per_network,
        ledger.messages_per_ip,
        ledger.messages_per_network,
        ledger.recipients_per_ip,
        ledger.recipients_per_network,
    ] {
        assert!(limit.is_some(), "{ledger:?}");
    }
    assert!(ledger.bytes_per_ip.is_some() && ledger.bytes_per_network.is_some());
    let offences: BTreeSet<_> = policy.bans.rules.iter().map(|rule| crate::keys::name_of(rule.offence)).collect();
    assert_eq!(offences.len(), crate::keys::names::<ringpost_policy::Offence>().len());
    let scores = [policy.screen.score_tarpit, policy.screen.score_greylist, policy.screen.score_reject];
    assert!(scores.iter().all(Option::is_some) && policy.screen.pregreet_wait > ringpost_base::Span::default());
    assert!(policy.screen.lists.iter().any(|list| list.weight < 0), "one that vouches");
    assert_ne!(policy.greylist.mode, ringpost_policy::GreylistMode::Off);
    assert!(config.listeners.iter().all(crate::Listener::is_steered));
    assert_eq!(good(&config.render()), config);
}

#[test]
fn the_example_behind_a_proxy() {
    let config = good(BEHIND_HAPROXY);
    let steered: Vec<_> =
        config.listeners.iter().map(|listener| (listener.name.as_str(), listener.is_steered())).collect();
    assert_eq!(steered, [("mx", false), ("test", true)]);
    assert!(config.listeners.iter().all(|listener| listener.steer), "as the key says, in both");
    assert_eq!(good(&config.render()), config);
}

#[test]
fn the_example_of_lmtp() {
    let config = good(LMTP);
    assert_eq!(config.listeners[0].kind, crate::ListenerKind::Lmtp);
    assert_eq!((config.limits.session_timeout, config.smtp.unknown_recipients_max), (None, 0));
    assert_eq!(good(&config.render()), config);
}

#[test]
fn the_example_of_dovecot() {
    let config = good(DOVECOT);
    let TargetKind::Lmtp(hop) = &config.targets[0].kind else { panic!("{:?}", config.targets) };
    assert_eq!(hop.hosts[0].to_string(), "unix:/run/dovecot/lmtp");
    assert!(config.routing.default_target.is_some(), "reports are sent");
    assert_eq!(good(&config.render()), config);
}

#[test]
fn the_example_of_a_relay() {
    let config = good(RELAY);
    let target = |name: &str| config.targets.iter().find(|target| target.name == name).expect(name);
    let routing = &config.routing;
    assert!(routing.domains.iter().any(|route| route.targets.len() > 1), "an archive gets a copy");
    for name in routing.domains.iter().map(|route| &route.targets[0]) {
        let TargetKind::Smtp(hop) = &target(name).kind else { panic!("{name} is a next hop") };
        assert!(hop.tls == HopTls::Verified && hop.hosts.len() > 1);
    }
    let out = routing.default_target.as_deref().expect("reports are sent");
    assert!(!target(out).kind.is_local());
    let priorities: BTreeSet<_> = routing.patterns.iter().map(|route| route.priority).collect();
    assert!(priorities.contains(&Priority::High) && priorities.contains(&Priority::Low));
    assert_eq!(good(&config.render()), config);
}

#[test]
fn every_fault_of_a_file_is_reported_at_once() {
    check(
        "hostname = 'x'\nlistener = 5\n[sever]\n[log]\nlevle = 'info'\n[limits]\nrecipients = 1\nrecipient = 1\n\
         [unheard_of]\nx = 1\n[tls.certificates]\n",
        &[
            "f:1:1: hostname: unknown key; did you mean \"server.hostname\"?",
            "f:2:12: listener: found an integer, wants an array of tables, written [[listener]]",
            "f:3:2: sever: unknown key; did you mean \"server\"?",
            "f:5:1: log.levle: unknown key; did you mean \"level\"?",
            "f:7:14: limits.recipients: 1 is out of range: 100 to 50000; RFC 5321 section 4.5.3.1.8 asks for at least \
             100",
            "f:8:1: limits.recipient: unknown key; did you mean \"recipients\"?",
            "f:9:2: unheard_of: unknown key; the file takes server, cores, listener, tls, dns, limits, smtp, bans, \
             screen, greylist, spool, queue, domain, route, target, explain, admin, canary, log, telemetry",
            "f:11:1: tls.certificates: found a table, wants an array of tables, written [[tls.certificates]]",
        ],
    );
}

#[test]
fn whatever_stands_there_is_answered() {
    let text: String = with_examples(SHIPPED)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    let mut texts: Vec<String> = (0..text.len()).map(|end| text[..end].to_owned()).collect();
    for (line, key) in text.lines().filter_map(|line| line.split_once(" = ").map(|(key, _)| (line, key))) {
        for value in
            ["5", "-1", "1.5", "true", "1979-05-27", "''", "'{'", "[]", "[5]", "['\u{1}']", "{}", "[{}]", "[[]]"]
        {
            texts.push(text.replace(line, &format!("{key} = {value}")));
        }
    }
    for text in texts {
        for error in Config::parse("f", &text).err().into_iter().flatten() {
            assert!(error.line <= text.lines().count() + 1, "{error:#}");
            assert!(!format!("{error:#}").contains('\u{1}'), "{error:#}");
        }
    }
}

#[test]
fn no_text_of_the_file_reaches_a_terminal_as_it_is() {
    check(
        "\"\\u001b[31m\" = 1\nserver.hostname = \"\\u001b\"",
        &[
            "f:1:1: \"\\u{1b}[31m\": unknown key; the file takes server, cores, listener, tls, dns, limits, smtp, bans, \
         screen, greylist, spool, queue, domain, route, target, explain, admin, canary, log, telemetry",
            "f:2:19: server.hostname: \"\\u{1b}\" is not a host name: it has a character that is not a letter, a \
         digit, \"-\" or \".\"",
        ],
    );
}

#[test]
fn the_long_form_shows_the_line() {
    let errors = Config::parse("ringpost.toml", "[cores]\nlimit.connections = 1\nuse = 'al'").expect_err("two faults");
    assert_eq!(
        format!("{errors:#}"),
        [
            "ringpost.toml:2:1: cores.limit: unknown key; did you mean \"limits\"?",
            "  |",
            "2 | limit.connections = 1",
            "  | ^^^^^",
            "",
            "ringpost.toml:3:7: cores.use: \"al\" is not \"all\", a number of cores, or a list of CPU numbers",
            "  |",
            "3 | use = 'al'",
            "  |       ^^^^",
        ]
        .join("\n")
    );
}
