//! `[[route]]`, and what routes have in common with domains: which targets mail goes to, and what is promised for it.

use crate::{
    check,
    keys::{Choice, Key, Kind, Section, names},
    reader::{Reader, Setting, Table, Trouble},
    routing::PatternRoute,
    sections::target::Targets,
};
use ringpost_base::{Durability, Priority};

pub(crate) static ROUTE: Section = Section {
    path: "route",
    header: "[[route]]",
    intro: "The way of mail to some recipients, before that of their domain: the first route that fits counts. A route \
            does not accept mail: a `[[domain]]` does.",
    stand_in: None,
    keys: &[
        Key::required(
            "recipient",
            Kind::Text("a pattern, or a list of patterns, such as [\"list-*@example.com\"]"),
            "The recipients: patterns in which `*` is any text and `?` any one character, compared with the whole \
             address, its detail included, without regard to ASCII case. Aliases are followed before.",
        ),
        Key::required(
            "target",
            Kind::Text(TARGETS),
            "The `[[target]]` that their mail goes to, or a list of 1 to 8, each of which gets it.",
        ),
        DURABILITY,
        PRIORITY,
    ],
};

/// What `target` takes.
pub(crate) const TARGETS: &str = "the name of a target, or a list of names";

pub(crate) const DURABILITY: Key = Key::new(
    "durability",
    Kind::Choice(names::<Durability>),
    r#""fsync""#,
    "What has become of a message when it is answered 250. `fsync`: it is on the disk. `memory`: it is in memory \
     only, and a crash loses it; after a first failed attempt, or ten seconds without one, it is on the disk too, \
     and so is one above `spool.inline_max` from the start. `next-hop`: the target, one of kind `lmtp`, `smtp` or \
     `webhook`, has answered for it, and the client waited for that. A message whose recipients are promised \
     different things is on the disk.",
);

pub(crate) const PRIORITY: Key = Key::new(
    "priority",
    Kind::Choice(names::<Priority>),
    r#""normal""#,
    "How soon a message gets its turn, among those that wait for the same target. A lower one gets fewer turns, and \
     never none.",
);

/// Most targets of one route: each gets a copy of the message.
const TARGETS_MAX: usize = 8;

/// Most patterns of all routes together: a recipient is compared with each.
const PATTERNS_MAX: usize = 1000;

/// Longest pattern, in octets: a local part, an `@` and a domain (RFC 5321 section 4.5.3.1).
const PATTERN_MAX: usize = 64 + 1 + 255;

impl Choice for Durability {
    const ALL: &'static [(&'static str, Self)] =
        &[("memory", Self::Memory), ("next-hop", Self::NextHop), ("fsync", Self::Fsync)];
    const LATER: &'static [&'static str] = &["quorum"];
}

impl Choice for Priority {
    const ALL: &'static [(&'static str, Self)] = &[("high", Self::High), ("normal", Self::Normal), ("low", Self::Low)];
}

/// Where the mail of a domain or a route goes.
pub(crate) struct Lead {
    pub(crate) targets: Vec<String>,
    pub(crate) durability: Durability,
    pub(crate) priority: Priority,
}

/// Reads every `[[route]]`.
pub(crate) fn patterns(root: &Table<'_>, targets: &Targets) -> Vec<PatternRoute> {
    let (mut routes, mut patterns) = (Vec::new(), Vec::new());
    for table in root.tables("route", &ROUTE).value.unwrap_or_default() {
        let recipients = table.text_or_list("recipient", |entry| pattern(entry.text().unwrap_or_default()));
        table.reader.require(!recipients.value.is_empty(), &[recipients.spot()], || {
            "the list is empty, so that nothing goes this way; leave the [[route]] out instead".to_owned()
        });
        let Lead { targets, durability, priority } = lead(&table, targets);
        patterns.extend(recipients.value.iter().cloned().map(|pattern| pattern.map(|text| text.to_ascii_lowercase())));
        let recipients = recipients.value.into_iter().map(|pattern| pattern.value).collect();
        routes.push(PatternRoute { recipients, targets, durability, priority });
    }
    root.reader.distinct(&patterns, |pattern, earlier| format!("{pattern:?} has a way already, by {earlier}"));
    if let Some(surplus) = patterns.get(PATTERNS_MAX) {
        let reason = || format!("{} patterns are more than {PATTERNS_MAX}, of all routes together", patterns.len());
        root.reader.require(false, &[surplus.spot()], reason);
    }
    routes
}

fn pattern(text: &str) -> Result<(), Trouble> {
    let reason = if text.is_empty() {
        "is empty"
    } else if text.len() > PATTERN_MAX {
        "is longer than any address"
    } else if text.chars().any(char::is_control) {
        "has a control character"
    } else if !text.contains(['@', '*']) {
        let guess = if check::domain(text).is_ok() { Some(format!("*@{text}")) } else { None };
        let reason = format!("{text:?} fits no address: it has neither an \"@\" nor a \"*\"");
        return Err(Trouble::from(reason).suggest(guess));
    } else {
        return Ok(());
    };
    Err(format!("{text:?} is not a pattern: it {reason}").into())
}

/// Reads the keys that a domain and a route have in common.
pub(crate) fn lead(table: &Table<'_>, targets: &Targets) -> Lead {
    let reader = table.reader;
    let list = table.text_or_list("target", |_| Ok(()));
    let count = list.value.len();
    reader.require((1..=TARGETS_MAX).contains(&count), &[list.spot()], || match count {
        0 => "the list is empty, so that mail would go nowhere; a target of kind \"discard\" is for that".to_owned(),
        _ => format!("{count} targets are more than {TARGETS_MAX}"),
    });
    reader.distinct(&list.value, |name, earlier| format!("{name:?} is in the list already, as {earlier}"));
    list.value.iter().for_each(|name| targets.require(reader, name));
    let durability = table.choice("durability", Durability::default());
    if durability.value == Durability::NextHop {
        next_hop(reader, &durability, &list, targets);
    }
    Lead {
        targets: list.value.into_iter().map(|name| name.value).collect(),
        durability: durability.value,
        priority: table.choice("priority", Priority::default()).value,
    }
}

/// Checks that the reply of one other server can stand for all that happens to the message.
fn next_hop(
    reader: &Reader<'_>,
    durability: &Setting<Durability>,
    list: &Setting<Vec<Setting<String>>>,
    targets: &Targets,
) {
    let spots = [durability.spot(), list.spot()];
    let count = list.value.len();
    reader.require(count <= 1, &spots, || {
        format!("\"next-hop\" answers the client what one target has answered, and here are {count}")
    });
    for name in &list.value {
        if let Some(kind) = targets.kind_if_local(&name.value) {
            let reason = || {
                format!(
                    "with \"next-hop\" another server answers for the message, and {:?} is on this machine, of kind \
                     {kind:?}; that takes \"fsync\" or \"memory\"",
                    name.value
                )
            };
            reader.require(false, &spots, reason);
        }
    }
}

/// Notes a fault where the file has an empty array of tables.
pub(crate) fn require_some(reader: &Reader<'_>, tables: &Setting<Option<Vec<Table<'_>>>>, what: &str) {
    let empty = tables.value.as_ref().is_some_and(Vec::is_empty);
    reader.require(!empty, &[tables.spot()], || {
        format!("the list is empty; leave it out for the default, or give one {what} at least")
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, tests::check};

    const TARGETS: &str = "[[target]]\nname = 'local'\nkind = 'maildir'\n[[target]]\nname = 'hub'\nkind = 'smtp'\n\
                           hosts = ['hub.example']\n[[target]]\nname = 'hook'\nkind = 'webhook'\nurl = 'http://a/'\n";

    /// Reads a text with the targets above before it, and compares the errors; lines are counted from its own first.
    #[track_caller]
    fn check_route(text: &str, errors: &[&str]) {
        let lines = TARGETS.lines().count();
        let found = Config::parse("f", &format!("{TARGETS}{text}")).err().into_iter().flatten();
        let found: Vec<_> = found
            .map(|mut error| {
                error.line -= lines;
                error.to_string()
            })
            .collect();
        assert_eq!(found, errors, "\n{text}");
    }

    #[test]
    fn values() {
        let text = "[[domain]]\nname = 'A.example'\ntarget = ['hub', 'hook']\npriority = 'high'\n\
                    [[domain]]\nname = 'b.example'\ntarget = 'hub'\ndurability = 'next-hop'\n\
                    [[route]]\nrecipient = 'List-*@A.example'\ntarget = 'local'\ndurability = 'memory'\n\
                    [[route]]\nrecipient = ['*', '?@b.example']\ntarget = ['hook']\npriority = 'low'\n";
        let routing = Config::parse("f", &format!("{TARGETS}{text}")).expect("the text has no fault").routing;
        let domains: Vec<_> =
            routing.domains.iter().map(|route| (&*route.domain, route.targets.join(" "), route.durability)).collect();
        assert_eq!(
            domains,
            [
                ("a.example", "hub hook".to_owned(), Durability::Fsync),
                ("b.example", "hub".to_owned(), Durability::NextHop),
            ]
        );
        assert_eq!(routing.domains[0].priority, Priority::High);
        let patterns: Vec<_> = routing
            .patterns
            .iter()
            .map(|route| (route.recipients.join(" "), &*route.targets[0], route.durability, route.priority))
            .collect();
        assert_eq!(
            patterns,
            [
                ("List-*@A.example".to_owned(), "local", Durability::Memory, Priority::Normal),
                ("* ?@b.example".to_owned(), "hook", Durability::Fsync, Priority::Low),
            ]
        );
    }

    #[test]
    fn faults_of_a_route() {
        check_route(
            "[[route]]\n[[route]]\nrecipient = []\ntarget = []\n[[route]]\nrecipient = 5\ntarget = ['hub', 5]\n",
            &[
                "f:1:1: route[0].recipient: missing, wants a pattern, or a list of patterns, such as \
                 [\"list-*@example.com\"]",
                "f:1:1: route[0].target: missing, wants the name of a target, or a list of names",
                "f:3:13: route[1].recipient: the list is empty, so that nothing goes this way; leave the [[route]] out \
                 instead",
                "f:4:10: route[1].target: the list is empty, so that mail would go nowhere; a target of kind \
                 \"discard\" is for that",
                "f:6:13: route[2].recipient: found an integer, wants a pattern, or a list of patterns, such as \
                 [\"list-*@example.com\"]",
                "f:7:18: route[2].target[1]: found an integer, wants the name of a target, or a list of names",
            ],
        );
        check_route(
            "[[route]]\nrecipient = ['b', 'a.example', \"a\\u0007\"]\ntarget = 'hub'\n",
            &[
                "f:2:14: route[0].recipient[0]: \"b\" fits no address: it has neither an \"@\" nor a \"*\"; did you \
                 mean \"*@b\"?",
                "f:2:19: route[0].recipient[1]: \"a.example\" fits no address: it has neither an \"@\" nor a \"*\"; \
                 did you mean \"*@a.example\"?",
                "f:2:32: route[0].recipient[2]: \"a\\u{7}\" is not a pattern: it has a control character",
            ],
        );
    }

    #[test]
    fn targets_that_are_not_there() {
        check_route(
            "[[route]]\nrecipient = ['*@B.example', '']\ntarget = ['hub', 'hbu', 'hub']\n\
             [[route]]\nrecipient = '*@b.example'\ntarget = 'nowhere'\npriority = 'hihg'\n",
            &[
                "f:2:29: route[0].recipient[1]: \"\" is not a pattern: it is empty",
                "f:3:18: route[0].target[1]: \"hbu\" is not the name of a target; did you mean \"hub\"?",
                "f:3:25: route[0].target[2]: \"hub\" is in the list already, as route[0].target[0]",
                "f:5:13: route[1].recipient: \"*@b.example\" has a way already, by route[0].recipient[0]",
                "f:6:10: route[1].target: \"nowhere\" is not the name of a target; the targets are local, hub, hook",
                "f:7:12: route[1].priority: \"hihg\" is not one of high, normal, low; did you mean \"high\"?",
            ],
        );
        let nine: Vec<_> = (0..9).map(|n| format!("'{n}'")).collect();
        let text = format!("[[domain]]\nname = 'a.example'\ntarget = [{}]", nine.join(", "));
        let errors = Config::parse("f", &text).expect_err("too many");
        assert!(errors.to_string().contains("domain[0].target: 9 targets are more than 8"), "{errors}");
    }

    #[test]
    fn what_can_be_promised() {
        let route = |durability, target| {
            format!("[[domain]]\nname = 'a.example'\ndurability = '{durability}'\ntarget = {target}\n")
        };
        for durability in ["memory", "fsync"] {
            check_route(&route(durability, "['local', 'hub']"), &[]);
        }
        check_route(&route("next-hop", "'hook'"), &[]);
        check_route(
            &route("next-hop", "'local'"),
            &[
                "f:3:14: domain[0].durability: with \"next-hop\" another server answers for the message, and \"local\" is \
             on this machine, of kind \"maildir\"; that takes \"fsync\" or \"memory\"",
            ],
        );
        check_route(
            &route("next-hop", "['hub', 'hook']"),
            &["f:3:14: domain[0].durability: \"next-hop\" answers the client what one target has answered, and here \
             are 2"],
        );
        check_route(
            &route("quorum", "'hub'"),
            &[
                "f:3:14: domain[0].durability: \"quorum\" is not available in this version, which has memory, next-hop, \
             fsync",
            ],
        );
        check_route(
            &route("sync", "'hub'"),
            &["f:3:14: domain[0].durability: \"sync\" is not one of memory, next-hop, fsync; did you mean \"fsync\"?"],
        );
    }

    #[test]
    fn patterns_of_all_routes_are_counted() {
        let patterns = |count: usize, at: &str| {
            let patterns: Vec<_> = (0..count).map(|n| format!("'{n}@{at}'")).collect();
            format!("[[route]]\ntarget = 'local'\nrecipient = [{}]\n", patterns.join(", "))
        };
        check(&format!("{}{}", patterns(PATTERNS_MAX - 1, "a"), patterns(1, "b")), &[]);
        check(
            &format!("{}{}", patterns(PATTERNS_MAX, "a"), patterns(1, "b")),
            &["f:6:14: route[1].recipient[0]: 1001 patterns are more than 1000, of all routes together"],
        );
    }

    #[test]
    fn patterns() {
        let long = format!("*{}", "a".repeat(PATTERN_MAX));
        for good in ["*", "*@a", "a@b", "?*@x.example", "\"a b\"@c", "ä*", &long[1..]] {
            assert_eq!(pattern(good).is_ok(), good.contains(['*', '@']), "{good}");
        }
        for bad in ["", "a", "a?c", "*\u{7}", &long] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
