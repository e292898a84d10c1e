//! The mirror of the bans in sets of nftables: who is banned here is dropped by the kernel, before it costs a handshake.
//!
//! A thread of its own runs `nft`, so that nothing waits for it. Elements carry the time that is left of their ban, so
//! that they go by themselves also where this server is gone. The table and the sets are the operator's, with the flags
//! `interval` and `timeout`; a set that is not there is said in the log, and mail is not concerned.

use crossbeam::channel::{Receiver, Sender, unbounded};
use ringpost_base::{Network, Timestamp};
use ringpost_policy::{Ban, NftablesSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Longest that an element lives that stands for a ban without an end; the mirror is made anew before it ends.
const TIMEOUT_SECONDS_MAX: u64 = 30 * 86_400;

/// Elements of one command: a script that is too long for one netlink message would be refused as a whole.
const ELEMENTS_MAX: usize = 1000;

/// A change of the mirror.
pub(crate) enum Change {
    /// The sets become these bans and nothing else.
    Replace(Vec<Arc<Ban>>),
    /// A ban more.
    Add(Arc<Ban>),
    /// A ban less.
    Remove(Network),
}

/// The running mirror.
pub(crate) struct Mirror {
    changes: Sender<(Change, Timestamp)>,
    _thread: JoinHandle<()>,
}

impl Mirror {
    /// Starts the thread.
    pub(crate) fn start(sets: NftablesSet) -> std::io::Result<Self> {
        let (changes, coming) = unbounded();
        let thread = std::thread::Builder::new().name("nftables".into()).spawn(move || run(&sets, &coming))?;
        Ok(Self { changes, _thread: thread })
    }

    /// Hands a change over.
    pub(crate) fn change(&self, change: Change, now: Timestamp) {
        // The thread ends only with the process.
        let _ = self.changes.send((change, now));
    }
}

fn run(sets: &NftablesSet, coming: &Receiver<(Change, Timestamp)>) {
    let mut failed = false;
    while let Ok(first) = coming.recv() {
        let mut scripts = String::new();
        for (change, now) in std::iter::once(first).chain(coming.try_iter().take(ELEMENTS_MAX)) {
            for script in scripts_of(sets, &change, now) {
                // A ban that is taken away may be gone from the set by itself; that must not undo the others.
                if matches!(change, Change::Remove(_)) {
                    failed = apply(&std::mem::take(&mut scripts), failed);
                    let _ = nft(&script);
                } else {
                    scripts.push_str(&script);
                }
            }
        }
        failed = apply(&scripts, failed);
    }
}

/// Runs a script; says a failure once, and when it is over.
fn apply(script: &str, failed: bool) -> bool {
    if script.is_empty() {
        return failed;
    }
    match nft(script) {
        Ok(()) => {
            if failed {
                tracing::info!("bans are mirrored into nftables again");
            }
            false
        }
        Err(reason) => {
            if !failed {
                tracing::error!(reason, "bans can't be mirrored into nftables; they are in force here all the same");
            }
            true
        }
    }
}

fn nft(script: &str) -> Result<(), String> {
    let spawned = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("nft can't be run: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

fn scripts_of(sets: &NftablesSet, change: &Change, now: Timestamp) -> Vec<String> {
    match change {
        Change::Replace(bans) => {
            let NftablesSet { family, table, set_v4, set_v6 } = sets;
            let flush = format!("flush set {family} {table} {set_v4}\nflush set {family} {table} {set_v6}\n");
            let adds =
                bans.chunks(ELEMENTS_MAX).map(|bans| bans.iter().filter_map(|ban| add(sets, ban, now)).collect());
            std::iter::once(flush).chain(adds).collect()
        }
        Change::Add(ban) => add(sets, ban, now).into_iter().collect(),
        Change::Remove(network) => vec![format!("delete element {} {{ {network} }}\n", set_of(sets, network))],
    }
}

/// Adding an element that is there changes nothing, not even its end; so it is taken away first, which needs it to be
/// there: added, deleted, added.
fn add(sets: &NftablesSet, ban: &Ban, now: Timestamp) -> Option<String> {
    let left = ban.until.map_or(TIMEOUT_SECONDS_MAX, |until| until.since(now).as_secs().min(TIMEOUT_SECONDS_MAX));
    if left == 0 {
        return None;
    }
    let (set, network) = (set_of(sets, &ban.network), ban.network);
    let mut script = String::new();
    let _ = write!(
        script,
        "add element {set} {{ {network} timeout {left}s }}\ndelete element {set} {{ {network} }}\n\
         add element {set} {{ {network} timeout {left}s }}\n"
    );
    Some(script)
}

fn set_of(sets: &NftablesSet, network: &Network) -> String {
    let set = if network.address().is_ipv4() { &sets.set_v4 } else { &sets.set_v6 };
    format!("{} {} {set}", sets.family, sets.table)
}
