//! `ringpost reload`.

use super::print;
use super::words::plain;
use crate::cli::RunningServer;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::Reloaded;

pub(crate) fn reload(server: &RunningServer) -> Result<()> {
    print(&outcome(&Client::find(server)?.post("/api/v1/reload", None::<&()>)?))
}

fn outcome(reloaded: &Reloaded) -> String {
    let mut told = match reloaded.changed.as_slice() {
        [] => "nothing that can be changed while the server runs has changed\n".to_owned(),
        _ => format!("config {} is in force on every shard\n", reloaded.epoch),
    };
    for (label, keys) in [("changed", &reloaded.changed), ("wait for a restart", &reloaded.needs_restart)] {
        if !keys.is_empty() {
            told.push_str(&format!("{label}: {}\n", plain(&keys.join(", "))));
        }
    }
    for warning in &reloaded.warnings {
        told.push_str(&format!("warning: {}\n", plain(warning)));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(changed: &[&str], needs_restart: &[&str], warnings: &[&str], expected: &str) {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (changed, needs_restart, warnings) = (owned(changed), owned(needs_restart), owned(warnings));
        assert_eq!(outcome(&Reloaded { epoch: 2, changed, needs_restart, warnings }), expected);
    }

    #[test]
    fn what_came_of_it() {
        check(&[], &[], &[], "nothing that can be changed while the server runs has changed\n");
        check(
            &["limits.message_size", "bans.allow"],
            &["cores.use"],
            &["the list zen.example is dead"],
            "config 2 is in force on every shard\nchanged: limits.message_size, bans.allow\nwait for a restart: \
             cores.use\nwarning: the list zen.example is dead\n",
        );
        check(
            &[],
            &["spool.segment_size"],
            &[],
            "nothing that can be changed while the server runs has changed\nwait for a restart: spool.segment_size\n",
        );
    }
}
