//! The mirror of the bans in sets of nftables: who is banned here is dropped by the kernel, before it costs a handshake.
//!
//! A thread of its own runs `nft`, so that nothing waits for it. It knows what is banned and what it has put into the sets,
//! and does the difference. A set of intervals takes no two elements that overlap, so of bans within each other the widest
//! is there, and when that ends, those within it. Elements carry the time that is left of their ban, so that they go by
//! themselves also where this server is gone.
//!
//! The table and the sets are the operator's, with the flags `interval` and `timeout`. Where a change fails, because a set
//! is not there or holds what somebody else put into it, the sets are emptied and filled, again and again until that
//! succeeds; the failure is said once, and mail is not concerned. The same is done now and then without a failure, since
//! who starts the packet filter anew empties them.

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use ringpost_base::{Network, Timestamp};
use ringpost_policy::{Ban, NftablesSet};
use ringpost_runtime::now;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest that an element lives that stands for a ban without an end; the sets are filled anew long before it ends.
const TIMEOUT_SECONDS_MAX: u64 = 30 * 86_400;

/// Changes that are done together, so that a flood of bans costs few runs of `nft`.
const CHANGES_MAX: usize = 10_000;

/// How often the thread looks for bans that have ended, and tries again what failed.
const LOOK: Duration = Duration::from_secs(5);

/// How often the sets are emptied and filled without a need that is known. It takes a second for 40,000 elements.
const REFILL: Duration = Duration::from_secs(600);

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
        let reflection = Reflection::new(sets);
        let thread = std::thread::Builder::new().name("nftables".into()).spawn(move || run(reflection, &coming))?;
        Ok(Self { changes, _thread: thread })
    }

    /// Hands a change over.
    pub(crate) fn change(&self, change: Change, now: Timestamp) {
        // The thread ends only with the mirror.
        let _ = self.changes.send((change, now));
    }
}

fn run(mut reflection: Reflection, coming: &Receiver<(Change, Timestamp)>) {
    loop {
        let at = match coming.recv_timeout(LOOK) {
            Ok((first, mut at)) => {
                reflection.note(first);
                for (change, later) in coming.try_iter().take(CHANGES_MAX) {
                    reflection.note(change);
                    at = later;
                }
                at
            }
            Err(RecvTimeoutError::Timeout) => now().wall,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        reflection.settle(at);
    }
}

/// Networks with the end of each.
type Ends = BTreeMap<Network, Option<Timestamp>>;

/// What is banned, and what is in the sets.
struct Reflection {
    sets: NftablesSet,
    banned: Ends,
    /// What the sets hold; nothing: that is not known.
    there: Option<Ends>,
    filled: Instant,
    failed: bool,
}

impl Reflection {
    fn new(sets: NftablesSet) -> Self {
        Self { sets, banned: Ends::new(), there: None, filled: Instant::now(), failed: false }
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Replace(bans) => {
                self.banned = bans.iter().map(|ban| (ban.network, ban.until)).collect();
                self.there = None;
            }
            Change::Add(ban) => drop(self.banned.insert(ban.network, ban.until)),
            Change::Remove(network) => drop(self.banned.remove(&network)),
        }
    }

    /// Makes the sets what they should be.
    fn settle(&mut self, at: Timestamp) {
        let lasts = |until: &Option<Timestamp>| until.is_none_or(|until| until > at);
        self.banned.retain(|_, until| lasts(until));
        let wanted = widest(&self.banned);
        let there = self.there.take().filter(|_| self.filled.elapsed() < REFILL);
        let done = there.is_some_and(|mut there| {
            // Those have gone by themselves.
            there.retain(|_, until| lasts(until));
            self.apply_all(&difference(&self.sets, &there, &wanted, at)).is_ok()
        });
        let result = if done { Ok(()) } else { self.refill(&wanted, at) };
        self.there = result.is_ok().then_some(wanted);
        self.tell(result);
    }

    fn apply_all(&self, scripts: &[String]) -> Result<(), String> {
        scripts.iter().filter(|script| !script.is_empty()).try_for_each(|script| nft(script))
    }

    /// Empties the sets and fills them, in one transaction: nobody slips through in between.
    fn refill(&mut self, wanted: &Ends, at: Timestamp) -> Result<(), String> {
        self.filled = Instant::now();
        nft(&filling(&self.sets, wanted, at))
    }

    /// Says a failure once, and when it is over.
    fn tell(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) if self.failed => tracing::info!("bans are mirrored into nftables again"),
            Err(reason) if !self.failed => {
                tracing::error!(reason, "bans can't be mirrored into nftables; they are in force here all the same");
                self.failed = true;
                return;
            }
            Ok(()) | Err(_) => return,
        }
        self.failed = false;
    }
}

/// Those that no other has in it. They are in order, a network before those that are in it.
fn widest(banned: &Ends) -> Ends {
    let mut widest = Ends::new();
    let mut last: Option<Network> = None;
    for (network, until) in banned {
        if last.is_none_or(|last| !last.overlaps(network)) {
            widest.insert(*network, *until);
            last = Some(*network);
        }
    }
    widest
}

/// What makes one of the other: first what goes, then what comes, since `nft` compares what comes with what is there
/// before a transaction.
fn difference(sets: &NftablesSet, there: &Ends, wanted: &Ends, at: Timestamp) -> [String; 2] {
    let mut scripts = [String::new(), String::new()];
    for (network, _) in there.iter().filter(|(network, until)| wanted.get(network) != Some(until)) {
        let element = format!("element {} {{ {network} }}\n", set_of(sets, network));
        // It may have gone a moment ago, and deleting what is not there would fail: it is added first.
        let _ = write!(scripts[0], "add {element}delete {element}");
    }
    for (network, until) in wanted.iter().filter(|(network, until)| there.get(network) != Some(until)) {
        add(sets, network, *until, at, &mut scripts[1]);
    }
    scripts
}

fn filling(sets: &NftablesSet, wanted: &Ends, at: Timestamp) -> String {
    let NftablesSet { family, table, set_v4, set_v6 } = sets;
    let mut script = format!("flush set {family} {table} {set_v4}\nflush set {family} {table} {set_v6}\n");
    for (network, until) in wanted {
        add(sets, network, *until, at, &mut script);
    }
    script
}

fn add(sets: &NftablesSet, network: &Network, until: Option<Timestamp>, at: Timestamp, script: &mut String) {
    // A second begun counts: what is banned here must not get in there.
    let left = until.map_or(TIMEOUT_SECONDS_MAX, |until| until.since(at).as_millis().div_ceil(1000) as u64);
    let (set, left) = (set_of(sets, network), left.clamp(1, TIMEOUT_SECONDS_MAX));
    // A String takes everything.
    let _ = writeln!(script, "add element {set} {{ {network} timeout {left}s }}");
}

fn set_of(sets: &NftablesSet, network: &Network) -> String {
    let set = if network.address().is_ipv4() { &sets.set_v4 } else { &sets.set_v6 };
    format!("{} {} {set}", sets.family, sets.table)
}

/// Runs a script, which is one transaction.
fn nft(script: &str) -> Result<(), String> {
    let spawned = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("nft can't be run: {error}"))?;
    // One that reads no further has a reason, and says it.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return written.map_err(|error| error.to_string());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_000_000_500_000);

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    /// Networks, each with the seconds that it has from the epoch, or 0 for good.
    fn ends(all: &[(&str, u64)]) -> Ends {
        let end = |seconds: u64| (seconds > 0).then(|| Timestamp::from_unix_micros(seconds * 1_000_000));
        all.iter().map(|(text, seconds)| (network(text), end(*seconds))).collect()
    }

    fn sets() -> NftablesSet {
        let [family, table, set_v4, set_v6] = ["inet", "filter", "four", "six"].map(str::to_owned);
        NftablesSet { family, table, set_v4, set_v6 }
    }

    #[test]
    fn of_bans_within_each_other_the_widest_is_mirrored() {
        for (banned, wanted) in [
            (
                &["192.0.2.7", "192.0.2.0/24", "192.0.2.128/25", "192.0.3.0/24"][..],
                &["192.0.2.0/24", "192.0.3.0/24"][..],
            ),
            (&["192.0.2.7", "192.0.2.8"], &["192.0.2.7", "192.0.2.8"]),
            (&["0.0.0.0/0", "192.0.2.7", "::/0", "2001:db8::/32"], &["0.0.0.0/0", "::/0"]),
            (&["2001:db8::/32", "2001:db8::1", "2001:db9::1"], &["2001:db8::/32", "2001:db9::1"]),
            (&[], &[]),
        ] {
            let all = |texts: &[&str]| ends(&texts.iter().map(|text| (*text, 0)).collect::<Vec<_>>());
            assert_eq!(widest(&all(banned)), all(wanted), "{banned:?}");
        }
    }

    #[test]
    fn what_goes_is_taken_away_before_what_comes_is_added() {
        let there = ends(&[("192.0.2.7", 0), ("192.0.2.9", 1_000_100), ("203.0.113.1", 1_000_060)]);
        let wanted = ends(&[("192.0.2.0/24", 0), ("203.0.113.1", 1_000_060), ("2001:db8::1", 1_000_061)]);
        let [goes, comes] = difference(&sets(), &there, &wanted, NOW);
        assert_eq!(
            goes,
            "add element inet filter four { 192.0.2.7 }\ndelete element inet filter four { 192.0.2.7 }\n\
             add element inet filter four { 192.0.2.9 }\ndelete element inet filter four { 192.0.2.9 }\n"
        );
        assert_eq!(
            comes,
            "add element inet filter four { 192.0.2.0/24 timeout 2592000s }\n\
             add element inet filter six { 2001:db8::1 timeout 61s }\n"
        );
        assert_eq!(difference(&sets(), &wanted, &wanted, NOW), ["", ""]);
    }

    #[test]
    fn a_new_end_is_a_new_element() {
        let [goes, comes] =
            difference(&sets(), &ends(&[("192.0.2.7", 1_000_060)]), &ends(&[("192.0.2.7", 1_000_120)]), NOW);
        assert!(goes.contains("delete element inet filter four { 192.0.2.7 }"), "{goes}");
        assert_eq!(comes, "add element inet filter four { 192.0.2.7 timeout 120s }\n");
    }

    #[test]
    fn the_sets_are_emptied_before_they_are_filled() {
        let script = filling(&sets(), &ends(&[("192.0.2.7", 1_000_001)]), NOW);
        assert_eq!(
            script,
            "flush set inet filter four\nflush set inet filter six\n\
             add element inet filter four { 192.0.2.7 timeout 1s }\n"
        );
    }
}
