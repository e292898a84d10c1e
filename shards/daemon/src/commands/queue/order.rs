//! `ringpost queue retry`, `hold`, `release`, `drop`: an order, followed piece by piece until it is done.

use super::{QUEUE, as_options};
use crate::cli::{QueueDropOptions, QueueOrderOptions, Selection};
use crate::client::Client;
use crate::commands::print;
use crate::commands::words::messages;
use anyhow::{Result, bail};
use ringpost_admin::api::{IDS_MAX, QueueFilter, QueueOrder, QueueOrdered, QueueVerb};
use serde_json::json;

pub(super) fn order(verb: QueueVerb, options: &QueueOrderOptions) -> Result<()> {
    let orders = orders(verb, &options.selection)?;
    carry_out(&Client::find(&options.server)?, orders, verb, options.json)
}

pub(super) fn drop_messages(options: &QueueDropOptions) -> Result<()> {
    let QueueDropOptions { order: QueueOrderOptions { selection, json, server }, yes } = options;
    let orders = orders(QueueVerb::Drop, selection)?;
    let client = Client::find(server)?;
    if selection.ids.is_empty() && !yes {
        let dry = orders.into_iter().map(|order| QueueOrder { dry: true, ..order }).collect();
        let counted = follow(&client, dry)?;
        let options = as_options(&filter_of(selection), server);
        let all = if selection.all { " --all" } else { "" };
        bail!(
            "{} would be dropped, and nothing has been: dropped mail is destroyed, and nobody is told. To do it: ringpost \
             queue drop{options}{all} --yes",
            messages(counted.changed)
        );
    }
    carry_out(&client, orders, QueueVerb::Drop, *json)
}

fn filter_of(selection: &Selection) -> QueueFilter {
    selection.filters.with(selection.to.as_ref())
}

/// What is to be said to the server: one order by filter, or as many by ids as it takes.
fn orders(verb: QueueVerb, selection: &Selection) -> Result<Vec<QueueOrder>> {
    let filter = filter_of(selection);
    match (selection.ids.is_empty(), filter.is_empty(), selection.all) {
        (true, true, false) => bail!("which messages? Give ids, or filters such as --from, or --all"),
        (false, false, _) | (false, _, true) => bail!("give ids, or filters, or --all: not several of them"),
        (true, false, true) => bail!("--all is every message, and the filters choose some: give one of them"),
        _ => {}
    }
    let of = |ids, filter| QueueOrder { order: verb, ids, filter, after: None, dry: false };
    if selection.ids.is_empty() {
        return Ok(vec![of(Vec::new(), Some(filter))]);
    }
    let mut ids = selection.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.chunks(IDS_MAX).map(|ids| of(ids.to_vec(), None)).collect())
}

/// Has all of it done, and adds up what came of it.
fn follow(client: &Client, orders: Vec<QueueOrder>) -> Result<QueueOrdered> {
    let mut total = QueueOrdered::default();
    for mut order in orders {
        loop {
            let done: QueueOrdered = client.post(&format!("{QUEUE}/orders"), Some(&order))?;
            total.changed += done.changed;
            total.unchanged += done.unchanged;
            total.unknown.extend(done.unknown);
            total.silent.extend(done.silent);
            match done.next {
                Some(next) => order.after = Some(next),
                None => break,
            }
        }
    }
    total.silent.sort_unstable();
    total.silent.dedup();
    Ok(total)
}

fn carry_out(client: &Client, orders: Vec<QueueOrder>, verb: QueueVerb, as_json: bool) -> Result<()> {
    let done = follow(client, orders)?;
    if as_json {
        let QueueOrdered { changed, unchanged, unknown, silent, .. } = &done;
        let told = json!({ "changed": changed, "unchanged": unchanged, "unknown": unknown, "silent": silent });
        print(&format!("{told:#}\n"))?;
    } else {
        print(&outcome(verb, &done))?;
    }
    if !done.silent.is_empty() {
        bail!("a shard did not answer in time: it is not known whether this was done to the messages that it has");
    }
    match done.unknown.as_slice() {
        [] => Ok(()),
        [one] => bail!("there is no message {one}: delivered meanwhile, or not of this server"),
        [first, ..] => bail!("there are no messages of {} of these ids, {first} for one", done.unknown.len()),
    }
}

fn outcome(verb: QueueVerb, done: &QueueOrdered) -> String {
    let QueueOrdered { changed, unchanged, .. } = done;
    let (what, already) = match verb {
        QueueVerb::Retry => ("to be tried at once", "on the way already, or held"),
        QueueVerb::Hold => ("held", "held already, or dead"),
        QueueVerb::Release => ("released", "not held"),
        QueueVerb::Drop => ("dropped", "gone meanwhile"),
    };
    let rest = if *unchanged > 0 { format!("; {} {already}", messages(*unchanged)) } else { String::new() };
    format!("{} {what}{rest}\n", messages(*changed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Arguments, Command, QueueCommand};
    use clap::Parser;

    const ID: &str = "01JD4VXK2Q000000020000000A";

    fn check_orders(line: &str, expected: Result<usize, &str>) {
        let line = format!("ringpost queue hold {line}");
        let arguments = Arguments::try_parse_from(line.split_whitespace()).expect("a command");
        let Command::Queue(QueueCommand::Hold(options)) = arguments.command else { panic!("{line}") };
        match (orders(QueueVerb::Hold, &options.selection), expected) {
            (Ok(orders), Ok(count)) => {
                assert_eq!(orders.len(), count, "{line}");
                orders.iter().for_each(|order| assert_eq!(order.check(), Ok(()), "{line}"));
            }
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{line}: {error}"),
            (Ok(orders), Err(_)) => panic!("{line}: {orders:?}"),
            (Err(error), Ok(_)) => panic!("{line}: {error}"),
        }
    }

    #[test]
    fn nothing_is_done_to_messages_that_were_not_named() {
        check_orders("", Err("which messages?"));
        check_orders(&format!("{ID} --all"), Err("not several"));
        check_orders(&format!("{ID} --state held"), Err("not several"));
        check_orders("--state held --all", Err("give one of them"));
        check_orders("--all", Ok(1));
        check_orders("--to @example.org", Ok(1));
        check_orders(&format!("{ID} {ID}"), Ok(1));
        let many: Vec<String> = (0..2 * IDS_MAX + 1).map(|number| format!("01JD4VXK2Q0000000200{number:06}")).collect();
        check_orders(&many.join(" "), Ok(3));
    }

    #[test]
    fn what_came_of_it_in_words() {
        let done = |changed, unchanged| QueueOrdered { changed, unchanged, ..QueueOrdered::default() };
        for (verb, ordered, expected) in [
            (QueueVerb::Retry, done(1, 0), "1 message to be tried at once\n"),
            (QueueVerb::Hold, done(2, 1), "2 messages held; 1 message held already, or dead\n"),
            (QueueVerb::Release, done(0, 3), "0 messages released; 3 messages not held\n"),
            (QueueVerb::Drop, done(1_000_000, 0), "1000000 messages dropped\n"),
        ] {
            assert_eq!(outcome(verb, &ordered), expected);
        }
    }
}
