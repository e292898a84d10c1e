//! What has to be gone and looked at: whether the DNS answers, and whether the directories of targets can be written to.
//!
//! Either may hang, so a task on the services thread goes round, with a thread of tokio's for what blocks, and leaves what it
//! finds for those who look at health. A look that hangs is a finding too, and is not begun again before it has ended.

use super::Health;
use super::elsewhere::{needs_dns, target_hint};
use super::memory::Trouble;
use ringpost_config::{Config, Target, TargetKind};
use ringpost_dns::{Dns, Failure};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

/// How often it goes round.
const ROUND: Duration = Duration::from_secs(10);

/// How soon the DNS is asked again after it did not answer: once may be chance.
const AGAIN: Duration = Duration::from_secs(2);

/// Failures in a row after which the DNS counts as away.
const DNS_FAILURES_MIN: u32 = 2;

/// How long a file system may take to tell of a directory.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found on the last round.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    dns: Option<Trouble>,
    places: BTreeMap<String, Trouble>,
}

impl Survey {
    pub(super) fn dns(&self) -> Option<Trouble> {
        self.dns.clone()
    }

    /// What is wrong with the directory of a target.
    pub(super) fn place(&self, target: &str) -> Option<Trouble> {
        self.places.get(target).cloned()
    }
}

/// What is remembered from round to round.
#[derive(Default)]
struct Surveyor {
    dns_failures: u32,
    /// Looks that hang, by target.
    hanging: BTreeMap<String, JoinHandle<Result<(), String>>>,
}

/// Goes round for as long as the services thread lives. Relative paths are below `state_dir`.
pub(super) async fn survey(health: Health, state_dir: PathBuf) {
    let mut surveyor = Surveyor::default();
    loop {
        let source = health.source();
        let dns = if needs_dns(&source.config) {
            surveyor.dns(&source.dns, &source.config.server.hostname).await
        } else {
            None
        };
        let places = surveyor.places(&source.config, &state_dir).await;
        health.surveyed(Survey { dns, places });
        let is_doubtful = (1..DNS_FAILURES_MIN).contains(&surveyor.dns_failures);
        sleep(if is_doubtful { AGAIN } else { ROUND }).await;
    }
}

impl Surveyor {
    async fn dns(&mut self, dns: &Dns, hostname: &str) -> Option<Trouble> {
        match dns.reach(hostname).await {
            Ok(()) => self.dns_failures = 0,
            Err(failure) => {
                self.dns_failures = self.dns_failures.saturating_add(1);
                if self.dns_failures >= DNS_FAILURES_MIN {
                    return Some(silent(dns, hostname, failure));
                }
            }
        }
        None
    }

    /// What is wrong with the directories that targets of this machine write to.
    async fn places(&mut self, config: &Config, state_dir: &Path) -> BTreeMap<String, Trouble> {
        self.hanging.retain(|_, look| !look.is_finished());
        let mut troubles = BTreeMap::new();
        for target in &config.targets {
            let Some(directory) = directory(&target.kind, state_dir) else { continue };
            if let Err(reason) = self.look(target, directory).await {
                troubles.insert(target.name.clone(), Trouble::new(reason, target_hint(target)));
            }
        }
        troubles
    }

    async fn look(&mut self, target: &Target, directory: PathBuf) -> Result<(), String> {
        let hangs = format!("{}: the file system gives no answer", directory.display());
        if self.hanging.contains_key(&target.name) {
            return Err(hangs);
        }
        let mut look = spawn_blocking(move || can_be_written_to(&directory));
        match timeout(PATIENCE, &mut look).await {
            // A panic is a fault of ours, and tells nothing of the directory.
            Ok(found) => found.unwrap_or(Ok(())),
            Err(_) => {
                self.hanging.insert(target.name.clone(), look);
                Err(hangs)
            }
        }
    }
}

fn silent(dns: &Dns, hostname: &str, failure: Failure) -> Trouble {
    let servers: Vec<String> = dns.servers().iter().map(ToString::to_string).collect();
    let hint = match dns.servers().first() {
        Some(server) if server.port() == 53 => format!("dig @{} {hostname}", server.ip()),
        Some(server) => format!("dig @{} -p {} {hostname}", server.ip(), server.port()),
        None => "dns.servers of the config".to_owned(),
    };
    Trouble::new(format!("no server of the DNS answers, of {}: {failure}", servers.join(", ")), hint)
}

/// The directory below which a target writes; nothing if it writes none.
fn directory(kind: &TargetKind, state_dir: &Path) -> Option<PathBuf> {
    let path = match kind {
        // What is put in for a placeholder is part of a name, so the directory is what comes before that name.
        TargetKind::Maildir { path } => match path.split_once('{') {
            Some((before, _)) => {
                before.rsplit_once('/').map_or("", |(directory, _)| if directory.is_empty() { "/" } else { directory })
            }
            None => path,
        },
        TargetKind::File { path } => path,
        _ => return None,
    };
    Some(state_dir.join(path))
}

/// Whether something can be made in a directory, or the directory itself where it is not there yet. Who is asked for is who the
/// process is now, with its powers.
fn can_be_written_to(directory: &Path) -> Result<(), String> {
    for place in directory.ancestors() {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        let wrong = |error: &dyn std::fmt::Display| format!("{}: can't be written to: {error}", place.display());
        match place.metadata() {
            Ok(found) if !found.is_dir() => return Err(wrong(&"it is not a directory")),
            Ok(_) => {
                return match accessat(CWD, place, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
                    Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
                    Err(error) => Err(wrong(&error)),
                };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(&error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_directory_of_a_target_is_what_comes_before_names_of_people() {
        let maildir = |path: &str| TargetKind::Maildir { path: path.to_owned() };
        for (kind, want) in [
            (maildir("mail/{domain}/{local}"), Some("/state/mail")),
            (maildir("/var/mail/x-{domain}/{local}"), Some("/var/mail")),
            (maildir("/{address}"), Some("/")),
            (maildir("{address}"), Some("/state/")),
            (maildir("/var/mail/all"), Some("/var/mail/all")),
            (TargetKind::File { path: "out".to_owned() }, Some("/state/out")),
            (TargetKind::Discard, None),
        ] {
            assert_eq!(directory(&kind, Path::new("/state")), want.map(PathBuf::from), "{kind:?}");
        }
    }

    #[test]
    fn directories_that_cannot_be_written_to_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("there")).expect("made");
        fs::write(path("file"), "in the way").expect("written");
        assert_eq!(can_be_written_to(&path("there")), Ok(()));
        assert_eq!(can_be_written_to(&path("there/not/yet")), Ok(()));
        for name in ["file", "file/below"] {
            let reason = can_be_written_to(&path(name)).expect_err("a file is in the way");
            assert!(reason.contains("file") && reason.contains("can't be written to"), "{reason}");
        }
        assert!(can_be_written_to(Path::new("/proc/self/none/x")).is_err());
    }
}
