//! `ringpost queue export`: messages as files.
//!
//! Invariant: no file is written over.

use super::{QUEUE, path_of};
use crate::cli::QueueExportOptions;
use crate::client::Client;
use crate::commands::new_file::New;
use crate::commands::print;
use crate::commands::words::{messages, plain};
use anyhow::{Context, Result, bail};
use ringpost_admin::api::{MessageId, PAGE_MAX, QueuePage, QueueQuery};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

pub(super) fn export(options: &QueueExportOptions) -> Result<()> {
    let filter = options.filters.with(options.recipient.as_ref());
    match (options.ids.is_empty(), filter.is_empty(), options.all) {
        (true, true, false) => bail!("which messages? Give ids, or filters such as --from, or --all"),
        (false, false, _) | (false, _, true) => bail!("give ids, or filters, or --all: not several of them"),
        (true, false, true) => bail!("--all is every message, and the filters choose some: give one of them"),
        _ => {}
    }
    let client = Client::find(&options.server)?;
    let directory = &options.to;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("the directory {}", directory.display()))?;
    let mut exported = Exported { client: &client, directory, written: 0, faults: 0 };
    if options.ids.is_empty() {
        let mut query = QueueQuery { filter, limit: Some(PAGE_MAX), after: None };
        loop {
            let page: QueuePage = client.get(&format!("{QUEUE}/messages?{}", query.text()))?;
            if let [first, ..] = page.silent.as_slice() {
                bail!("shard {first} did not answer in time: what it has was not exported");
            }
            page.messages.iter().for_each(|message| exported.take(message.id));
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
    } else {
        options.ids.iter().for_each(|id| exported.take(*id));
    }
    let Exported { written, faults, .. } = exported;
    print(&format!("{} written to {}\n", messages(written), directory.display()))?;
    if faults > 0 { bail!("{} could not be exported, see above", messages(faults)) } else { Ok(()) }
}

/// An export under way.
struct Exported<'a> {
    client: &'a Client,
    directory: &'a Path,
    written: u64,
    faults: u64,
}

impl Exported<'_> {
    /// Exports a message; what is wrong with it is told, and the others go on.
    fn take(&mut self, id: MessageId) {
        match self.write(id) {
            Ok(()) => self.written += 1,
            Err(error) => {
                self.faults += 1;
                eprintln!("ringpost: {id}: {}", plain(&format!("{error:#}")));
            }
        }
    }

    fn write(&self, id: MessageId) -> Result<()> {
        let about: serde_json::Value = self.client.get(&path_of(id))?;
        let mut message = New::begin(self.directory.join(format!("{id}.eml")))?;
        let path = format!("{}/message", path_of(id));
        self.client.download(&path, &mut |piece| message.write(piece))?;
        let mut envelope = New::begin(self.directory.join(format!("{id}.json")))?;
        envelope.write(format!("{about:#}\n").as_bytes())?;
        envelope.finish()?;
        message.finish()
    }
}
