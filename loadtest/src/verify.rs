//! Proves that what was acknowledged has arrived: once, and whole.
//!
//! The rule, for a message with one recipient as for one with many whose mail lies in several Maildirs: each
//! acknowledged message must be in at least one Maildir, and in no Maildir twice. (How many Maildirs its recipients
//! share is the server's matter, so a copy that is missing from one of several isn't noticed.) A message that was not
//! acknowledged may have arrived all the same, since its reply may have been lost; but whatever has arrived must be
//! whole. Messages of runs that nobody asked about are passed over.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::acked::read_acked;
use crate::args::VerifyArgs;
use crate::maildir::{Copy, Scanner};
use crate::message::MessageId;
use crate::units::serialize_span;

/// Pause between two looks at the Maildirs, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// After everything has arrived, how long to wait for what arrives twice.
const SETTLE: Duration = Duration::from_millis(500);

/// How many of the wrong messages are named.
const EXAMPLES_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Verification {
    pub(crate) acknowledged: u64,
    /// Of them, arrived, whole, and in no Maildir twice.
    pub(crate) exactly_once: u64,
    pub(crate) missing: u64,
    /// In some Maildir more than once.
    pub(crate) duplicated: u64,
    /// Not byte for byte what was sent.
    pub(crate) damaged: u64,
    /// Arrived without having been acknowledged; allowed.
    pub(crate) unacknowledged: u64,
    /// Of them, damaged; not allowed.
    pub(crate) unacknowledged_damaged: u64,
    /// Of them, in some Maildir more than once; allowed.
    pub(crate) unacknowledged_duplicated: u64,
    /// Files that carry a message, of the runs that were asked about.
    pub(crate) copies: u64,
    pub(crate) maildirs: u64,
    /// Files of other runs, and of no run.
    pub(crate) other_files: u64,
    #[serde(rename = "took_seconds", serialize_with = "serialize_span")]
    pub(crate) took: Duration,
    /// The first of the wrong ones, each with what is wrong.
    pub(crate) examples: Vec<String>,
}

impl Verification {
    /// Whether everything is as promised.
    pub(crate) fn holds(&self) -> bool {
        self.missing == 0 && self.duplicated == 0 && self.damaged == 0 && self.unacknowledged_damaged == 0
    }

    fn example(&mut self, id: MessageId, what: &str, place: &str) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{id} {what}{place}"));
        }
    }
}

/// The check of `ringpost-load verify`.
pub(crate) fn verify_files(args: &VerifyArgs) -> Result<Verification> {
    let mut acknowledged = Vec::new();
    for path in &args.acked {
        acknowledged.extend(read_acked(path)?);
    }
    verify(acknowledged, &[], &args.maildir, args.verify_timeout)
}

/// Looks for these messages until all have arrived or the time is up. `runs` are runs that may have no acknowledged
/// message, but whose others are to be counted.
pub(crate) fn verify(
    mut acknowledged: Vec<MessageId>,
    runs: &[u64],
    roots: &[PathBuf],
    limit: Duration,
) -> Result<Verification> {
    let begin = Instant::now();
    acknowledged.sort_unstable();
    acknowledged.dedup();
    let mut pending: HashSet<MessageId> = acknowledged.iter().copied().collect();
    let mut scanner = Scanner::new(roots);
    let (mut pause, mut looked) = (PAUSE_MIN, 0);
    loop {
        scanner.scan()?;
        for copy in &scanner.copies[looked..] {
            pending.remove(&copy.id);
        }
        looked = scanner.copies.len();
        if pending.is_empty() || begin.elapsed() >= limit {
            break;
        }
        std::thread::sleep(pause.min(limit.saturating_sub(begin.elapsed())));
        pause = (pause * 2).min(PAUSE_MAX);
    }
    if !limit.is_zero() {
        std::thread::sleep(SETTLE);
        scanner.scan()?;
    }
    let mut result = judge(&acknowledged, runs, &mut scanner);
    result.took = begin.elapsed();
    Ok(result)
}

/// Compares what was acknowledged (sorted, each once) with the copies that were found.
fn judge(acknowledged: &[MessageId], runs: &[u64], scanner: &mut Scanner) -> Verification {
    let mut result = Verification {
        acknowledged: acknowledged.len() as u64,
        maildirs: scanner.maildirs.len() as u64,
        other_files: scanner.other_files,
        ..Verification::default()
    };
    let runs: HashSet<u64> = acknowledged.iter().map(|id| id.run).chain(runs.iter().copied()).collect();
    scanner.copies.sort_unstable();
    let mut expected = acknowledged.iter().copied().peekable();
    for copies in scanner.copies.chunk_by(|one, other| one.id == other.id) {
        let id = copies[0].id;
        while let Some(missing) = expected.next_if(|next| *next < id) {
            result.missing += 1;
            result.example(missing, "is missing", "");
        }
        let was_acknowledged = expected.next_if_eq(&id).is_some();
        if runs.contains(&id.run) {
            count(&mut result, copies, was_acknowledged, &scanner.maildirs);
        } else {
            result.other_files += copies.len() as u64;
        }
    }
    for missing in expected {
        result.missing += 1;
        result.example(missing, "is missing", "");
    }
    result
}

/// Counts the copies of one message, which are sorted by Maildir.
fn count(result: &mut Verification, copies: &[Copy], was_acknowledged: bool, maildirs: &[PathBuf]) {
    let place = |copy: &Copy| format!(" in {}", maildirs[copy.maildir as usize].display());
    let id = copies[0].id;
    let doubled = copies.windows(2).find(|pair| pair[0].maildir == pair[1].maildir).map(|pair| pair[0]);
    let damaged = copies.iter().find(|copy| copy.damaged);
    result.copies += copies.len() as u64;
    if let Some(copy) = damaged {
        result.example(id, "is damaged", &place(copy));
    }
    if !was_acknowledged {
        result.unacknowledged += 1;
        result.unacknowledged_damaged += u64::from(damaged.is_some());
        result.unacknowledged_duplicated += u64::from(doubled.is_some());
        return;
    }
    if let Some(copy) = doubled {
        result.example(id, "is doubled", &place(&copy));
    }
    result.duplicated += u64::from(doubled.is_some());
    result.damaged += u64::from(damaged.is_some());
    result.exactly_once += u64::from(doubled.is_none() && damaged.is_none());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId { run: 1, sequence }
    }

    fn scanner(copies: &[(u64, u64, u32, bool)]) -> Scanner {
        let mut scanner = Scanner::new(&[]);
        scanner.maildirs = vec![PathBuf::from("a"), PathBuf::from("b")];
        scanner.copies = copies
            .iter()
            .map(|&(run, sequence, maildir, damaged)| Copy { id: MessageId { run, sequence }, maildir, damaged })
            .collect();
        scanner
    }

    #[test]
    fn every_kind_of_fate_is_told_apart() {
        let mut scanner = scanner(&[
            (1, 0, 0, false),
            (1, 1, 1, false),
            (1, 1, 0, false),
            (1, 3, 0, false),
            (1, 3, 0, false),
            (1, 4, 1, true),
            (1, 5, 0, false),
            (1, 6, 0, true),
            (2, 0, 0, true),
        ]);
        let result = judge(&[id(0), id(1), id(2), id(3), id(4), id(9)], &[], &mut scanner);
        let expected = Verification {
            acknowledged: 6,
            exactly_once: 2,
            missing: 2,
            duplicated: 1,
            damaged: 1,
            unacknowledged: 2,
            unacknowledged_damaged: 1,
            copies: 8,
            maildirs: 2,
            other_files: 1,
            examples: result.examples.clone(),
            ..Verification::default()
        };
        assert_eq!(result, expected);
        assert!(!result.holds());
        assert_eq!(result.examples.len(), 5, "{:?}", result.examples);
    }

    #[test]
    fn unacknowledged_arrivals_are_allowed() {
        let result = judge(&[], &[1], &mut scanner(&[(1, 5, 0, false)]));
        assert_eq!((result.unacknowledged, result.holds()), (1, true));
    }

    #[test]
    fn waits_for_what_arrives_late() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let new = dir.path().join("user/new");
        std::fs::create_dir_all(&new).expect("creates");
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            let text = "X-Ringpost-Load-Id: 0000000000000001-0\nX-Ringpost-Load-Digest: 00000000\n\
                        X-Ringpost-Load-Size: 0\n\n";
            std::fs::write(new.join("1"), text).expect("writes");
        });
        let roots = [dir.path().to_owned()];
        let result = verify(vec![id(0)], &[], &roots, Duration::from_secs(30)).expect("verifies");
        late.join().expect("joins");
        assert_eq!((result.exactly_once, result.holds()), (1, true));
        let result = verify(vec![id(0), id(1)], &[], &roots, Duration::ZERO).expect("verifies");
        assert_eq!((result.missing, result.holds()), (1, false));
    }
}
