//! How the log is changed while it runs: options from the config, and levels that an operator sets in between.
//!
//! Invariants: what is in force is one value, replaced as a whole; a thread reads one atomic word an event and takes the
//! value up when that word has changed, so that threads which log share nothing that any of them writes. A place in the
//! code whose lines nobody wants costs what `tracing` remembers of it: one load. Levels that were set live outlast a
//! reload, unless it changes the levels of the config. A module that does not exist is no error: which there are shows
//! only as they log.

use super::{Format, LogOptions, Redaction};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Level;

/// What comes before the names of our own crates, and is left out in those of modules.
const OWN_PREFIX: &str = "ringpost_";

/// The binary's own crate, which has nothing behind the prefix; and its name as a module.
const BINARY: (&str, &str) = ("ringpost", "daemon");

/// Crates that log whole questions to the DNS, and with them the key of a list that is asked by one.
const INDISCREET: &str = "hickory_";

/// The least severe levels that are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevels {
    /// Of modules that have none of their own, but for those of a crate that gives secrets away: they log nothing.
    pub level: Level,
    /// Of single modules and what is in them: `serve`, `serve::lookups`, `hickory_resolver`. Of several that apply, the
    /// longest name does.
    pub modules: Vec<(String, Level)>,
}

impl LogLevels {
    fn of(options: &LogOptions) -> Self {
        Self { level: options.level, modules: options.modules.clone() }
    }

    /// The level for events of this target, which is a path of modules. None: nothing of it is logged.
    pub(super) fn of_target(&self, target: &str) -> Option<Level> {
        let applies = |(module, _): &&(String, Level)| is_within(target, module);
        let named = self.modules.iter().filter(applies).max_by_key(|(module, _)| own_name(module).1);
        named.map(|(_, at)| *at).or_else(|| (!target.starts_with(INDISCREET)).then_some(self.level))
    }

    /// The least severe of all.
    pub(super) fn most(&self) -> Level {
        self.modules.iter().map(|(_, level)| *level).chain([self.level]).max().unwrap_or(self.level)
    }
}

/// A path of modules as the config has it, in two parts that stand one behind the other; and how long it is.
fn own_name(path: &str) -> ((&str, &str), usize) {
    let (first, rest) = path.split_at(path.find("::").unwrap_or(path.len()));
    let first = if first == BINARY.0 { BINARY.1 } else { first.strip_prefix(OWN_PREFIX).unwrap_or(first) };
    ((first, rest), first.len() + rest.len())
}

/// Whether the target is the module, or in it.
fn is_within(target: &str, module: &str) -> bool {
    let ((crate_name, inner), (own_crate, own_inner)) = (own_name(target).0, own_name(module).0);
    let below = inner.strip_prefix(own_inner);
    crate_name == own_crate && below.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What is in force.
pub(super) struct Settings {
    pub(super) format: Format,
    pub(super) colour: bool,
    pub(super) redact: Redaction,
    pub(super) flood: Option<u32>,
    levels: LogLevels,
}

/// Changes how the process logs, while it does.
#[derive(Clone)]
pub struct LogControl(Arc<Shared>);

struct Shared {
    /// Which settings are in force: a number that no others of the process have.
    generation: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    options: LogOptions,
    /// Set by an operator, in place of those of the options.
    live: Option<LogLevels>,
    settings: Arc<Settings>,
}

impl Inner {
    fn levels(&self) -> LogLevels {
        self.live.clone().unwrap_or_else(|| LogLevels::of(&self.options))
    }

    fn settle(&mut self) {
        let LogOptions { format, colour, redact, flood, .. } = self.options;
        self.settings = Arc::new(Settings { format, colour, redact, flood, levels: self.levels() });
    }
}

fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl LogControl {
    pub(super) fn new(options: LogOptions) -> Self {
        let LogOptions { format, colour, redact, flood, .. } = options;
        let settings = Arc::new(Settings { format, colour, redact, flood, levels: LogLevels::of(&options) });
        let inner = Mutex::new(Inner { options, live: None, settings });
        Self(Arc::new(Shared { generation: AtomicU64::new(next_generation()), inner }))
    }

    /// Logs by other options from the next event on. Levels that were set live stay, unless the options have other levels
    /// than those before them.
    pub fn change(&self, options: LogOptions) {
        self.alter(|inner| {
            if LogLevels::of(&options) != LogLevels::of(&inner.options) {
                inner.live = None;
            }
            inner.options = options;
        });
    }

    /// The levels in force.
    pub fn levels(&self) -> LogLevels {
        self.inner().levels()
    }

    /// Whether the levels in force are those of the options, and not some that were set live.
    pub fn levels_are_configured(&self) -> bool {
        self.inner().live.is_none()
    }

    /// Logs by these levels from the next event on, whatever those of the options are.
    pub fn set_levels(&self, levels: LogLevels) {
        self.alter(|inner| inner.live = (levels != LogLevels::of(&inner.options)).then_some(levels));
    }

    /// Goes back to the levels of the options.
    pub fn reset_levels(&self) {
        self.alter(|inner| inner.live = None);
    }

    fn alter(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner();
        change(&mut inner);
        inner.settle();
        self.0.generation.store(next_generation(), Ordering::Release);
        drop(inner);
        // The facade remembers for each place in the code whether it is of interest, and asks anew only then.
        tracing::callsite::rebuild_interest_cache();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that could panic is between two halves of a change.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which settings are in force, for [`settings`](Self::settings) to be asked for if they are others.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The settings in force, and which they are.
    pub(super) fn settings(&self) -> (u64, Arc<Settings>) {
        let inner = self.inner();
        (self.generation(), Arc::clone(&inner.settings))
    }

    /// Whether events of this target and level are logged.
    pub(super) fn wants(&self, target: &str, level: Level) -> bool {
        self.inner().settings.levels.of_target(target).is_some_and(|least| level <= least)
    }

    /// The least severe level that any module logs.
    pub(super) fn most(&self) -> Level {
        self.inner().settings.levels.most()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_that_applies_gives_the_level() {
        let modules = [
            ("serve", Level::DEBUG),
            ("serve::lookups", Level::TRACE),
            ("ringpost_net", Level::ERROR),
            ("hickory_resolver", Level::WARN),
            ("daemon::keeper", Level::DEBUG),
        ];
        let modules = modules.map(|(name, level)| (name.to_owned(), level)).to_vec();
        let levels = LogLevels { level: Level::INFO, modules };
        for (target, level) in [
            ("ringpost_serve", Level::DEBUG),
            ("ringpost_serve::mx", Level::DEBUG),
            ("ringpost_serve::lookups", Level::TRACE),
            ("ringpost_serve::lookups::inner", Level::TRACE),
            ("ringpost_serve::lookups_too", Level::DEBUG),
            ("server", Level::INFO),
            ("ringpost_net::tls", Level::ERROR),
            ("hickory_resolver::name_server", Level::WARN),
            ("ringpost::keeper", Level::DEBUG),
            ("ringpost::lifecycle", Level::INFO),
            ("ringpost", Level::INFO),
            ("", Level::INFO),
        ] {
            assert_eq!(levels.of_target(target), Some(level), "{target}");
        }
        assert_eq!(levels.of_target("hickory_net::udp"), None);
        assert_eq!(levels.most(), Level::TRACE);
    }

    #[test]
    fn live_levels_outlast_a_change_of_anything_else() {
        let options = LogOptions::plain(Format::Json, Level::INFO);
        let control = LogControl::new(options.clone());
        let live = LogLevels { level: Level::WARN, modules: vec![("dns".into(), Level::TRACE)] };
        control.set_levels(live.clone());
        control.change(LogOptions { flood: Some(1), ..options.clone() });
        assert_eq!((control.levels(), control.levels_are_configured()), (live.clone(), false));
        assert_eq!(control.settings().1.flood, Some(1));
        control.reset_levels();
        assert_eq!((control.levels().level, control.levels_are_configured()), (Level::INFO, true));
        control.set_levels(live);
        control.change(LogOptions { level: Level::DEBUG, ..options });
        assert_eq!((control.levels().level, control.levels_are_configured()), (Level::DEBUG, true));
        assert!(control.wants("ringpost_dns", Level::DEBUG) && !control.wants("ringpost_dns", Level::TRACE));
    }
}
