//! `ringpost ban add`, `ban rm`, `ban list`.

use super::table::{Side, draw};
use super::words::{in_words, plain};
use super::{now, print, print_json};
use crate::cli::BanCommand;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{BanAdd, BanView, Moment};
use ringpost_base::{Network, Timestamp};

const BANS: &str = "/api/v1/bans";

pub(crate) fn ban(command: BanCommand) -> Result<()> {
    match command {
        BanCommand::Add(options) => {
            let order = BanAdd { network: options.network, ttl: options.ttl, reason: options.reason };
            let ban: BanView = Client::find(&options.server)?.post(BANS, Some(&order))?;
            print(&added(&ban, now()))
        }
        BanCommand::Rm(options) => {
            let ban: BanView = Client::find(&options.server)?.delete(&path(options.network))?;
            print(&lifted(&ban))
        }
        BanCommand::List(options) => {
            let client = Client::find(&options.server)?;
            if options.json {
                return print_json(&client, BANS);
            }
            print(&list(&client.get::<Vec<BanView>>(BANS)?, now()))
        }
    }
}

/// The path of a ban: a slash in it would be one of the path's.
fn path(network: Network) -> String {
    format!("{BANS}/{}", network.to_string().replace('/', "%2F"))
}

fn added(ban: &BanView, now: Timestamp) -> String {
    let network = ban.network;
    match ban.until {
        Some(until) => format!("{network} is banned on every shard until {until:.0} ({})\n", left(until, now)),
        None => format!("{network} is banned on every shard for good\n"),
    }
}

fn lifted(ban: &BanView) -> String {
    let reason = if ban.reason.is_empty() { String::new() } else { format!(": {}", plain(&ban.reason)) };
    let (network, by, since) = (ban.network, plain(&ban.by), ban.since);
    format!("{network} is no longer banned; it was since {since:.0}, by {by}{reason}\n")
}

fn list(bans: &[BanView], now: Timestamp) -> String {
    if bans.is_empty() {
        return "nobody is banned\n".to_owned();
    }
    let columns = ["NETWORK", "UNTIL", "LEFT", "SINCE", "BY", "REASON"].map(|name| (name, Side::Left));
    let row = |ban: &BanView| {
        let until = ban.until.map_or("for good".to_owned(), |until| format!("{until:.0}"));
        vec![
            ban.network.to_string(),
            until,
            ban.until.map_or(String::new(), |until| left(until, now)),
            format!("{:.0}", ban.since),
            plain(&ban.by),
            plain(&ban.reason),
        ]
    };
    draw(&columns, &bans.iter().map(row).collect::<Vec<_>>())
}

fn left(until: Moment, now: Timestamp) -> String {
    in_words(until.0.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

    fn view(network: &str, seconds: Option<u64>, by: &str, reason: &str) -> BanView {
        BanView {
            network: network.parse().expect("a network"),
            reason: reason.to_owned(),
            by: by.to_owned(),
            since: Timestamp::from_unix_micros(1_795_176_000_500_000).into(),
            until: seconds.map(|seconds| NOW.after(Duration::from_secs(seconds)).into()),
        }
    }

    #[test]
    fn bans_as_a_table() {
        assert_eq!(list(&[], NOW), "nobody is banned\n");
        let bans = [
            view("192.0.2.0/24", Some(3_900), "operator", "spam run \u{1b}[2J"),
            view("2001:db8:1:2:3:4:5:6", None, "bans.rule[0]", ""),
        ];
        let expected = "\
NETWORK               UNTIL                 LEFT              SINCE                 BY            REASON
192.0.2.0/24          2026-11-20T14:05:00Z  1 hour 5 minutes  2026-11-20T12:00:00Z  operator      spam run \\u{1b}[2J
2001:db8:1:2:3:4:5:6  for good                                2026-11-20T12:00:00Z  bans.rule[0]
";
        assert_eq!(list(&bans, NOW), expected);
    }

    #[test]
    fn what_was_done_is_told() {
        assert_eq!(
            added(&view("192.0.2.0/24", Some(3_600), "operator", ""), NOW),
            "192.0.2.0/24 is banned on every shard until 2026-11-20T14:00:00Z (1 hour)\n"
        );
        assert_eq!(added(&view("::1", None, "operator", ""), NOW), "::1 is banned on every shard for good\n");
        assert_eq!(
            lifted(&view("192.0.2.1", None, "operator", "spam")),
            "192.0.2.1 is no longer banned; it was since 2026-11-20T12:00:00Z, by operator: spam\n"
        );
    }

    #[test]
    fn the_path_of_a_network_is_one_segment() {
        for (network, expected) in [
            ("192.0.2.0/24", "/api/v1/bans/192.0.2.0%2F24"),
            ("2001:db8::/32", "/api/v1/bans/2001:db8::%2F32"),
            ("192.0.2.1", "/api/v1/bans/192.0.2.1"),
        ] {
            assert_eq!(path(network.parse().expect("a network")), expected);
        }
    }
}
