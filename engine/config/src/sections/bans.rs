//! `[bans]` and `[[bans.rule]]`: who is never banned, and who is of itself.

use crate::{
    check,
    config::Listener,
    keys::{Choice, Key, Kind, Section, name_of, names},
    reader::{Setting, Table, Trouble},
};
use ringpost_base::Span;
use ringpost_policy::{BanOptions, BanRule, LedgerOptions, NftablesSet, Offence};
use ringpost_smtp::TlsUse;

/// Most networks that are never banned. Finding one of many costs no more than one of few; reading them does.
const ALLOWED_MAX: usize = 10_000;
/// Highest count of a rule: counters have 16 bits, since there are many of them.
const COUNT_MAX: u64 = 65_535;
/// Most rules: each thing that a client does wrong is counted for all of them.
const RULES_MAX: usize = 100;
/// Longest name in nftables, of those that the kernel takes.
const NFTABLES_NAME_MAX: usize = 255;
/// Longest window of a rule: what a client did in it stays in memory.
const WINDOW_MAX: Span = Span::seconds(86_400);
/// Longest ban of a rule: an address has another owner some day.
const DURATION_MAX: Span = Span::seconds(365 * 86_400);

pub(crate) static BANS: Section = Section {
    path: "bans",
    header: "[bans]",
    intro: "Who is shut out. Bans are made with `ringpost ban add` and by the rules below, hold on every core at once, \
            and outlast a restart. A banned client gets 554 and is disconnected.",
    stand_in: None,
    keys: &[
        Key::new(
            "allow",
            Kind::Text("a list of addresses and networks, such as [\"192.0.2.1\", \"2001:db8::/32\"]"),
            "[]",
            "Who is never banned, screened, greylisted, or limited by address: one's own networks, the monitoring, a \
             secondary MX.",
        ),
        Key::new(
            "nftables",
            Kind::Text(NFTABLES),
            r#""""#,
            "Where bans are mirrored to, so that the kernel drops banned clients before they cost anything: family and \
             name of a table, its set of IPv4 addresses, its set of IPv6 addresses. The sets need `flags interval, \
             timeout`, and the server CAP_NET_ADMIN. Empty: nowhere.",
        ),
        Key::tables("rule", "[[bans.rule]]", ""),
    ],
};

pub(crate) static RULE: Section = Section {
    path: "bans.rule",
    header: "[[bans.rule]]",
    intro: "An address that does something so often within a window is banned for a while. Rules of the same offence \
            may stand side by side, a short ban for a burst and a long one for more.",
    stand_in: None,
    keys: &[
        Key::required(
            "offence",
            Kind::Choice(names::<Offence>),
            "What is counted: `error`, a command answered 5xx; `unknown-recipient`, one that does not exist; `pregreet`, \
             speaking before the banner; `handshake-failure`, of TLS; `limit`, one of `[limits]` by address or network \
             that was hit.",
        ),
        Key::required("count", Kind::Count { min: 1, max: COUNT_MAX }, "How many are too many."),
        Key::required("window", Kind::Time { min: Span::seconds(1), max: WINDOW_MAX }, "In how long a time."),
        Key::required(
            "duration",
            Kind::Time { min: Span::seconds(1), max: DURATION_MAX },
            "How long the address is banned. Mail servers of others try for days: a ban of hours costs them no mail.",
        ),
    ],
};

const NFTABLES: &str = "family, table, set for IPv4 and set for IPv6, such as \"inet filter banned4 banned6\", or \"\"";

/// The families of tables that see both protocols, or the one that the set is of.
const FAMILIES: [&str; 3] = ["inet", "ip", "ip6"];

impl Choice for Offence {
    const ALL: &'static [(&'static str, Self)] = &[
        (Self::Error.name(), Self::Error),
        (Self::UnknownRecipient.name(), Self::UnknownRecipient),
        (Self::Pregreet.name(), Self::Pregreet),
        (Self::HandshakeFailure.name(), Self::HandshakeFailure),
        (Self::LimitHit.name(), Self::LimitHit),
    ];
}

/// What has to be on for an offence to be seen at all.
pub(crate) struct Watched<'a> {
    pub(crate) listeners: &'a [Listener],
    pub(crate) ledger: &'a LedgerOptions,
    pub(crate) pregreet_wait: &'a Setting<Span>,
}

pub(crate) fn bans(root: &Table<'_>, watched: &Watched<'_>) -> BanOptions {
    let table = root.table("bans", &BANS);
    let allow = check::networks(&table, "allow", ALLOWED_MAX);
    let nftables = table.setting("nftables", None, |entry, row| {
        let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
        nftables(text)
    });
    let tables = table.tables("rule", &RULE);
    let count = tables.value.as_ref().map_or(0, Vec::len);
    table.reader.require(count <= RULES_MAX, &[tables.spot()], || format!("{count} rules are more than {RULES_MAX}"));
    let mut rules: Vec<BanRule> = Vec::new();
    for table in tables.value.iter().flatten() {
        rules.push(rule(table, &rules, watched));
    }
    BanOptions { allow, rules, nftables: nftables.value }
}

fn rule(table: &Table<'_>, earlier: &[BanRule], watched: &Watched<'_>) -> BanRule {
    let offence = table.choice("offence", Offence::Error);
    let (count, window) = (table.count_u32("count", 1), table.time("window", Span::seconds(1)));
    let duration = table.time("duration", Span::seconds(1));
    seen(table, &offence, watched);
    let rule = BanRule { offence: offence.value, count: count.value, window: window.value, duration: duration.value };
    // What bans sooner and for longer leaves nothing to ban; the later of two that are alike is reported.
    let covers = |other: &BanRule, rule: &BanRule| {
        other.offence == rule.offence
            && other.count <= rule.count
            && other.window >= rule.window
            && other.duration >= rule.duration
    };
    let spots = [offence.spot(), count.spot(), window.spot(), duration.spot()];
    for (n, other) in earlier.iter().enumerate() {
        table.reader.require(!covers(other, &rule), &spots, || {
            format!("the rule has no effect beside bans.rule[{n}], which bans no later and no shorter")
        });
        table.reader.require(covers(other, &rule) || !covers(&rule, other), &spots, || {
            format!("the rule leaves bans.rule[{n}] without effect, since it bans no later and no shorter")
        });
    }
    rule
}

/// A rule for what nobody looks at is a mistake.
fn seen(table: &Table<'_>, offence: &Setting<Offence>, watched: &Watched<'_>) {
    let wait = watched.pregreet_wait;
    let (spots, missing) = match offence.value {
        Offence::Pregreet if wait.value == Span::default() => {
            (vec![offence.spot(), wait.spot()], "screen.pregreet_wait is 0s")
        }
        Offence::LimitHit if !limits_anything(watched.ledger) => {
            (vec![offence.spot()], "[limits] has no limit by address or network")
        }
        Offence::HandshakeFailure if watched.listeners.iter().all(|listener| listener.tls == TlsUse::Off) => {
            (vec![offence.spot()], "no listener has TLS")
        }
        _ => return,
    };
    table.reader.require(false, &spots, || format!("{:?} is never seen, since {missing}", name_of(offence.value)));
}

fn limits_anything(ledger: &LedgerOptions) -> bool {
    *ledger != LedgerOptions { networks: ledger.networks, ..LedgerOptions::default() }
}

fn nftables(text: &str) -> Result<Option<NftablesSet>, Trouble> {
    if text.is_empty() {
        return Ok(None);
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [family, table, set_v4, set_v6] = words[..] else {
        return Err(format!("{text:?} is not {NFTABLES}").into());
    };
    if !FAMILIES.contains(&family) {
        return Err(format!("{family:?} is not one of {}, the families of tables", FAMILIES.join(", ")).into());
    }
    if let Some(name) = [table, set_v4, set_v6].into_iter().find(|name| !is_nftables_name(name)) {
        let wanted = "a letter or \"_\", then letters, digits, \"_\", \"-\" or \".\"";
        return Err(format!("{name:?} is not a name in nftables: {wanted}").into());
    }
    if set_v4 == set_v6 {
        return Err(format!("{set_v4:?} is named for both protocols; a set holds addresses of one").into());
    }
    let owned = str::to_owned;
    Ok(Some(NftablesSet { family: owned(family), table: owned(table), set_v4: owned(set_v4), set_v6: owned(set_v6) }))
}

fn is_nftables_name(name: &str) -> bool {
    name.len() <= NFTABLES_NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

#[cfg(test)]
mod tests {
    use crate::{Config, tests::check};
    use ringpost_base::Span;
    use ringpost_policy::Offence;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[bans]\nallow = ['192.0.2.0/24', '2001:db8::1']\nnftables = 'inet filter banned4 banned6'\n\
             [[bans.rule]]\noffence = 'unknown-recipient'\ncount = 20\nwindow = '10m'\nduration = '1h'\n\
             [[bans.rule]]\noffence = 'unknown-recipient'\ncount = 100\nwindow = '1d'\nduration = '7d'\n\
             [[bans.rule]]\noffence = 'pregreet'\ncount = 1\nwindow = '1s'\nduration = '1d'\n\
             [[bans.rule]]\noffence = 'limit'\ncount = 50\nwindow = '1m'\nduration = '1h'\n\
             [screen]\npregreet_wait = '2s'\n[limits]\nconnections_per_ip = 20",
        );
        let bans = config.expect("the text has no fault").policy.bans;
        assert_eq!(bans.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1"]);
        let set = bans.nftables.expect("a set is given");
        assert_eq!([set.family, set.table, set.set_v4, set.set_v6], ["inet", "filter", "banned4", "banned6"]);
        assert_eq!(bans.rules.len(), 4);
        assert_eq!(bans.rules[0].offence, Offence::UnknownRecipient);
        assert_eq!((bans.rules[1].count, bans.rules[1].window), (100, Span::seconds(86_400)));
        assert_eq!(bans.rules[1].duration, Span::seconds(7 * 86_400));
    }

    #[test]
    fn faults() {
        check(
            "[bans]\nallow = ['10.0.0.1/8', '::1', 'example.org', '::1']\nnftables = 5\n\
             [[bans.rule]]\noffence = 'errors'\ncount = 0\nwindow = '2d'",
            &[
                "f:2:10: bans.allow[0]: \"10.0.0.1/8\" has bits set behind its prefix; did you mean \"10.0.0.0/8\"?",
                "f:2:31: bans.allow[2]: \"example.org\" is not an address or network, such as \"192.0.2.1\" or \
                 \"192.0.2.0/24\"",
                "f:2:46: bans.allow[3]: ::1 is in the list already, as bans.allow[1]",
                "f:3:12: bans.nftables: found an integer, wants family, table, set for IPv4 and set for IPv6, such as \
                 \"inet filter banned4 banned6\", or \"\"",
                "f:4:1: bans.rule[0].duration: missing, wants a duration, such as \"5m\"",
                "f:5:11: bans.rule[0].offence: \"errors\" is not one of error, unknown-recipient, pregreet, \
                 handshake-failure, limit; did you mean \"error\"?",
                "f:6:9: bans.rule[0].count: 0 is out of range: 1 to 65535",
                "f:7:10: bans.rule[0].window: '2d' is out of range: 1s to 1d",
            ],
        );
        check("bans.rule = [5]", &["f:1:14: bans.rule[0]: found an integer, wants a table"]);
    }

    #[test]
    fn names_in_nftables() {
        for (text, fault) in [
            (
                "filter banned4 banned6",
                "\"filter banned4 banned6\" is not family, table, set for IPv4 and set for IPv6, such as \"inet \
                 filter banned4 banned6\", or \"\"",
            ),
            ("bridge f a b", "\"bridge\" is not one of inet, ip, ip6, the families of tables"),
            (
                "inet f {a} b",
                "\"{a}\" is not a name in nftables: a letter or \"_\", then letters, digits, \"_\", \"-\" or \".\"",
            ),
            ("inet f a a", "\"a\" is named for both protocols; a set holds addresses of one"),
        ] {
            check(&format!("bans.nftables = '{text}'"), &[&format!("f:1:17: bans.nftables: {fault}")]);
        }
    }

    fn rules(rules: &[(&str, u32, &str, &str)]) -> String {
        let rule = |(offence, count, window, duration): &(&str, u32, &str, &str)| {
            format!("{{ offence = '{offence}', count = {count}, window = '{window}', duration = '{duration}' }}")
        };
        format!("bans.rule = [\n{}\n]", rules.iter().map(rule).collect::<Vec<_>>().join(",\n"))
    }

    #[test]
    fn a_rule_that_another_leaves_nothing_to_do() {
        check(&rules(&[("error", 10, "1m", "1h"), ("error", 50, "1h", "1d")]), &[]);
        check(&rules(&[("error", 10, "1m", "1h"), ("unknown-recipient", 10, "1m", "1h")]), &[]);
        check(
            &rules(&[("error", 10, "1m", "1h"), ("error", 10, "1m", "1h")]),
            &["f:3:13: bans.rule[1].offence: the rule has no effect beside bans.rule[0], which bans no later and no \
             shorter"],
        );
        check(
            &rules(&[("error", 20, "1m", "1h"), ("error", 10, "1m", "2h")]),
            &["f:3:13: bans.rule[1].offence: the rule leaves bans.rule[0] without effect, since it bans no later and \
             no shorter"],
        );
    }

    #[test]
    fn a_rule_for_what_is_never_seen() {
        let off = "\nlistener = [{ address = ['127.0.0.1:25'], tls = 'off' }]";
        for (offence, missing) in [
            ("pregreet", "screen.pregreet_wait is 0s"),
            ("limit", "[limits] has no limit by address or network"),
            ("handshake-failure", "no listener has TLS"),
        ] {
            check(
                &format!("{}{off}", rules(&[(offence, 1, "1m", "1h")])),
                &[&format!("f:2:13: bans.rule[0].offence: \"{offence}\" is never seen, since {missing}")],
            );
        }
    }
}
