//! `[cores]`: which cores the server runs on, and what each may hold.
//!
//! Cores are named by the number that Linux gives the CPU, in `use` and in overrides alike.

use crate::{
    config::{CoreLimits, CoreOverride, CoreUse, Cores},
    keys::{Key, Kind, Section},
    reader::{Entry, Reader, Setting, Table, Trouble, elements},
    value::count,
};
use ringpost_base::ByteCount;

/// Most cores of one process: session ids have 10 bits for the shard.
const CORES_MAX: u64 = 1024;
/// Highest CPU number: the kernel's own maximum is 8192 CPUs.
const CORE_ID_MAX: u64 = 8191;

const CORE_ID: Key = Key::required(
    "core",
    Kind::Count { min: 0, max: CORE_ID_MAX },
    "The number of the CPU. Where `cores.use` is a list, one of it.",
);

pub(crate) static CORES: Section = Section {
    path: "cores",
    header: "[cores]",
    intro: "Which cores the server runs on. Each runs an engine of its own, with its own sockets, sessions, spool and \
            queue.",
    stand_in: None,
    keys: &[
        Key::new(
            "use",
            Kind::Text(USE),
            r#""all""#,
            "`\"all\"` is every core that the process may run on, a number is how many of them, a list names CPUs by \
             number. Leave cores out for what else runs on the machine, such as a content filter.",
        )
        .at_restart(),
        Key::table("limits"),
        Key::tables("override", "[[cores.override]]", ""),
    ],
};

pub(crate) static LIMITS: Section = Section {
    path: "cores.limits",
    header: "[cores.limits]",
    intro: "What each core may hold. At a limit, new work is refused for now and the sender tries again; what has been \
            accepted is not touched.",
    stand_in: None,
    keys: LIMIT_KEYS,
};

pub(crate) static OVERRIDE: Section = Section {
    path: "cores.override",
    header: "[[cores.override]]",
    intro: "What one core may hold, where it differs from the others.",
    stand_in: None,
    keys: &[CORE_ID, Key::table("limits")],
};

pub(crate) static OVERRIDE_LIMITS: Section = Section {
    path: "cores.override.limits",
    header: "[cores.override.limits]",
    intro: "The limits of that core, usually written as `limits.connections = 40000` below `[[cores.override]]`. The \
            keys are those of `[cores.limits]`; the ones left out have the values given there.",
    stand_in: None,
    keys: LIMIT_KEYS,
};

const USE: &str = "\"all\", a number of cores, or a list of CPU numbers";

const LIMIT_KEYS: &[Key] = &[
    Key::new(
        "connections",
        Kind::Count { min: 1, max: 1_000_000 },
        "20000",
        "Connections open at the same time; further ones get 421. An idle session takes a few KiB of memory, with TLS \
         about three times that.",
    ),
    Key::new(
        "messages_in_flight",
        Kind::Count { min: 1, max: 1_000_000 },
        "4096",
        "Messages between MAIL and the reply to their end, at the same time; further ones get 452.",
    ),
    Key::new(
        "message_memory",
        Kind::Size { min: ByteCount::kib(64), max: ByteCount::gib(1024) },
        r#""256MiB""#,
        "Bytes of messages held in memory. At least `spool.inline_max`, since a message up to that size is held whole.",
    ),
    Key::new(
        "spool_backlog",
        Kind::Size { min: ByteCount::kib(64), max: ByteCount::gib(1 << 20) },
        r#""8GiB""#,
        "Bytes accepted and not yet delivered above which MAIL gets 452 4.3.1. All cores together have to fit on the \
         disk of `server.state_dir`.",
    ),
];

/// Reads `[cores]`. `inline_max` is the spool's, which every core's memory has to hold.
pub(crate) fn cores(root: &Table<'_>, inline_max: &Setting<ByteCount>) -> Cores {
    let table = root.table("cores", &CORES);
    let using = table.setting("use", CoreUse::All, |entry, _| core_use(table.reader, entry));
    let limits = limits(&table.table("limits", &LIMITS), &CoreLimits::default(), inline_max, false);
    let entries = table.tables("override", &OVERRIDE).value.unwrap_or_default();
    let mut ids = Vec::new();
    let mut overrides = Vec::new();
    for entry in entries {
        let core = entry.count("core", 0);
        let limits = self::limits(&entry.table("limits", &OVERRIDE_LIMITS), &limits, inline_max, true);
        overrides.push(CoreOverride { core: core.value, limits });
        ids.push(core);
    }
    table.reader.distinct(&ids, |core, earlier| format!("core {core} has an override already, {earlier}"));
    if let CoreUse::Ids(used) = &using.value {
        for core in &ids {
            let list = used.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            let reason = || format!("core {} is not one of cores.use: {list}", core.value);
            table.reader.require(used.contains(&core.value), &[core.spot()], reason);
        }
    }
    Cores { using: using.value, limits, overrides }
}

fn limits(table: &Table<'_>, default: &CoreLimits, inline_max: &Setting<ByteCount>, inherited: bool) -> CoreLimits {
    let message_memory = table.size("message_memory", default.message_memory);
    // What an override takes over has been checked where it was given.
    if !inherited || message_memory.is_written() {
        let (memory, inline) = (message_memory.value, inline_max.value);
        table.reader.require(memory >= inline, &[message_memory.spot(), inline_max.spot()], || {
            format!("a core's message_memory, {memory}, is less than spool.inline_max, {inline}")
        });
    }
    CoreLimits {
        connections: table.count("connections", default.connections).value,
        messages_in_flight: table.count("messages_in_flight", default.messages_in_flight).value,
        message_memory: message_memory.value,
        spool_backlog: table.size("spool_backlog", default.spool_backlog).value,
    }
}

fn core_use<'r>(reader: &'r Reader<'r>, entry: &Entry<'r>) -> Result<CoreUse, Trouble> {
    if let Some(text) = entry.text() {
        return if text == "all" { Ok(CoreUse::All) } else { Err(format!("{text:?} is not {USE}").into()) };
    }
    if entry.integer().is_some() {
        let row = Key::required("use", Kind::Count { min: 1, max: CORES_MAX }, "");
        return count(entry, &row).map(CoreUse::Count);
    }
    let ids = elements(reader, entry, |element| count(element, &CORE_ID)).ok_or_else(|| entry.wants(USE))?;
    if ids.is_empty() {
        return Err(format!("the list of cores is empty, wants {USE}").into());
    }
    if ids.len() as u64 > CORES_MAX {
        return Err(format!("{} cores are more than {CORES_MAX}", ids.len()).into());
    }
    let faulty = ids.iter().any(Option::is_none);
    let ids: Vec<_> = ids.into_iter().flatten().collect();
    reader.distinct(&ids, |core, earlier| format!("core {core} is in the list already, as {earlier}"));
    // A list at fault is not held against the overrides.
    Ok(if faulty { CoreUse::All } else { CoreUse::Ids(ids.into_iter().map(|id| id.value).collect()) })
}

#[cfg(test)]
mod tests {
    use crate::{Config, CoreUse, tests::check};
    use ringpost_base::ByteCount;

    #[test]
    fn cores_in_use() {
        for (text, using) in [
            ("'all'", CoreUse::All),
            ("1", CoreUse::Count(1)),
            ("[0]", CoreUse::Ids(vec![0])),
            ("[3, 1, 2]", CoreUse::Ids(vec![3, 1, 2])),
        ] {
            let config = Config::parse("f", &format!("cores.use = {text}")).expect(text);
            assert_eq!(config.cores.using, using);
        }
    }

    #[test]
    fn faults_of_use() {
        check("cores.use = 0", &["f:1:13: cores.use: 0 is out of range: 1 to 1024"]);
        check(
            "cores.use = 'al'",
            &["f:1:13: cores.use: \"al\" is not \"all\", a number of cores, or a list of CPU numbers"],
        );
        check(
            "cores.use = []",
            &["f:1:13: cores.use: the list of cores is empty, wants \"all\", a number of cores, or a list of CPU \
             numbers"],
        );
        check(
            "cores.use = [0, -1, 1, 'x', 0]",
            &[
                "f:1:17: cores.use[1]: -1 is out of range: 0 to 8191",
                "f:1:24: cores.use[3]: found a string, wants a whole number",
                "f:1:29: cores.use[4]: core 0 is in the list already, as cores.use[0]",
            ],
        );
        check(
            "cores.use = true",
            &["f:1:13: cores.use: found a boolean, wants \"all\", a number of cores, or a list of CPU numbers"],
        );
    }

    #[test]
    fn an_override_takes_the_rest_from_the_limits() {
        let text = "[cores]\nuse = [2, 3]\nlimits = { connections = 7, spool_backlog = '1GiB' }\n\
                    [[cores.override]]\ncore = 3\nlimits.connections = 9";
        let cores = Config::parse("f", text).expect("the text has no fault").cores;
        assert_eq!((cores.limits_of(2).connections, cores.limits_of(3).connections), (7, 9));
        assert_eq!(cores.limits_of(3).spool_backlog, ByteCount::gib(1));
        assert_eq!(cores.limits_of(3).messages_in_flight, 4096);
    }

    #[test]
    fn every_way_of_writing_a_table_is_the_same() {
        let texts = [
            "cores.limits.connections = 7\n[[cores.override]]\ncore = 3\n[cores.override.limits]\nconnections = 9",
            "[cores]\nlimits.connections = 7\noverride = [{ core = 3, limits = { connections = 9 } }]",
            "cores = { limits = { connections = 7 }, override = [{ core = 3, limits.connections = 9 }] }",
            "[cores.limits]\nconnections = 7\n[[cores.override]]\nlimits.connections = 9\ncore = 3",
        ];
        let configs = texts.map(|text| Config::parse("f", text).expect(text));
        assert_eq!(configs[0].cores.limits_of(3).connections, 9);
        assert!(configs.iter().all(|config| *config == configs[0]));
    }

    #[test]
    fn faults_of_overrides() {
        check(
            "[cores]\nuse = [0, 1]\n[[cores.override]]\ncore = 1\n[[cores.override]]\ncore = 1\n[[cores.override]]\n\
             core = 2\n[[cores.override]]\nlimits.connections = 0\n[[cores.override]]\ncore = 0\nlimits.conections = 1",
            &[
                "f:6:8: cores.override[1].core: core 1 has an override already, cores.override[0].core",
                "f:8:8: cores.override[2].core: core 2 is not one of cores.use: 0, 1",
                "f:9:1: cores.override[3].core: missing, wants a whole number",
                "f:10:22: cores.override[3].limits.connections: 0 is out of range: 1 to 1000000",
                "f:13:8: cores.override[4].limits.conections: unknown key; did you mean \"connections\"?",
            ],
        );
        check(
            "[cores.override]\ncore = 1",
            &["f:1:1: cores.override: found a table, wants an array of tables, written [[cores.override]]"],
        );
        check("cores.override = [5]", &["f:1:19: cores.override[0]: found an integer, wants a table"]);
    }

    #[test]
    fn memory_holds_a_message() {
        check(
            "cores.limits.message_memory = '128KiB'",
            &["f:1:31: cores.limits.message_memory: a core's message_memory, 128KiB, is less than spool.inline_max, \
             256KiB"],
        );
        check(
            "[[cores.override]]\ncore = 1\nlimits.message_memory = 65536",
            &["f:3:25: cores.override[0].limits.message_memory: a core's message_memory, 64KiB, is less than \
             spool.inline_max, 256KiB"],
        );
        check(
            "cores.limits.connections = -1\ncores.limits.spool_backlog = 1.5",
            &[
                "f:1:28: cores.limits.connections: -1 is out of range: 1 to 1000000",
                "f:2:30: cores.limits.spool_backlog: found a float, wants a size, such as \"50MiB\"",
            ],
        );
    }
}
