//! `ringpost backup`: copies the state directory of a server that runs or is stopped.

use super::words::{bytes, plain};
use super::{now, print};
use crate::check;
use crate::cli::BackupOptions;
use anyhow::{Result, bail};
use ringpost_config::{Config, TargetKind};
use ringpost_store::{BackedUp, BackupPlan, back_up};
use std::path::{Component, Path, PathBuf};

pub(crate) fn backup(options: &BackupOptions) -> Result<()> {
    let config = check::load_without_credentials(&options.config)?;
    let state_dir = Path::new(&config.server.state_dir);
    let told = back_up(&BackupPlan {
        state_dir,
        to: &options.to,
        config: options.config.config.as_deref(),
        hostname: &config.server.hostname,
        at: now(),
        leave_out: &mail_directories(&config),
    })?;
    print(&report(&told, &options.to))?;
    match told.wrong.len() {
        0 => Ok(()),
        1 => bail!("something is wrong with one file of the state directory: mail may be missing in the backup"),
        count => {
            bail!("something is wrong with {count} files of the state directory: mail may be missing in the backup")
        }
    }
}

/// Directories below the state directory that targets write delivered mail into.
fn mail_directories(config: &Config) -> Vec<PathBuf> {
    let paths = config.targets.iter().filter_map(|target| match &target.kind {
        TargetKind::Maildir { path } | TargetKind::File { path } => Some(path),
        _ => None,
    });
    paths.filter_map(|path| above_placeholders(Path::new(path), Path::new(&config.server.state_dir))).collect()
}

/// The part of a path that is the same for all mail, relative to the state directory; nothing if it leads elsewhere.
fn above_placeholders(path: &Path, state_dir: &Path) -> Option<PathBuf> {
    let relative = if path.is_absolute() { path.strip_prefix(state_dir).ok()? } else { path };
    let plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains('{');
    let fixed: PathBuf =
        relative.components().filter(|part| !matches!(part, Component::CurDir)).take_while(plain).collect();
    (fixed.components().count() > 0).then_some(fixed)
}

fn report(told: &BackedUp, to: &Path) -> String {
    let mut text = format!(
        "{}: {} logs with {} segments, {} body files, {} other files; {} copied, {} known from before\n",
        plain(&to.display().to_string()),
        told.logs,
        told.segments,
        told.bodies,
        told.others.len(),
        bytes(told.copied),
        bytes(told.known),
    );
    if told.removed > 0 {
        text.push_str(&format!("objects of earlier backups removed: {}\n", told.removed));
    }
    if !told.others.is_empty() {
        text.push_str(&format!("other files: {}\n", plain(&told.others.join(", "))));
    }
    for (path, why) in &told.left_out {
        text.push_str(&format!("left out: {}, which {why}\n", plain(path)));
    }
    for (path, what) in &told.wrong {
        text.push_str(&format!("wrong: {}: {}\n", plain(path), plain(what)));
    }
    text.push_str(
        "not in it: certificates, keys, secrets and lists that the config names outside of the state directory\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_delivered_mail() {
        let state_dir = Path::new("/var/lib/ringpost");
        for (path, fixed) in [
            ("mail/{domain}/{local}", Some("mail")),
            ("./mail/boxes/all", Some("mail/boxes/all")),
            ("/var/lib/ringpost/mail/{address}", Some("mail")),
            ("/srv/mail/{address}", None),
            ("{domain}/{local}", None),
        ] {
            assert_eq!(above_placeholders(Path::new(path), state_dir).as_deref(), fixed.map(Path::new), "{path}");
        }
    }

    #[test]
    fn what_a_backup_came_to() {
        let told = BackedUp {
            logs: 2,
            segments: 5,
            bodies: 1,
            others: vec!["bans".into(), "tls/key.pem".into()],
            left_out: vec![("lock".into(), "is made by every start")],
            wrong: vec![("spool/shard-0000/segment-00000001.log".into(), "can't be read: I/O error".into())],
            copied: 80 << 20,
            known: 1234,
            removed: 3,
        };
        let expected = "\
/backup: 2 logs with 5 segments, 1 body files, 2 other files; 80MiB copied, 1234 known from before
objects of earlier backups removed: 3
other files: bans, tls/key.pem
left out: lock, which is made by every start
wrong: spool/shard-0000/segment-00000001.log: can't be read: I/O error
not in it: certificates, keys, secrets and lists that the config names outside of the state directory
";
        assert_eq!(report(&told, Path::new("/backup")), expected);
    }
}
