//! `ringpost reload`: the config file read again, for every core or for one that tries it first.

use super::print;
use super::words::{in_words, plain};
use crate::cli::ReloadOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{CanaryOrder, ReloadOrder, Reloaded};

pub(crate) fn reload(options: &ReloadOptions) -> Result<()> {
    let canary = options.canary.map(|core| CanaryOrder { core, for_: options.span });
    let reloaded = Client::find(&options.server)?.post("/api/v1/reload", Some(&ReloadOrder { canary }))?;
    print(&outcome(&reloaded, canary))
}

fn outcome(reloaded: &Reloaded, canary: Option<CanaryOrder>) -> String {
    let mut told = match (reloaded.changed.as_slice(), canary) {
        ([], _) => "nothing that can be changed while the server runs has changed\n".to_owned(),
        (_, None) => format!("config {} is in force on every shard\n", reloaded.epoch),
        (_, Some(CanaryOrder { core, for_ })) => format!(
            "config {} is in force on core {core} alone, for {}\nhow it does: `ringpost canary show`; to take it back: \
             `ringpost canary stop`\n",
            reloaded.epoch,
            in_words(for_.0)
        ),
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
    use ringpost_base::Span;

    fn check(changed: &[&str], needs_restart: &[&str], warnings: &[&str], canary: Option<usize>, expected: &str) {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (changed, needs_restart, warnings) = (owned(changed), owned(needs_restart), owned(warnings));
        let canary = canary.map(|core| CanaryOrder { core, for_: Span::seconds(300) });
        assert_eq!(outcome(&Reloaded { epoch: 2, changed, needs_restart, warnings }, canary), expected);
    }

    #[test]
    fn what_came_of_it() {
        let nothing = "nothing that can be changed while the server runs has changed\n";
        check(&[], &[], &[], None, nothing);
        check(&[], &[], &[], Some(1), nothing);
        check(
            &["limits.message_size", "bans.allow"],
            &["cores.use"],
            &["the list zen.example is dead"],
            None,
            "config 2 is in force on every shard\nchanged: limits.message_size, bans.allow\nwait for a restart: \
             cores.use\nwarning: the list zen.example is dead\n",
        );
        check(
            &[],
            &["spool.segment_size"],
            &[],
            None,
            "nothing that can be changed while the server runs has changed\nwait for a restart: spool.segment_size\n",
        );
        check(
            &["limits.hops"],
            &[],
            &[],
            Some(4),
            "config 2 is in force on core 4 alone, for 5 minutes\nhow it does: `ringpost canary show`; to take it back: \
             `ringpost canary stop`\nchanged: limits.hops\n",
        );
    }
}
