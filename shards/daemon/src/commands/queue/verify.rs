//! `ringpost queue verify`: has everything that is stored read back, and names what is damaged.

use super::{QUEUE, silence};
use crate::cli::QueueVerifyOptions;
use crate::client::Client;
use crate::commands::table::{Side, draw};
use crate::commands::words::{bytes, messages, plain};
use crate::commands::{json, print};
use anyhow::{Result, bail};
use ringpost_admin::api::{DamagedView, QueueVerification};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How often it is asked how far it has come.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn verify(options: &QueueVerifyOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    let path = format!("{QUEUE}/verification");
    let mut reached: QueueVerification = client.post(&path, None::<&()>)?;
    let watched = io::stderr().is_terminal();
    while reached.running {
        if watched {
            let (read, all) = (bytes(reached.read_bytes), bytes(reached.bytes));
            eprint!("\r{} read back, {read} of {all}\x1b[K", messages(reached.checked));
            // A terminal that takes nothing shows nothing.
            let _ = io::stderr().flush();
        }
        std::thread::sleep(LOOK);
        reached = client.get(&path)?;
    }
    if watched {
        eprint!("\r\x1b[K");
    }
    let told = if options.json { json(&reached)? } else { report(&reached) };
    print(&told)?;
    let damaged = reached.damaged.len() as u64 + reached.damaged_more;
    match (damaged, reached.silent.is_empty()) {
        (0, true) => Ok(()),
        (0, false) => bail!("a shard did not answer in time: its messages may not have been read back"),
        (count, _) => bail!(
            "{} damaged: the log of the server has more; what can be saved is saved by `ringpost queue export`",
            messages(count)
        ),
    }
}

fn report(reached: &QueueVerification) -> String {
    let mut told = format!("{} read back, {} damaged\n", messages(reached.checked), count(reached));
    told.push_str(&silence(&reached.silent));
    if !reached.damaged.is_empty() {
        let row =
            |damaged: &DamagedView| vec![damaged.id.to_string(), damaged.shard.to_string(), plain(&damaged.fault)];
        let rows: Vec<_> = reached.damaged.iter().map(row).collect();
        told.push('\n');
        told.push_str(&draw(&[("ID", Side::Left), ("SHARD", Side::Right), ("FAULT", Side::Left)], &rows));
    }
    if reached.damaged_more > 0 {
        told.push_str(&format!("and {} more\n", reached.damaged_more));
    }
    told
}

fn count(reached: &QueueVerification) -> String {
    match reached.damaged.len() as u64 + reached.damaged_more {
        0 => "none".to_owned(),
        count => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reached: &QueueVerification, expected: &str) {
        assert_eq!(report(reached), expected);
    }

    #[test]
    fn what_was_found() {
        let sound = QueueVerification { checked: 1, ..QueueVerification::default() };
        check(&sound, "1 message read back, none damaged\n");
        let id = "01JD4VXK2Q000000020000000A".parse().expect("an id");
        let damaged = vec![DamagedView { id, shard: 1, fault: "checksum\n is wrong".to_owned() }];
        check(
            &QueueVerification { checked: 9, damaged, damaged_more: 2, ..QueueVerification::default() },
            "9 messages read back, 3 damaged\n\nID                          SHARD  FAULT\n01JD4VXK2Q000000020000000A      1  \
             checksum\\n is wrong\nand 2 more\n",
        );
    }
}
