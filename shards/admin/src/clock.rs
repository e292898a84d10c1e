//! The wall clock, for what people read.

use ringpost_base::Timestamp;
use std::time::SystemTime;

/// This moment.
pub(crate) fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
