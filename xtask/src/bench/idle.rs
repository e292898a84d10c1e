//! What an idle session costs in memory: growth of the server's resident set over as many of them as the limits permit.

use anyhow::Result;

use super::Context;
use super::crowd::{self, Ground, SOURCES};
use super::pinning::Split;
use super::record::{Bar, Row};
use crate::load;

/// TLS option, what it is called, and the most that a session may cost, in KiB.
const KINDS: [(&str, &str, f64); 2] = [("off", "plain", 4.0), ("starttls", "STARTTLS", 12.0)];

/// Measures both kinds, each on a server of its own, so that nothing is left from the one before.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let split = Split::of_this_machine();
    let mut rows = Vec::new();
    for (tls, name, kib_max) in KINDS {
        let Ground { server, room, .. } = crowd::start(bench, &split, bench.options.idle_sessions)?;
        let mut row = Row::new(&format!("{} idle sessions, {name}", room.sessions), "memory a session", "KiB");
        row.bar = Some(Bar::AtMost(kib_max));
        row.note = Some(room.note());
        println!("{}: {}", row.scenario, room.note());
        let text = format!(
            "--connections {} --processes {} --hold 5s --tls {tls} --from {SOURCES} --server-pid {}",
            room.sessions,
            room.processes,
            server.id()
        );
        let report =
            split.as_client(|| load::run(&bench.binaries.load, "idle", server.smtp, &load::arguments(&text)))?;
        row.add("ringpost", report.bytes_a_session()? / 1024.0);
        println!("{}: {:.2} KiB", row.scenario, row.median("ringpost").unwrap_or(f64::NAN));
        server.stop()?;
        rows.push(row);
    }
    Ok(rows)
}
