//! `ringpost profile`: what a shard spends its time on, as a flame graph.

use super::new_file::New;
use super::print;
use super::words::plain;
use crate::cli::ProfileOptions;
use crate::client::Client;
use anyhow::{Context, Result, bail};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How long the answer may take beyond the time that is looked at: stacks are turned into names then.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn profile(options: &ProfileOptions) -> Result<()> {
    let seconds = Duration::from_secs(u64::from(options.seconds));
    let client = Client::find(&options.server)?.with_patience(seconds + PATIENCE);
    if options.to == Path::new("-") {
        let mut out = io::stdout().lock();
        return taken(options, &client, &mut |piece| out.write_all(piece).context("standard output"));
    }
    // Before the wait, so that a name that is taken or a directory that is not there is not found out after it.
    let mut file = New::begin(options.to.clone())?;
    taken(options, &client, &mut |piece| file.write(piece))?;
    file.finish()?;
    print(&written(options.shard, options.seconds, &options.to))
}

/// Has the profile taken and handed on; one of nothing is an error.
fn taken(options: &ProfileOptions, client: &Client, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut count = 0;
    client.download(&path(options.shard, options.seconds, options.folded), &mut |piece| {
        count += piece.len();
        take(piece)
    })?;
    if count == 0 {
        bail!("shard {} did too little in {} s to be seen at it", options.shard, options.seconds);
    }
    Ok(())
}

fn path(shard: u16, seconds: u32, folded: bool) -> String {
    let format = if folded { "folded" } else { "svg" };
    format!("/debug/profile?shard={shard}&seconds={seconds}&format={format}")
}

fn written(shard: u16, seconds: u32, to: &Path) -> String {
    format!("{seconds} s of shard {shard} written to {}\n", plain(&to.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_told() {
        for (folded, expected) in [
            (false, "/debug/profile?shard=3&seconds=10&format=svg"),
            (true, "/debug/profile?shard=3&seconds=10&format=folded"),
        ] {
            assert_eq!(path(3, 10, folded), expected);
        }
        assert_eq!(written(3, 10, Path::new("a\u{1b}.svg")), "10 s of shard 3 written to a\\u{1b}.svg\n");
    }
}
