//! How fast mail is made durable, beside what the disk alone gives for the same bytes in the same number of syncs.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::crowd::SOURCES;
use super::record::{Bar, Row};
use super::{Context, subject};
use crate::server::{Ringpost, Target};
use crate::throwaway::Folder;
use crate::{http, load};

/// Sessions at one time.
const SESSIONS: u32 = 64;

/// Sizes of messages in bytes: small ones, the average of mail, large ones that still go into the log.
const SIZES: [u64; 3] = [4 << 10, 27 << 10, 200 << 10];

/// The share of the disk's own throughput that durable mail is to reach.
const SHARE_OF_DISK: f64 = 0.6;

/// What writes of the log are aligned to.
const BLOCK: usize = 4096;

/// Size of each file that the disk alone is measured with: as the log's segments, so that its extents are as near.
const FILE_BYTES: u64 = 16 << 20;

/// What one run of mail wrote.
struct Written {
    bytes: u64,
    syncs: u64,
    seconds: f64,
    messages: f64,
}

/// Measures mail, then the disk with the same bytes and syncs.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let server = Ringpost::start(&bench.binaries.ringpost, folder.path(), Target::Discard)?;
    let shards = std::thread::available_parallelism()?.get();
    for size in SIZES {
        let scenario = format!("{SESSIONS} sessions, messages of {} KiB, made durable", size >> 10);
        let mut share = Row::new(&scenario, "throughput beside the disk alone", "share");
        share.bar = Some(Bar::AtLeast(SHARE_OF_DISK));
        let mut rate = Row::new(&scenario, "messages a second", "");
        for round in 1..=bench.options.rounds {
            let mail = mail(bench, &server, size)?;
            let alone = disk(folder.path(), shards, &mail)?;
            println!(
                "{scenario}, round {round}: {:.0} messages a second, {:.1} MB in {} syncs in {:.2} s; the disk alone {alone:.2} s",
                mail.messages / mail.seconds,
                mail.bytes as f64 / 1e6,
                mail.syncs,
                mail.seconds
            );
            share.add("ringpost", alone / mail.seconds);
            rate.add("ringpost", mail.messages / mail.seconds);
        }
        rows.extend([share, rate]);
    }
    server.stop()?;
    Ok(rows)
}

fn mail(bench: &Context<'_>, server: &Ringpost, size: u64) -> Result<Written> {
    let count =
        |name| -> Result<f64> { http::metric(server.admin, name)?.with_context(|| format!("no metric {name}")) };
    let (bytes, syncs) = ("ringpost_spool_bytes_total", "ringpost_spool_syncs_total");
    let before = (count(bytes)?, count(syncs)?);
    let text = format!(
        "--sessions {SESSIONS} --size {size} --messages-per-connection 1000 --duration {}s --tls off --source {SOURCES}",
        bench.options.seconds.min(5)
    );
    let report = load::run(&bench.binaries.load, "run", server.smtp, &load::arguments(&text))?;
    subject::wait_until_drained(server)?;
    let messages = report.acknowledged()?;
    if messages == 0.0 {
        bail!("the server acknowledged nothing");
    }
    Ok(Written {
        bytes: (count(bytes)? - before.0) as u64,
        syncs: (count(syncs)? - before.1) as u64,
        seconds: messages / report.rate()?,
        messages,
    })
}

/// Writes as many bytes in as many syncs, shared among as many threads as there are shards, into files that are full of zeros
/// already and past the page cache, as the log does; the seconds it takes.
fn disk(folder: &Path, shards: usize, mail: &Written) -> Result<f64> {
    let piece = (mail.bytes / mail.syncs.max(1)).next_multiple_of(BLOCK as u64) as usize;
    let files = (0..shards).map(|shard| full_of_zeros(&folder.join(format!("alone-{shard}"))));
    let files = files.collect::<Result<Vec<_>>>()?;
    let each = mail.syncs / shards as u64;
    let since = Instant::now();
    let outcome: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = files.iter().map(|file| scope.spawn(move || write(file, piece, each))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
            .collect()
    });
    let seconds = since.elapsed().as_secs_f64();
    outcome.into_iter().collect::<std::io::Result<Vec<()>>>().context("the disk can't be written")?;
    Ok(seconds)
}

fn full_of_zeros(path: &Path) -> Result<File> {
    let wrong = || format!("{}: can't be made", path.display());
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
    let file = File::options().write(true).create(true).truncate(true).custom_flags(direct).open(path);
    let file = file.with_context(wrong)?;
    let zeros = Aligned::new(1 << 20);
    for at in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(zeros.bytes(), at).with_context(wrong)?;
    }
    file.sync_all().with_context(wrong)?;
    Ok(file)
}

fn write(file: &File, piece: usize, times: u64) -> std::io::Result<()> {
    let bytes = Aligned::new(piece);
    let mut at = 0;
    for _ in 0..times {
        if at + piece as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(bytes.bytes(), at)?;
        file.sync_data()?;
        at += piece as u64;
    }
    Ok(())
}

/// Bytes at an address that direct writes may come from.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0x5a; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}
