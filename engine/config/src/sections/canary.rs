//! `[canary]`: how much worse than the others a core may do that tries a new config.

use crate::{
    config::Canary,
    keys::{Key, Kind, Section},
    reader::Table,
};
use ringpost_base::Span;

pub(crate) static CANARY: Section = Section {
    path: "canary",
    header: "[canary]",
    intro: "When a config that `ringpost reload --canary` tries on one core is taken back: how much worse than the others that \
            core may do. Where it is the only one, or the others have nothing to do, it is compared with the ten minutes before. \
            A panic on it is enough in any case.",
    stand_in: None,
    keys: &[
        Key::new(
            "rejects",
            Kind::Share,
            "0.05",
            "By how much the share of replies that are 5xx may be higher than on the other cores: 0.05 is five of a hundred. \
             What chance explains doesn't count. Raise it before a config that is to refuse more.",
        ),
        Key::new(
            "errors",
            Kind::Share,
            "0.05",
            "The same for what fails or is put off: replies 4xx, TLS handshakes, deliveries, writes.",
        ),
        Key::new(
            "latency_factor",
            Kind::Count { min: 2, max: 1_000 },
            "3",
            "How many times as long as on the other cores replies may take; of a hundred the five slowest don't count.",
        ),
        Key::new(
            "latency_min",
            Kind::Time { min: Span::millis(1), max: Span::seconds(3_600) },
            r#""100ms""#,
            "Replies that take less are never too slow, however fast the others are.",
        ),
        Key::new(
            "messages_min",
            Kind::Count { min: 1, max: 1_000_000 },
            "50",
            "Connections or messages that the core must have had before it is judged.",
        ),
    ],
};

pub(crate) fn canary(root: &Table<'_>) -> Canary {
    let (table, default) = (root.table("canary", &CANARY), Canary::default());
    Canary {
        rejects: table.share("rejects", default.rejects).value,
        errors: table.share("errors", default.errors).value,
        latency_factor: table.count_u32("latency_factor", default.latency_factor).value,
        latency_min: table.time("latency_min", default.latency_min).value,
        messages_min: table.count_u32("messages_min", default.messages_min).value,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Canary, Config, Share, tests::check};
    use ringpost_base::Span;

    #[test]
    fn values() {
        let text = "[canary]\nrejects = 0.5\nerrors = 0\nlatency_factor = 10\nlatency_min = '1s'\nmessages_min = 5";
        let canary = Config::parse("f", text).expect("the text has no fault").canary;
        let share = |number| Share::of(number).expect("a share");
        let want = Canary {
            rejects: share(0.5),
            errors: share(0.0),
            latency_factor: 10,
            latency_min: Span::seconds(1),
            messages_min: 5,
        };
        assert_eq!(canary, want);
    }

    #[test]
    fn faults() {
        check(
            "[canary]\nrejects = '5%'\nerrors = 2\nlatency_factor = 1\nlatency_min = '0s'\nmessages_min = 0",
            &[
                "f:2:11: canary.rejects: found a string, wants a number from 0 to 1",
                "f:3:10: canary.errors: 2 is out of range: 0 to 1",
                "f:4:18: canary.latency_factor: 1 is out of range: 2 to 1000",
                "f:5:15: canary.latency_min: '0s' is out of range: 1ms to 1h",
                "f:6:16: canary.messages_min: 0 is out of range: 1 to 1000000",
            ],
        );
    }
}
