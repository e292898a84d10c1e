//! What traces cost: server CPU time a message with them over that without, in one and the same server, which a reload switches
//! between the two. Runs take turns, so that whatever else the machine does meets both alike.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};

use super::Context;
use super::record::{Bar, Row};
use super::subject::{self, Subject};
use crate::load;
use crate::server::{Ringpost, Target};
use crate::throwaway::Folder;

/// Sessions at one time.
const SESSIONS: u32 = 50;

/// Size of a message in bytes.
const SIZE: u32 = 4096;

/// Messages a connection.
const PER_CONNECTION: u32 = 20;

/// What a message may cost with the share of traces that is the default, over one without.
const RATIO_MAX: f64 = 1.01;

/// Turns for each round of the other benches, and the part of their time that one takes: many short ones tell more than few long
/// ones where the difference is small.
const TURNS: u32 = 8;
const PARTS: u64 = 5;

/// The ways to run: what they are called, and the share of messages that is traced.
const WAYS: [(&str, Option<f64>); 3] = [("off", None), ("1% of messages", Some(0.01)), ("all messages", Some(1.0))];

/// Measures all ways in turn.
pub(crate) fn run(bench: &Context<'_>) -> Result<Vec<Row>> {
    let folder = Folder::new(bench.options.folder.as_deref())?;
    let server = Ringpost::start(&bench.binaries.ringpost, folder.path(), Target::Discard)?;
    let collector = Collector::start()?;
    let config = folder.path().join("ringpost.toml");
    let plain = std::fs::read_to_string(&config)?;
    let switch = |share: Option<f64>| {
        let telemetry = share
            .map(|share| format!("\n[telemetry]\nendpoint = \"http://{}\"\nsample = {share}\n", collector.address));
        std::fs::write(&config, format!("{plain}{}", telemetry.unwrap_or_default()))?;
        reload(&bench.binaries.ringpost, &config)
    };
    let seconds = (bench.options.seconds / PARTS).max(1);
    measure(bench, &server, seconds)?;
    let mut samples: [Vec<f64>; WAYS.len()] = Default::default();
    for turn in 0..(bench.options.rounds * TURNS) as usize {
        for at in 0..WAYS.len() {
            // Each way is first as often as last.
            let way = (turn + at) % WAYS.len();
            switch(WAYS[way].1)?;
            let before = collector.requests();
            let cost = measure(bench, &server, seconds)?;
            if (collector.requests() > before) != WAYS[way].1.is_some() {
                bail!("traces of {}: the collector was asked {} times", WAYS[way].0, collector.requests() - before);
            }
            println!("traces of {}, turn {}: {cost:.4} ms of CPU a message", WAYS[way].0, turn + 1);
            samples[way].push(cost);
        }
    }
    Ringpost::stop(server)?;
    Ok((1..WAYS.len()).map(|way| row(way, &samples)).collect())
}

/// What a way costs over none, turn by turn.
fn row(way: usize, samples: &[Vec<f64>; WAYS.len()]) -> Row {
    let mut row = Row::new(&format!("traces of {}", WAYS[way].0), "CPU a message, with over without", "ratio");
    row.bar = (way == 1).then_some(Bar::AtMost(RATIO_MAX));
    let ratios = ratios_of(samples, way);
    ratios.iter().for_each(|ratio| row.add("ringpost", *ratio));
    let quarter = |part: usize| ratios.get(ratios.len() * part / 4).copied().unwrap_or(f64::NAN);
    let mut note = format!(
        "median of {} turns of the same server, half of them between {:.4} and {:.4}; spans go to a collector on \
         loopback, whose CPU does not count",
        ratios.len(),
        quarter(1),
        quarter(3)
    );
    if way + 1 < WAYS.len() {
        let share = WAYS[way].1.unwrap_or_default();
        let all = ratios_of(samples, WAYS.len() - 1);
        let whole = (all.get(all.len() / 2).copied().unwrap_or(f64::NAN) - 1.0) * share;
        note.push_str(&format!("; by what traces of all messages cost it would be {:.4}", 1.0 + whole));
    }
    row.note = Some(format!("{note}."));
    row
}

/// What a way costs over none in each turn, sorted.
fn ratios_of(samples: &[Vec<f64>; WAYS.len()], way: usize) -> Vec<f64> {
    let mut ratios: Vec<f64> = samples[way].iter().zip(&samples[0]).map(|(with, without)| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// CPU time a message, flat out, in milliseconds; up to the end of what is left to do.
fn measure(bench: &Context<'_>, server: &Ringpost, seconds: u64) -> Result<f64> {
    let text = format!(
        "--sessions {SESSIONS} --size {SIZE} --messages-per-connection {PER_CONNECTION} --duration {seconds}s --tls off {}",
        server.sources()
    );
    let before = server.cpu_ms()?;
    let report = load::run(&bench.binaries.load, "run", server.smtp, &load::arguments(&text))?;
    // Its last spans go out a second after they were made.
    subject::wait_until_drained(server)?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let cpu = server.cpu_ms()? - before;
    let acknowledged = report.acknowledged()?;
    if acknowledged == 0.0 {
        bail!("nothing was acknowledged");
    }
    Ok(cpu / acknowledged)
}

fn reload(binary: &Path, config: &Path) -> Result<()> {
    let told = Command::new(binary).arg("reload").arg("--config").arg(config).output().context("ringpost reload")?;
    if !told.status.success() {
        bail!("ringpost reload ended with {}: {}", told.status, String::from_utf8_lossy(&told.stderr));
    }
    Ok(())
}

/// A collector that takes everything and keeps nothing.
struct Collector {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Collector {
    /// Starts one, which lives as long as the process.
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, requests) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let count = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                // A connection that broke is the server's to make again.
                std::thread::spawn(move || drop(take(stream, &count)));
            }
        });
        Ok(Collector { address, requests })
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Answers the requests of a connection until its end.
fn take(stream: TcpStream, count: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        count.fetch_add(1, Ordering::Relaxed);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
