//! The `handshakes` command: what a TLS handshake costs rustls alone, as the measure for servers built on it.
//!
//! Client and server are in one thread and pass each other bytes in memory. Only the CPU time that the thread spends in
//! the server's calls counts: making the session, the ClientHello, the client's last flight, and dropping it. The
//! server's side is set up as a mail server would: a shared ticketer, one ticket, no cache. Every handshake is a full one.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};
use serde::Serialize;

use crate::args::HandshakesArgs;
use crate::tls::{self, Trust};

/// Handshakes that aren't counted, so that the code and its tables are in the caches.
const WARM_UP: u32 = 200;

/// Flights that a handshake may take from either side; TLS 1.2 takes two and TLS 1.3 one and a half.
const FLIGHTS_MAX: usize = 8;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct BareResult {
    handshakes: u64,
    /// CPU time of the server's side.
    server_cpu_us_per_handshake: f64,
    /// The same for the client's.
    client_cpu_us_per_handshake: f64,
    /// Version, cipher suite and group.
    tls: String,
}

/// What one thread measured.
#[derive(Default)]
struct Sum {
    handshakes: u64,
    server: Duration,
    client: Duration,
}

/// Shakes hands for as long as asked.
pub(crate) fn handshakes(args: &HandshakesArgs) -> Result<BareResult> {
    let server = server_config(args)?;
    let client = tls::client_config(Trust::Unchecked, args.tls_version, false)?;
    let label = shake_hands(&client, &server, &mut Sum::default())?;
    let measure = || measure(&client, &server, args.duration);
    let sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads).map(|_| scope.spawn(measure)).collect();
        let results = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))?);
        results.collect::<Result<Vec<Sum>>>()
    })?;
    let count: u64 = sums.iter().map(|sum| sum.handshakes).sum();
    ensure!(count > 0, "not a single handshake in {:?}", args.duration);
    let us = |each: fn(&Sum) -> Duration| sums.iter().map(each).sum::<Duration>().as_secs_f64() * 1e6 / count as f64;
    Ok(BareResult {
        handshakes: count,
        server_cpu_us_per_handshake: us(|sum| sum.server),
        client_cpu_us_per_handshake: us(|sum| sum.client),
        tls: label,
    })
}

fn measure(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, duration: Duration) -> Result<Sum> {
    for _ in 0..WARM_UP {
        shake_hands(client, server, &mut Sum::default())?;
    }
    let mut sum = Sum::default();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        shake_hands(client, server, &mut sum)?;
        sum.handshakes += 1;
    }
    Ok(sum)
}

/// One handshake from the first byte to the last, the tickets included; says what was agreed on.
fn shake_hands(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, sum: &mut Sum) -> Result<String> {
    let name = ServerName::try_from("mx.example").context("the name")?;
    let mut here = timed(&mut sum.client, || ClientConnection::new(Arc::clone(client), name))?;
    let mut there = timed(&mut sum.server, || ServerConnection::new(Arc::clone(server)))?;
    let (mut out, mut back) = (Vec::new(), Vec::new());
    for _ in 0..FLIGHTS_MAX {
        timed(&mut sum.client, || take_turn(&mut here, &mut back, &mut out))?;
        if out.is_empty() {
            break;
        }
        timed(&mut sum.server, || take_turn(&mut there, &mut out, &mut back))?;
    }
    ensure!(!here.is_handshaking() && !there.is_handshaking(), "the handshake didn't come to its end");
    let label = tls::label(&here);
    timed(&mut sum.server, || drop(there));
    timed(&mut sum.client, || drop(here));
    Ok(label)
}

/// Takes what came from the other side, and adds what is to go there.
fn take_turn<D: SideData>(side: &mut ConnectionCommon<D>, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<()> {
    let mut rest = input.as_slice();
    while !rest.is_empty() {
        side.read_tls(&mut rest)?;
        side.process_new_packets()?;
    }
    input.clear();
    while side.wants_write() {
        side.write_tls(output)?;
    }
    Ok(())
}

/// Does something and adds the CPU time it takes.
fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begin = cpu_time();
    let result = work();
    *sum += cpu_time().saturating_sub(begin);
    result
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn server_config(args: &HandshakesArgs) -> Result<Arc<ServerConfig>> {
    let file = |path: &Path| format!("{} can't be read as PEM", path.display());
    let chain = CertificateDer::pem_file_iter(&args.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| file(&args.cert))?;
    let key = PrivateKeyDer::from_pem_file(&args.key).with_context(|| file(&args.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(tls::versions(args.tls_version))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("--cert and --key don't go together")?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The report of the command.
pub(crate) fn report(result: &BareResult, record: Option<&Path>) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(out, "{} handshakes in memory, {}", result.handshakes, result.tls);
    let _ = writeln!(out, "\n  server {:>10.1} us CPU each", result.server_cpu_us_per_handshake);
    let _ = writeln!(out, "  client {:>10.1} us CPU each", result.client_cpu_us_per_handshake);
    if let Some(path) = record {
        let _ = writeln!(out, "\nrecord: {}", path.display());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn run(options: &[&str]) -> BareResult {
        let made = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).expect("makes a certificate");
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path.to_string_lossy().into_owned()
        };
        let (cert, key) = (file("cert", made.cert.pem()), file("key", made.signing_key.serialize_pem()));
        let words = ["ringpost-load", "handshakes", "--cert", &cert, "--key", &key, "--duration", "20ms"];
        let cli = Cli::try_parse_from([&words, options].concat()).expect("parses");
        let Some(Command::Handshakes(args)) = cli.command else { panic!("another command") };
        handshakes(&args).expect("shakes hands")
    }

    #[test]
    fn both_versions_shake_hands_in_memory() {
        for (version, mark) in [("1.3", "TLSv1_3 "), ("1.2", "TLSv1_2 ")] {
            let result = run(&["--tls-version", version, "--threads", "2"]);
            assert!(result.handshakes >= 2 && result.tls.starts_with(mark), "{result:?}");
            assert!(result.server_cpu_us_per_handshake > 1.0 && result.client_cpu_us_per_handshake > 1.0);
        }
    }
}
