//! What the file system of the spool has left, looked at once a second and held against two marks.
//!
//! Below the hard mark no message begins, so that those that have begun, settlements, and the logs of others still find
//! room; below the soft one the server says that it is degraded, while there is time to do something. A mark is left again only
//! when a tenth more than it is free, so that the answer does not change with every message.

use crate::store::Store;
use ringpost_base::ByteCount;
use ringpost_metrics::Gauge;
use ringpost_runtime::sleep;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How often it is looked at: a disk that fills at a gigabyte a second has moved by one.
const LOOK: Duration = Duration::from_secs(1);

/// By which part of a mark the free space must be above it before it is left.
const HYSTERESIS: u64 = 10;

/// The marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceLimits {
    /// With less than this free the server is degraded. Zero: never.
    pub soft: ByteCount,
    /// With less than this free, no message begins. Zero: never.
    pub hard: ByteCount,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Enough, or the file system doesn't say.
    #[default]
    Free,
    /// Less than the soft mark.
    Low,
    /// Less than the hard mark.
    Full,
}

impl SpaceLimits {
    /// How much room there is with so many bytes free, if it was `before`.
    fn judge(self, free: u64, before: Space) -> Space {
        let below = |mark: u64, inside: bool| free < if inside { mark + mark / HYSTERESIS } else { mark };
        if below(self.hard.0, before == Space::Full) {
            Space::Full
        } else if below(self.soft.0, before >= Space::Low) {
            Space::Low
        } else {
            Space::Free
        }
    }
}

impl Store {
    /// How much room there is, as seen within the last second.
    pub fn space(&self) -> Space {
        self.space.get()
    }

    /// Changes the marks; they hold at once.
    pub fn set_space_limits(&self, limits: SpaceLimits) {
        self.space_limits.set(limits);
        self.look_at_space();
    }

    /// Looks at the free space for as long as the shard lives. Begun by [`crate::open`].
    pub(crate) async fn watch_space(self: Rc<Self>) {
        loop {
            self.look_at_space();
            sleep(LOOK).await;
        }
    }

    fn look_at_space(&self) {
        let before = self.space.get();
        let Some(free) = free_bytes(&self.bodies) else { return self.space.set(Space::Free) };
        self.block.set(Gauge::SpaceFree, free);
        let limits = self.space_limits.get();
        let space = limits.judge(free, before);
        if space == before {
            return;
        }
        self.space.set(space);
        self.block.set(Gauge::SpaceState, space as u64);
        match space {
            Space::Full => {
                tracing::error!(free, hard = limits.hard.0, "the spool's disk is full: mail is refused with 452")
            }
            Space::Low => tracing::warn!(free, soft = limits.soft.0, "the spool's disk is filling up"),
            Space::Free => tracing::info!(free, "the spool's disk has room again"),
        }
    }
}

/// Bytes that a process without privileges may still write; nothing where the file system can't say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    // A file system without blocks of its own (some of FUSE and of the network) reports zeros.
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SpaceLimits = SpaceLimits { soft: ByteCount(1000), hard: ByteCount(100) };

    fn check(limits: SpaceLimits, course: &[(u64, Space)]) {
        let mut space = Space::Free;
        for (free, expected) in course {
            space = limits.judge(*free, space);
            assert_eq!(space, *expected, "{free} bytes free");
        }
    }

    #[test]
    fn a_mark_is_left_a_tenth_above_it() {
        use Space::{Free, Full, Low};
        check(LIMITS, &[(1000, Free), (999, Low), (1000, Low), (1099, Low), (1100, Free)]);
        check(LIMITS, &[(99, Full), (100, Full), (109, Full), (110, Low), (100, Low), (99, Full), (5000, Free)]);
    }

    #[test]
    fn a_mark_of_zero_is_none() {
        check(SpaceLimits::default(), &[(0, Space::Free)]);
        check(
            SpaceLimits { soft: ByteCount(0), ..LIMITS },
            &[(500, Space::Free), (99, Space::Full), (105, Space::Full)],
        );
    }

    #[test]
    fn this_file_system_can_say() {
        assert!(free_bytes(Path::new(".")).is_some_and(|free| free > 0));
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")), None);
    }
}
