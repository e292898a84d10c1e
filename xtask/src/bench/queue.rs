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

/// How long a started server is given to return memory.
const SETTLE: Duration = Duration::from_secs(3);

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
    let empty = resident_bytes(&server)?;
    let mut waiting = 0;
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
    if let (Some(first), Some(last)) = (costs.first(), costs.last()) {
        cost.add("ringpost", last / first);
    }
    for _ in 0..bench.options.rounds {
        page.add("ringpost", first_page(&server)?);
    }
    let [restart, memory] = restart(bench, server, folder.path(), Waiting { messages: waiting, empty })?;
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

/// What waits when the server is started again.
struct Waiting {
    messages: u64,
    /// Memory of the server when nothing did.
    empty: u64,
}

/// Starts a server on the same files: how long it takes until it is ready, and what memory the messages then take. After a
/// restart no message's bytes are in memory, so what has grown is what is kept of each.
fn restart(bench: &Context<'_>, server: Ringpost, folder: &std::path::Path, waiting: Waiting) -> Result<[Row; 2]> {
    server.stop()?;
    let scenario = format!("{} messages waiting", waiting.messages);
    let mut row = Row::new(&scenario, "from start to ready", "s");
    let mut memory = Row::new(&scenario, "memory a message", "bytes");
    memory.bar = Some(Bar::AtMost(ENTRY_BYTES_MAX));
    memory.note = Some("RSS after a restart, less that of the server when nothing waited.".into());
    for _ in 0..bench.options.rounds {
        let since = Instant::now();
        let again = Ringpost::start_within(&bench.binaries.ringpost, folder, Target::Nobody, START_PATIENCE)?;
        row.add("ringpost", since.elapsed().as_secs_f64());
        let queued = http::metric(again.admin, "ringpost_queue_messages")?.unwrap_or_default() as u64;
        if queued != waiting.messages {
            bail!("{queued} of {} messages are there after a restart", waiting.messages);
        }
        // What the start itself took goes back to the system a moment later.
        std::thread::sleep(SETTLE);
        let grown = resident_bytes(&again)?.saturating_sub(waiting.empty);
        memory.add("ringpost", grown as f64 / waiting.messages as f64);
        again.stop()?;
    }
    Ok([row, memory])
}
