//! What a message costs while many others wait: queueing one more, and looking at the first page of all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Context;
use super::record::{Bar, Row};
use crate::server::{Ringpost, Target};
use crate::throwaway::Folder;
use crate::{http, load, proc};

/// Messages that wait when each measurement begins.
const DEPTHS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Messages whose cost is measured at each depth.
const SAMPLE: u64 = 40_000;

/// Size of a message in bytes: the cost of the queue is to be seen beside that of the bytes.
const SIZE: u64 = 1024;

/// Sessions at one time.
const SESSIONS: u32 = 50;

/// How much dearer a message may be with the most waiting than with the fewest.
const GROWTH_MAX: f64 = 1.10;

/// How long the first page may take.
const PAGE_MS_MAX: f64 = 50.0;

/// What a message may take in memory besides its bytes.
const ENTRY_BYTES_MAX: f64 = 200.0;

/// How long a server may take to read a million messages back.
const START_PATIENCE: Duration = Duration::from_secs(300);

/// Fills the queue of a server whose next hop does not answer, step by step; then starts the server anew.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let depths: Vec<u64> = DEPTHS.into_iter().filter(|depth| *depth <= bench.options.queue_messages).collect();
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let server = Ringpost::start(&bench.binaries.ringpost, folder.path(), Target::Nobody)?;
    let mut cost = Row::new("queueing one more message", "CPU with the most waiting over with the fewest", "ratio");
    cost.bar = Some(Bar::AtMost(GROWTH_MAX));
    let mut page = Row::new("the most waiting", "first page of the list", "ms");
    page.bar = Some(Bar::AtMost(PAGE_MS_MAX));
    let mut memory = Row::new("the most waiting", "memory a message that waits", "bytes");
    memory.bar = Some(Bar::AtMost(ENTRY_BYTES_MAX));
    let mut waiting = fill(bench, &server, 0, depths[0])?;
    let memory_before = (waiting, resident_bytes(&server)?);
    let mut costs = Vec::new();
    for depth in &depths {
        waiting = fill(bench, &server, waiting, *depth)?;
        let cpu_before = proc::times(server.id()).context("the server is gone")?.own_ms;
        let target = waiting + SAMPLE;
        let now = fill(bench, &server, waiting, target)?;
        let cpu = proc::times(server.id()).context("the server is gone")?.own_ms - cpu_before;
        costs.push(cpu / (now - waiting) as f64);
        waiting = now;
        println!(
            "{depth} waiting: {:.4} ms of CPU for one more, first page in {:.1} ms",
            cpu / SAMPLE as f64,
            first_page(&server)?
        );
    }
    let grown = resident_bytes(&server)?.saturating_sub(memory_before.1);
    if let (Some(first), Some(last)) = (costs.first(), costs.last()) {
        cost.add("ringpost", last / first);
    }
    memory.add("ringpost", grown as f64 / (waiting - memory_before.0) as f64);
    memory.note = Some("Growth of RSS, with the spool's memory for hot messages full before.".into());
    for _ in 0..bench.options.rounds {
        page.add("ringpost", first_page(&server)?);
    }
    let restart = restart(bench, server, folder.path(), waiting)?;
    Ok(vec![cost, page, memory, restart])
}

/// Has as many messages wait as are wanted; how many do.
fn fill(bench: &Context<'_>, server: &Ringpost, waiting: u64, wanted: u64) -> Result<u64> {
    let Some(missing) = wanted.checked_sub(waiting).filter(|missing| *missing > 0) else { return Ok(waiting) };
    let text = format!(
        "--sessions {SESSIONS} --size {SIZE} --messages-per-connection 1000 --messages {missing} --tls off --source {}",
        super::crowd::SOURCES
    );
    load::run(&bench.binaries.load, "run", server.smtp, &load::arguments(&text))?;
    let queued = http::metric(server.admin, "ringpost_queue_messages")?.context("no count of waiting messages")? as u64;
    if queued < wanted {
        bail!("{queued} messages wait after filling the queue up to {wanted}");
    }
    Ok(queued)
}

/// How long `ringpost queue list` takes on the server's side, in milliseconds: asked over its socket as the command does.
fn first_page(server: &Ringpost) -> Result<f64> {
    let since = Instant::now();
    let (status, body) = http::get_unix(&server.socket, "/api/v1/queue/messages?limit=50")?;
    let took = since.elapsed().as_secs_f64() * 1000.0;
    if status != 200 || !body.contains("\"id\"") {
        bail!("the list was answered with {status}: {body}");
    }
    Ok(took)
}

fn resident_bytes(server: &Ringpost) -> Result<u64> {
    Ok(proc::rss_kib(server.id()).context("the server is gone")? * 1024)
}

/// Starts a server on the same files; how long it takes until it is ready.
fn restart(bench: &Context<'_>, server: Ringpost, folder: &std::path::Path, waiting: u64) -> Result<Row> {
    server.stop()?;
    let mut row = Row::new(&format!("{waiting} messages waiting"), "from start to ready", "s");
    for _ in 0..bench.options.rounds {
        let since = Instant::now();
        let again = Ringpost::start_within(&bench.binaries.ringpost, folder, Target::Nobody, START_PATIENCE)?;
        row.add("ringpost", since.elapsed().as_secs_f64());
        let queued = http::metric(again.admin, "ringpost_queue_messages")?.unwrap_or_default() as u64;
        if queued != waiting {
            bail!("{queued} of {waiting} messages are there after a restart");
        }
        again.stop()?;
    }
    Ok(row)
}
