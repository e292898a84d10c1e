//! `ringpost restore`: a state directory from a backup, on a host where no server runs.

use super::words::{bytes, in_words, plain};
use super::{now, print};
use crate::check;
use crate::cli::RestoreOptions;
use crate::state::StateDir;
use anyhow::Result;
use ringpost_base::Timestamp;
use ringpost_store::Restored;
use std::path::Path;

pub(crate) fn restore(options: &RestoreOptions) -> Result<()> {
    let config = check::load_without_credentials(&options.config)?;
    // Locked while it is written, so that no server starts in the middle of it.
    let state = StateDir::open(&config.server.state_dir)?;
    let told = ringpost_store::restore(&options.from, state.path())?;
    print(&report(&told, state.path(), now()))
}

fn report(told: &Restored, state_dir: &Path, now: Timestamp) -> String {
    let mut text = format!(
        "{}: {} segments, {} body files, {} other files, {}; all as in the backup of {}, made {} ago\n",
        plain(&state_dir.display().to_string()),
        told.segments,
        told.bodies,
        told.others.len(),
        bytes(told.bytes),
        plain(&told.hostname),
        in_words(now.since(told.made)),
    );
    if !told.others.is_empty() {
        text.push_str(&format!("other files: {}\n", plain(&told.others.join(", "))));
    }
    if !told.replaced.is_empty() {
        text.push_str(&format!("replaced, as they were there: {}\n", plain(&told.replaced.join(", "))));
    }
    text.push_str(
        "The next start delivers what was queued when the backup was made. What was delivered after that is delivered \
         again; what was accepted after that is not here.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restore_came_to() {
        let told = Restored {
            hostname: "mx.example.com".into(),
            made: Timestamp::from_unix_micros(1_000_000),
            segments: 3,
            bodies: 2,
            others: vec!["bans".into()],
            replaced: vec!["bans".into()],
            bytes: 48 << 20,
        };
        let text = report(&told, Path::new("/state"), Timestamp::from_unix_micros(3_601_000_000));
        let first = "/state: 3 segments, 2 body files, 1 other files, 48MiB; all as in the backup of mx.example.com, made \
                     1 hour ago";
        assert_eq!(text.lines().next(), Some(first));
        assert!(text.contains("replaced, as they were there: bans\n") && text.contains("again"), "{text}");
    }
}
