//! `ringpost spool check`: looks through the spool's files, of a server that is stopped or, as it changes, of one that runs.

use super::print;
use super::table::{Column, Side, draw};
use super::words::{bytes, plain};
use crate::check;
use crate::cli::SpoolCheckOptions;
use crate::state::StateDir;
use anyhow::{Result, bail};
use ringpost_store::{BodyTrouble, CheckReport, ShardReport};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Body files that the log and the directory don't agree on, shown for each log: after a crash there may be many, and the next
/// start clears them.
const TROUBLES_SHOWN_MAX: usize = 20;

/// What the command says with `--json`.
#[derive(Serialize)]
struct Checked<'a> {
    spool: &'a Path,
    /// Whether a server holds the state directory: what it is writing looks torn.
    server_running: bool,
    damaged: usize,
    #[serde(flatten)]
    report: &'a CheckReport,
}

pub(crate) fn check_spool(options: &SpoolCheckOptions) -> Result<()> {
    let spool: PathBuf = match &options.directory {
        Some(directory) => directory.clone(),
        None => Path::new(&check::load_without_credentials(&options.config)?.server.state_dir).join("spool"),
    };
    let server_running = spool.parent().is_some_and(StateDir::is_held);
    let report = ringpost_store::check(&spool)?;
    let checked = Checked { spool: &spool, server_running, damaged: report.damaged(), report: &report };
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&checked)?))?;
    } else {
        print(&told(&checked))?;
    }
    match report.damaged() {
        0 => Ok(()),
        1 => bail!("one place of the spool is damaged"),
        count => bail!("{count} places of the spool are damaged"),
    }
}

fn told(checked: &Checked<'_>) -> String {
    let mut text = format!("{}\n", plain(&checked.spool.display().to_string()));
    if checked.server_running {
        text.push_str(
            "A server is running here: what it writes meanwhile may look torn, and body files come and go.\n",
        );
    }
    text.push('\n');
    let columns: [Column; 9] = [
        ("LOG", Side::Left),
        ("SEGMENTS", Side::Right),
        ("SPARE", Side::Right),
        ("BYTES", Side::Right),
        ("FORMAT", Side::Right),
        ("MESSAGES", Side::Right),
        ("BODIES", Side::Right),
        ("SETTLED", Side::Right),
        ("DAMAGED", Side::Right),
    ];
    let shards = &checked.report.shards;
    text.push_str(&draw(&columns, &shards.iter().map(row).collect::<Vec<_>>()));
    shards.iter().for_each(|shard| troubles(shard, &mut text));
    text
}

fn row(shard: &ShardReport) -> Vec<String> {
    let name = shard.directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let versions: Vec<String> = shard.versions.iter().map(u8::to_string).collect();
    vec![
        plain(&name),
        shard.segments.to_string(),
        shard.spare.to_string(),
        bytes(shard.bytes),
        versions.join(", "),
        shard.live.to_string(),
        shard.bodies.to_string(),
        shard.settled.to_string(),
        shard.damage.len().to_string(),
    ]
}

fn troubles(shard: &ShardReport, text: &mut String) {
    let shown = |path: &Path| plain(&path.display().to_string());
    for damage in &shard.damage {
        text.push_str(&format!("damaged: {} at {}", shown(&damage.path), damage.offset));
        match damage.len {
            0 => text.push_str(&format!(": {}\n", damage.what)),
            len => text.push_str(&format!(", {len} bytes: {}\n", damage.what)),
        }
    }
    for trouble in shard.body_troubles.iter().take(TROUBLES_SHOWN_MAX) {
        text.push_str(&match trouble {
            BodyTrouble::Missing(path) => format!("not there: {}; its message counts as settled\n", shown(path)),
            BodyTrouble::Extra(path) => format!("of no message: {}; the next start removes it\n", shown(path)),
        });
    }
    if let Some(more) = shard.body_troubles.len().checked_sub(TROUBLES_SHOWN_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("and {more} more such body files\n"));
    }
    if shard.changed > 0 {
        let word = if shard.changed == 1 { "segment was" } else { "segments were" };
        text.push_str(&format!("{} {word} used anew meanwhile, and left out\n", shard.changed));
    }
    if shard.torn > 0 {
        let word = if shard.torn == 1 { "segment ends" } else { "segments end" };
        text.push_str(&format!(
            "{} {word} in a record that was not finished; nothing in it was acknowledged\n",
            shard.torn
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_store::DamagedPlace;

    #[test]
    fn a_spool_with_everything_in_it() {
        let damage =
            |path: &str, len, what: &str| DamagedPlace { path: path.into(), offset: 4096, len, what: what.into() };
        let shard = ShardReport {
            directory: "/state/spool/shard-0000".into(),
            segments: 3,
            spare: 1,
            bytes: 64 << 20,
            versions: vec![1, 2],
            live: 1000,
            settled: 200,
            changed: 1,
            torn: 1,
            bodies: 7,
            damage: vec![damage("/s/1.log", 100, "no record that can be read"), damage("/s/x.body", 0, "gone bad")],
            body_troubles: vec![BodyTrouble::Missing("/s/a.body".into()), BodyTrouble::Extra("/s/b.body".into())],
            ..ShardReport::default()
        };
        let report = CheckReport { shards: vec![shard] };
        let checked = Checked { spool: Path::new("/state/spool"), server_running: true, damaged: 2, report: &report };
        assert_eq!(
            told(&checked),
            "\
/state/spool
A server is running here: what it writes meanwhile may look torn, and body files come and go.

LOG         SEGMENTS  SPARE  BYTES  FORMAT  MESSAGES  BODIES  SETTLED  DAMAGED
shard-0000         3      1  64MiB    1, 2      1000       7      200        2
damaged: /s/1.log at 4096, 100 bytes: no record that can be read
damaged: /s/x.body at 4096: gone bad
not there: /s/a.body; its message counts as settled
of no message: /s/b.body; the next start removes it
1 segment was used anew meanwhile, and left out
1 segment ends in a record that was not finished; nothing in it was acknowledged
"
        );
    }
}
