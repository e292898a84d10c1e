//! What holds for the whole file: the reference, the shipped files and the reader name the same keys.

use crate::{Config, keys::Section, markdown, parse::parse, reference::SECTIONS};
use std::collections::BTreeSet;
use toml_edit::{Document, Item, TableLike};

const SHIPPED: &str = include_str!("../../../config/ringpost.toml");
const SINGLE_HOST: &str = include_str!("../../../config/examples/single-host.toml");
const MANY_CORES: &str = include_str!("../../../config/examples/many-cores.toml");
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
            if let Some(table) = item.as_table_like() {
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
    let (_, asked) = parse(&with_examples(SHIPPED)).unwrap_or_else(|_| panic!("another test shows the errors"));
    assert_eq!(asked, described());
}

#[test]
fn every_key_that_is_described_is_rendered() {
    let mut rendered = written(&good(&with_examples(SHIPPED)).render());
    assert_eq!(rendered, described());
    rendered = written(&Config::default().render());
    let only_in_examples = |path: &String| path.starts_with("cores.override") || path.starts_with("tls.certificates.");
    assert!(described().difference(&rendered).all(only_in_examples));
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
    let own = |section: &&&Section| !section.path.starts_with("cores.override");
    for section in SECTIONS.iter().filter(own) {
        for key in section.keys.iter().filter(|key| !key.is_table()) {
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
            "f:9:2: unheard_of: unknown key; the file takes server, cores, listener, tls, limits, smtp, spool, queue, \
             domain, target, admin, log",
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
            "f:1:1: \"\\u{1b}[31m\": unknown key; the file takes server, cores, listener, tls, limits, smtp, spool, \
         queue, domain, target, admin, log",
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
