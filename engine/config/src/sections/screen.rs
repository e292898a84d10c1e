//! `[screen]`, `[[screen.list]]` and `[greylist]`: how a sending host is looked at before its mail is.

use crate::{
    check,
    keys::{Choice, Key, Kind, Section, names},
    reader::{Entry, Place, Setting, Table, Trouble},
    secrets::{Secret, shown_name},
    sections::server::DAY,
    value::count_or_off,
};
use ringpost_base::Span;
use ringpost_policy::{DnsList, GreylistMode, GreylistOptions, ScreenOptions};
use std::net::Ipv4Addr;

/// Largest weight of one piece of evidence.
const WEIGHT_MAX: i64 = 1000;
/// Highest score to act from: more than what all evidence together is likely to weigh.
const SCORE_MAX: u64 = 100_000;
/// Most DNS lists: each connection asks all of them.
const LISTS_MAX: usize = 50;
/// Most answers of a list that count: each is compared with all of them.
const ANSWERS_MAX: usize = 100;
/// Longest wait before the banner and for lookups. Clients wait five minutes for either; others wait behind them.
const WAIT_MAX: Span = Span::seconds(60);

/// What a piece of evidence adds to the score.
const fn weight(name: &'static str, doc: &'static str) -> Key {
    Key::new(name, Kind::Integer { min: -WEIGHT_MAX, max: WEIGHT_MAX }, "0", doc)
}

/// The score from which something happens.
const fn score(name: &'static str, doc: &'static str) -> Key {
    Key::new(name, Kind::CountOrOff { min: 1, max: SCORE_MAX }, r#""off""#, doc)
}

pub(crate) static SCREEN: Section = Section {
    path: "screen",
    header: "[screen]",
    intro: "How a sending host is looked at before its mail is. Each piece of evidence adds its weight to a score, and \
            from a score on something happens; a weight below zero speaks for the host. What can't be found out in time \
            does not count, and what has no weight is not looked up.",
    stand_in: None,
    keys: &[
        Key::new(
            "pregreet_wait",
            Kind::Time { min: Span::millis(0), max: WAIT_MAX },
            r#""0s""#,
            "How long a client has to keep silent before the banner. Those that don't are not mail servers. `0s`: they \
             are not tested, and get their banner at once.",
        ),
        Key::new(
            "deadline",
            Kind::Time { min: Span::millis(100), max: WAIT_MAX },
            r#""4s""#,
            "How long the first RCPT waits for lookups at most: about the client's address, counted from the banner, and \
             about its HELO name, counted from HELO. What has not come by then does not count.",
        ),
        score("score_tarpit", "The score from which each reply takes `tarpit_delay`."),
        score(
            "score_greylist",
            "The score from which `greylist.mode = \"suspicious\"` puts mail off. Below `score_reject`.",
        ),
        score("score_reject", "The score from which recipients are refused with 550."),
        Key::new(
            "tarpit_delay",
            Kind::Time { min: Span::millis(1), max: WAIT_MAX },
            r#""2s""#,
            "How long a reply takes for a client from `score_tarpit` on.",
        ),
        weight("weight_pregreet", "For speaking before the banner; takes a `pregreet_wait`."),
        weight("weight_helo_malformed", "For a HELO name that is neither a domain with a dot nor an address literal."),
        weight("weight_helo_own_name", "For a HELO name that is this server's own, or one of its domains."),
        weight("weight_helo_literal", "For an address literal in HELO that is not the client's address."),
        weight("weight_helo_unresolved", "For a HELO name that has no address."),
        weight("weight_rdns_missing", "For an address that has no name."),
        weight("weight_rdns_unconfirmed", "For an address none of whose names leads back to it."),
        Key::tables("list", "[[screen.list]]", ""),
    ],
};

pub(crate) static LIST: Section = Section {
    path: "screen.list",
    header: "[[screen.list]]",
    intro: "A DNS list (RFC 5782): one that blocks has a weight above zero, one that vouches a weight below. A list that \
            does not answer is left out until it does. Where the answers of one zone mean different things, give it \
            once for each.",
    stand_in: None,
    keys: &[
        Key::required("zone", Kind::Text("the zone of a DNS list"), "The zone, such as `zen.spamhaus.org`.")
            .secret(Secret::Name),
        Key::required(
            "weight",
            Kind::Integer { min: -WEIGHT_MAX, max: WEIGHT_MAX },
            "What being listed adds to the score.",
        ),
        Key::new(
            "answers",
            Kind::Text("a list of addresses or ranges of them, such as [\"127.0.0.2\", \"127.0.0.10-127.0.0.11\"]"),
            "[]",
            "The answers that count, all in 127.0.0.0/8. Empty: every one.",
        ),
    ],
};

pub(crate) static GREYLIST: Section = Section {
    path: "greylist",
    header: "[greylist]",
    intro: "A stranger's first mail is put off with 450, and taken when it comes again (RFC 6647): mail servers do, \
            much of what sends spam does not. Who is known is kept over a restart, by network, sender and recipient.",
    stand_in: None,
    keys: &[
        Key::new(
            "mode",
            Kind::Choice(names::<GreylistMode>),
            r#""off""#,
            "Who is asked to come back: nobody, `suspicious` hosts from `screen.score_greylist` on, or `all` strangers \
             whose score is not below zero.",
        ),
        Key::new(
            "delay",
            Kind::Time { min: Span::seconds(1), max: DAY },
            r#""5m""#,
            "How long a stranger must wait at least.",
        ),
        Key::new(
            "window",
            Kind::Time { min: Span::seconds(2), max: LIFETIME_MAX },
            r#""4h""#,
            "Until when it must have come again; longer than `delay`.",
        ),
        Key::new(
            "lifetime",
            Kind::Time { min: Span::seconds(2), max: LIFETIME_MAX },
            r#""36d""#,
            "How long one that came again stays known, counted from its last mail. More than a month, for what is sent \
             monthly.",
        ),
        Key::new(
            "network_passes",
            Kind::Count { min: 0, max: 1_000_000 },
            "5",
            "How many of a network's mails have to come again before all of it is known. 0: it never is.",
        ),
        Key::new(
            "entries",
            Kind::Count { min: 100, max: 100_000_000 },
            "500000",
            "What each core remembers at most, some 100 bytes each; beyond, the oldest go.",
        ),
    ],
};

/// Longest memory of the greylist.
const LIFETIME_MAX: Span = Span::seconds(366 * 86_400);

const ANSWER: &str = "an address in 127.0.0.0/8 or a range, such as \"127.0.0.2\" or \"127.0.0.10-127.0.0.11\"";

impl Choice for GreylistMode {
    const ALL: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("suspicious", Self::Suspicious), ("all", Self::All)];
}

/// `[screen]`, and the settings that others have to go together with.
pub(crate) struct Screen {
    pub(crate) options: ScreenOptions,
    pub(crate) pregreet_wait: Setting<Span>,
    pub(crate) score_greylist: Setting<Option<i32>>,
}

pub(crate) fn screen(root: &Table<'_>) -> Screen {
    let (table, default) = (root.table("screen", &SCREEN), ScreenOptions::default());
    let pregreet_wait = table.time("pregreet_wait", default.pregreet_wait);
    let [pregreet, malformed, own_name, literal, unresolved, missing, unconfirmed] = [
        ("weight_pregreet", default.weight_pregreet),
        ("weight_helo_malformed", default.weight_helo_malformed),
        ("weight_helo_own_name", default.weight_helo_own_name),
        ("weight_helo_literal", default.weight_helo_literal),
        ("weight_helo_unresolved", default.weight_helo_unresolved),
        ("weight_rdns_missing", default.weight_rdns_missing),
        ("weight_rdns_unconfirmed", default.weight_rdns_unconfirmed),
    ]
    .map(|(name, default)| table.integer(name, default));
    let tested = pregreet.value == 0 || pregreet_wait.value > Span::default();
    table.reader.require(tested, &[pregreet.spot(), pregreet_wait.spot()], || {
        "nobody is seen to speak before the banner, since screen.pregreet_wait is 0s".to_owned()
    });
    let (lists, list_weights) = lists(&table);
    let weights = [&pregreet, &malformed, &own_name, &literal, &unresolved, &missing, &unconfirmed];
    let scores = scores(&table, &weights.into_iter().chain(&list_weights).collect::<Vec<_>>());
    let options = ScreenOptions {
        pregreet_wait: pregreet_wait.value,
        deadline: table.time("deadline", default.deadline).value,
        score_tarpit: scores[0].value,
        score_greylist: scores[1].value,
        score_reject: scores[2].value,
        tarpit_delay: table.time("tarpit_delay", default.tarpit_delay).value,
        weight_pregreet: pregreet.value,
        weight_helo_malformed: malformed.value,
        weight_helo_own_name: own_name.value,
        weight_helo_literal: literal.value,
        weight_helo_unresolved: unresolved.value,
        weight_rdns_missing: missing.value,
        weight_rdns_unconfirmed: unconfirmed.value,
        lists,
    };
    let [_, score_greylist, _] = scores;
    Screen { options, pregreet_wait, score_greylist }
}

/// The scores from which clients are slowed down, put off and refused, each within reach of the weights.
fn scores(table: &Table<'_>, weights: &[&Setting<i32>]) -> [Setting<Option<i32>>; 3] {
    let reader = table.reader;
    let scores = ["score_tarpit", "score_greylist", "score_reject"].map(|name| {
        let score = table.setting(name, None, count_or_off);
        score.map(|score| score.map(|score| i32::try_from(score).unwrap_or(i32::MAX)))
    });
    let highest: i64 = weights.iter().map(|weight| i64::from(weight.value.max(0))).sum();
    for score in &scores {
        let mut spots = vec![score.spot()];
        spots.extend(weights.iter().map(|weight| weight.spot()));
        reader.require(score.value.is_none_or(|score| i64::from(score) <= highest), &spots, || {
            format!("no client reaches it: the weights above zero make {highest} together")
        });
    }
    let [_, greylist, reject] = &scores;
    if let (Some(put_off), Some(refused)) = (greylist.value, reject.value) {
        reader.require(put_off < refused, &[greylist.spot(), reject.spot()], || {
            format!("nobody is put off from {put_off} on, since screen.score_reject refuses from {refused} on")
        });
    }
    scores
}

fn lists(table: &Table<'_>) -> (Vec<DnsList>, Vec<Setting<i32>>) {
    let tables = table.tables("list", &LIST);
    let count = tables.value.as_ref().map_or(0, Vec::len);
    table.reader.require(count <= LISTS_MAX, &[tables.spot()], || format!("{count} lists are more than {LISTS_MAX}"));
    let (mut lists, mut weights, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables.value.iter().flatten() {
        let zone = table.text("zone", "", check::zone).map(|zone| zone.to_ascii_lowercase());
        let weight = table.integer("weight", 0);
        let answers = table.list("answers", answers);
        let count = answers.value.len();
        table.reader.require(count <= ANSWERS_MAX, &[answers.spot()], || {
            format!("{count} answers are more than {ANSWERS_MAX}; join them to ranges")
        });
        // Answers at fault are not held against those of another list.
        let zone = if answers.place == Place::Faulty { Setting { place: Place::Faulty, ..zone } } else { zone };
        let answers: Vec<_> = answers.value.into_iter().map(|answer| answer.value).collect();
        let shown = shown_name(&zone.value).into();
        lists.push(DnsList { zone: zone.value.clone(), shown, weight: weight.value, answers: answers.clone() });
        seen.push(zone.map(|zone| (zone, answers)));
        weights.push(weight);
    }
    table.reader.distinct(&seen, |(zone, _), earlier| {
        format!("{:?} counts these answers already, {earlier}", shown_name(zone))
    });
    (lists, weights)
}

/// An address, or the first and the last of a range.
fn answers(entry: &Entry<'_>) -> Result<(Ipv4Addr, Ipv4Addr), Trouble> {
    let text = entry.text().ok_or_else(|| entry.wants(ANSWER))?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.trim().parse::<Ipv4Addr>().ok().filter(Ipv4Addr::is_loopback);
    match (parse(first), parse(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(first), Some(last)) => {
            let meant = format!("{last}-{first}");
            Err(Trouble::from(format!("{text:?} ends before it begins")).suggest(Some(meant)))
        }
        _ => Err(format!("{text:?} is not {ANSWER}").into()),
    }
}

/// `[greylist]`. Suspicion is a matter of the score.
pub(crate) fn greylist(root: &Table<'_>, screen: &Screen) -> GreylistOptions {
    let (table, default) = (root.table("greylist", &GREYLIST), GreylistOptions::default());
    let mode = table.choice("mode", default.mode);
    let holds = mode.value != GreylistMode::Suspicious || screen.score_greylist.value.is_some();
    table.reader.require(holds, &[mode.spot(), screen.score_greylist.spot()], || {
        "nobody is suspicious, since screen.score_greylist is \"off\"".to_owned()
    });
    let (delay, window) = (table.time("delay", default.delay), table.time("window", default.window));
    table.reader.require(delay.value < window.value, &[delay.spot(), window.spot()], || {
        format!("a stranger can't come again: it must wait {}, and greylist.window is {}", delay.value, window.value)
    });
    GreylistOptions {
        mode: mode.value,
        delay: delay.value,
        window: window.value,
        lifetime: table.time("lifetime", default.lifetime).value,
        network_passes: table.count_u32("network_passes", default.network_passes).value,
        entries_max: table.count("entries", default.entries_max).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, tests::check};
    use ringpost_base::Span;
    use ringpost_policy::GreylistMode;
    use std::net::Ipv4Addr;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[screen]\npregreet_wait = '3s'\ndeadline = '2s'\nscore_tarpit = 3\nscore_greylist = 4\nscore_reject = 10\n\
             tarpit_delay = '500ms'\nweight_pregreet = 5\nweight_helo_malformed = 1\nweight_helo_own_name = 2\n\
             weight_helo_literal = 3\nweight_helo_unresolved = 4\nweight_rdns_missing = 6\nweight_rdns_unconfirmed = -7\n\
             [[screen.list]]\nzone = 'Zen.example.org'\nweight = 8\nanswers = ['127.0.0.2', '127.0.0.10 - 127.0.0.11']\n\
             [[screen.list]]\nzone = 'white.example.org'\nweight = -9\n\
             [greylist]\nmode = 'suspicious'\ndelay = '1m'\nwindow = '1h'\nlifetime = '30d'\nnetwork_passes = 0\n\
             entries = 1000",
        );
        let policy = config.expect("the text has no fault").policy;
        let screen = &policy.screen;
        assert_eq!((screen.pregreet_wait, screen.deadline), (Span::seconds(3), Span::seconds(2)));
        assert_eq!((screen.score_tarpit, screen.score_greylist, screen.score_reject), (Some(3), Some(4), Some(10)));
        assert_eq!(screen.tarpit_delay, Span::millis(500));
        let weights = [
            screen.weight_pregreet,
            screen.weight_helo_malformed,
            screen.weight_helo_own_name,
            screen.weight_helo_literal,
            screen.weight_helo_unresolved,
            screen.weight_rdns_missing,
            screen.weight_rdns_unconfirmed,
        ];
        assert_eq!(weights, [5, 1, 2, 3, 4, 6, -7]);
        assert_eq!((screen.lists[0].zone.as_str(), screen.lists[0].weight), ("zen.example.org", 8));
        let address = |last| Ipv4Addr::new(127, 0, 0, last);
        assert_eq!(screen.lists[0].answers, [(address(2), address(2)), (address(10), address(11))]);
        assert_eq!((screen.lists[1].weight, screen.lists[1].answers.len()), (-9, 0));
        let greylist = &policy.greylist;
        assert_eq!((greylist.mode, greylist.network_passes), (GreylistMode::Suspicious, 0));
        assert_eq!((greylist.delay, greylist.window), (Span::seconds(60), Span::seconds(3600)));
        assert_eq!((greylist.lifetime, greylist.entries_max), (Span::seconds(30 * 86_400), 1000));
    }

    #[test]
    fn faults_of_the_screen() {
        check(
            "[screen]\nscore_reject = 0\nscore_tarpit = 'of'\nscore_greylist = true\nweight_rdns_missing = -1001\n\
             weight_pregreet = 1.5\ndeadline = '5m'",
            &[
                "f:2:16: screen.score_reject: 0 is out of range: 1 to 100000",
                "f:3:16: screen.score_tarpit: \"of\" is not a whole number, or \"off\"; did you mean \"off\"?",
                "f:4:18: screen.score_greylist: found a boolean, wants a whole number, or \"off\"",
                "f:5:23: screen.weight_rdns_missing: -1001 is out of range: -1000 to 1000",
                "f:6:19: screen.weight_pregreet: found a float, wants a whole number",
                "f:7:12: screen.deadline: '5m' is out of range: 100ms to 1m",
            ],
        );
    }

    #[test]
    fn faults_of_a_list() {
        check(
            "[screen]\nlist = [\n{ zone = 'zen.example.org.', weight = 5000 },\n{ zone = 'a.example' },\n\
             { weight = 1 },\n\
             { zone = 'a.example', weight = 1, answers = ['127.0.0.9-127.0.0.2', '10.0.0.1', 2, '127.0.0.2-'] },\n\
             { zone = 'b.example', weight = 1, answers = ['127.0.0.2'] },\n\
             { zone = 'B.example', weight = 2, answers = ['127.0.0.2-127.0.0.2'] },\n]",
            &[
                "f:3:10: screen.list[0].zone: \"zen.example.org.\" is not a zone: it ends with a dot; did you mean \
                 \"zen.example.org\"?",
                "f:3:39: screen.list[0].weight: 5000 is out of range: -1000 to 1000",
                "f:4:1: screen.list[1].weight: missing, wants a whole number",
                "f:5:1: screen.list[2].zone: missing, wants the zone of a DNS list",
                "f:6:46: screen.list[3].answers[0]: \"127.0.0.9-127.0.0.2\" ends before it begins; did you mean \
                 \"127.0.0.2-127.0.0.9\"?",
                "f:6:69: screen.list[3].answers[1]: \"10.0.0.1\" is not an address in 127.0.0.0/8 or a range, such as \
                 \"127.0.0.2\" or \"127.0.0.10-127.0.0.11\"",
                "f:6:81: screen.list[3].answers[2]: found an integer, wants an address in 127.0.0.0/8 or a range, such \
                 as \"127.0.0.2\" or \"127.0.0.10-127.0.0.11\"",
                "f:6:84: screen.list[3].answers[3]: \"127.0.0.2-\" is not an address in 127.0.0.0/8 or a range, such \
                 as \"127.0.0.2\" or \"127.0.0.10-127.0.0.11\"",
                "f:8:10: screen.list[5].zone: \"b.example\" counts these answers already, screen.list[4].zone",
            ],
        );
    }

    /// Faults of a reload are in the log and in the answer to who asked for it.
    #[test]
    fn faults_do_not_tell_the_key_in_a_zone() {
        let key = "abcdefghijklmnopqrstuvwxyz";
        check(
            &format!(
                "[screen]\nlist = [\n{{ zone = '{key}.a.example.', weight = 1 }},\n{{ zone = '{key}.b.example', weight = 1 \
                 }},\n{{ zone = '{key}.b.example', weight = 2 }},\n]"
            ),
            &[
                "f:3:10: screen.list[0].zone: \"***.a.example.\" is not a zone: it ends with a dot; did you mean \
                 \"***.a.example\"?",
                "f:5:10: screen.list[2].zone: \"***.b.example\" counts these answers already, screen.list[1].zone",
            ],
        );
    }

    #[test]
    fn scores_have_to_be_within_reach() {
        check(
            "[screen]\nscore_reject = 10\nweight_rdns_missing = 6\nweight_helo_malformed = -5\n\
             list = [{ zone = 'a.example', weight = 3 }]",
            &["f:2:16: screen.score_reject: no client reaches it: the weights above zero make 9 together"],
        );
        check(
            "[screen]\nscore_reject = 5\nscore_greylist = 5\nweight_rdns_missing = 6",
            &[
                "f:3:18: screen.score_greylist: nobody is put off from 5 on, since screen.score_reject refuses from 5 on",
            ],
        );
        check(
            "[screen]\nweight_pregreet = 5",
            &["f:2:19: screen.weight_pregreet: nobody is seen to speak before the banner, since \
             screen.pregreet_wait is 0s"],
        );
    }

    #[test]
    fn faults_of_the_greylist() {
        check(
            "[greylist]\nmode = 'suspicious'\ndelay = '5h'\nentries = 1",
            &[
                "f:2:8: greylist.mode: nobody is suspicious, since screen.score_greylist is \"off\"",
                "f:3:9: greylist.delay: a stranger can't come again: it must wait 5h, and greylist.window is 4h",
                "f:4:11: greylist.entries: 1 is out of range: 100 to 100000000",
            ],
        );
        check(
            "[greylist]\nwindow = '1m'\nmode = 'suspect'",
            &[
                "f:2:10: greylist.window: a stranger can't come again: it must wait 5m, and greylist.window is 1m",
                "f:3:8: greylist.mode: \"suspect\" is not one of off, suspicious, all",
            ],
        );
    }
}
