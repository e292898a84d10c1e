//! What an idle session costs in memory: growth of the server's resident set over ten thousand of them.

use anyhow::Result;

use super::Context;
use super::record::{Bar, Row};
use crate::load;
use crate::server::{Ringpost, Target};
use crate::throwaway::Folder;

/// Sessions that stand at one time.
const SESSIONS: u32 = 10_000;

/// TLS option, what it is called, and the most that a session may cost, in KiB.
const KINDS: [(&str, &str, f64); 2] = [("off", "plain", 6.0), ("starttls", "STARTTLS", 16.0)];

/// Measures both kinds, each on a server of its own, so that nothing is left from the one before.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (tls, name, kib_max) in KINDS {
        let mut row = Row::new(&format!("{SESSIONS} idle sessions, {name}"), "memory a session", "KiB");
        row.bar = Some(Bar::AtMost(kib_max));
        let folder = Folder::new(bench.options.folder.as_deref())?;
        let server = Ringpost::start(&bench.binaries.ringpost, folder.path(), Target::Discard)?;
        let text = format!("--connections {SESSIONS} --hold 5s --tls {tls} --server-pid {}", server.id());
        let report = load::run(&bench.binaries.load, "idle", server.smtp, &load::arguments(&text))?;
        row.add("ringpost", report.bytes_a_session()? / 1024.0);
        println!("{}: {:.2} KiB", row.scenario, row.median("ringpost").unwrap_or(f64::NAN));
        server.stop()?;
        rows.push(row);
    }
    Ok(rows)
}
