//! How many times a message the server asks the disk to be sure: by its own count, and as strace sees it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::crowd::SOURCES;
use super::record::{Bar, Row};
use super::{Context, subject};
use crate::process::{self, Guarded};
use crate::server::{Ringpost, Target};
use crate::throwaway::Folder;
use crate::{http, load, proc};

/// Sessions at one time.
const SESSIONS: u32 = 64;

/// The most that group commit may leave.
const SYNCS_A_MESSAGE_MAX: f64 = 0.2;

/// What strace counts. Syncs that go through io_uring are inside io_uring_enter and can't be told from it.
const TRACED: &str = "fdatasync,fsync,syncfs,sync_file_range,io_uring_enter";

/// How long strace takes to attach, and to write its table.
const STRACE_PATIENCE: Duration = Duration::from_secs(10);

/// Measures with mail that is thrown away once durable, and with Maildir delivery.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (target, what) in [(Target::Discard, "accepted"), (Target::Maildir, "accepted and delivered")] {
        let folder = Folder::new(bench.options.folder.as_deref())?;
        let server = Ringpost::start(&bench.binaries.ringpost, folder.path(), target)?;
        for per_connection in [1, 20] {
            let scenario = format!("{what}, {SESSIONS} sessions, {per_connection} a connection");
            rows.extend(by_metric(bench, &server, &scenario, per_connection)?);
        }
        by_strace(bench, &server, what, folder.path())?;
        server.stop()?;
    }
    Ok(rows)
}

fn by_metric(bench: &Context<'_>, server: &Ringpost, scenario: &str, per_connection: u32) -> Result<Vec<Row>> {
    let mut spool = Row::new(scenario, "spool syncs a message", "");
    spool.bar = Some(Bar::AtMost(SYNCS_A_MESSAGE_MAX));
    let mut maildir = Row::new(scenario, "Maildir syncs a message", "");
    let count =
        |name| -> Result<f64> { http::metric(server.admin, name)?.with_context(|| format!("no metric {name}")) };
    for _ in 0..bench.options.rounds {
        let spool_before = count("ringpost_spool_syncs_total")?;
        let maildir_before = count("ringpost_maildir_syncs_total")?;
        let acknowledged = load(bench, server, per_connection)?;
        spool.add("ringpost", (count("ringpost_spool_syncs_total")? - spool_before) / acknowledged);
        maildir.add("ringpost", (count("ringpost_maildir_syncs_total")? - maildir_before) / acknowledged);
        proc::empty(&server.mail)?;
    }
    println!("{scenario}: {:.4} spool syncs a message", spool.median("ringpost").unwrap_or(f64::NAN));
    Ok(vec![spool, maildir])
}

/// Loads the server until its queue is empty again; the messages it acknowledged.
fn load(bench: &Context<'_>, server: &Ringpost, per_connection: u32) -> Result<f64> {
    let text = format!(
        "--sessions {SESSIONS} --size 4096 --messages-per-connection {per_connection} --duration {}s --source {SOURCES}",
        bench.options.seconds.min(5)
    );
    let report = load::run(&bench.binaries.load, "run", server.smtp, &load::arguments(&text))?;
    subject::wait_until_drained(server)?;
    report.acknowledged()
}

/// Prints what strace counts; nothing is concluded from it, since it slows the server down and sees only its calls.
fn by_strace(bench: &Context<'_>, server: &Ringpost, what: &str, folder: &Path) -> Result<()> {
    let Some(strace) = process::find_program("strace") else {
        println!("strace isn't installed: no count of system calls");
        return Ok(());
    };
    let table = folder.join("strace.txt");
    let mut command = Command::new(strace);
    command.args(["-f", "-c", "-e", &format!("trace={TRACED}"), "-p", &server.id().to_string(), "-o"]).arg(&table);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut tracer = Guarded::spawn(&mut command, "strace")?;
    let attached = process::wait_until(STRACE_PATIENCE, || is_traced(server.id()).then_some(()));
    if attached.is_none() || tracer.ended()?.is_some() {
        println!("strace can't attach here: no count of system calls");
        return Ok(());
    }
    let acknowledged = load(bench, server, 20)?;
    tracer.stop(Signal::INT, STRACE_PATIENCE)?;
    let text = std::fs::read_to_string(&table).context("strace wrote nothing")?;
    println!("{what}, {SESSIONS} sessions, 20 a connection, system calls a message as strace counts them");
    println!("(syncs that the server hands to io_uring are not among them, they happen inside io_uring_enter):");
    for (name, calls) in calls(&text) {
        println!("{name:>18} {:8.4}", calls / acknowledged);
    }
    proc::empty(&server.mail)?;
    Ok(())
}

/// True when every thread of a process has a tracer.
fn is_traced(id: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let mut statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    statuses.all(|status| status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
}

/// The rows of `strace -c`: share, seconds, microseconds a call, calls, perhaps errors, name.
fn calls(table: &str) -> Vec<(&str, f64)> {
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let name = cells.last().filter(|name| TRACED.split(',').any(|traced| traced == **name))?;
        Some((*name, cells.get(3)?.parse().ok()?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::calls;

    #[test]
    fn the_table_of_strace() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     99.02    0.001010           3       300        12 io_uring_enter\n  \
                     0.98    0.000010          10         1           fdatasync\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.001020           3       301        12 total\n";
        assert_eq!(calls(table), [("io_uring_enter", 300.0), ("fdatasync", 1.0)]);
    }
}
