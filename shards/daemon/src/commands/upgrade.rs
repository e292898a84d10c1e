//! `ringpost upgrade`: another process takes over from the running server.
//!
//! The command ends well only when the new process itself has answered that it serves.

use super::print;
use super::words::{plain, took};
use crate::cli::UpgradeOptions;
use crate::client::Client;
use anyhow::{Context, Result, bail};
use ringpost_admin::api::{Status, UpgradeOrder, Upgraded};
use std::path::{self, Path};
use std::time::{Duration, Instant};

/// How long the new process may take to be ready, as it is told by the old one, which gives up earlier.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How long the new process may take to answer, once it is ready.
const SERVES_PATIENCE: Duration = Duration::from_secs(30);

/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(100);

pub(crate) fn upgrade(options: &UpgradeOptions) -> Result<()> {
    let order = UpgradeOrder { binary: options.binary.as_deref().map(absolute).transpose()? };
    let before: Status = Client::find(&options.server)?.get(super::status::STATUS)?;
    let patient = Client::find(&options.server)?.with_patience(UPGRADE_PATIENCE);
    let upgraded: Upgraded = patient.post("/api/v1/upgrade", Some(&order))?;
    let after = until_it_serves(&Client::find(&options.server)?, &upgraded)?;
    print(&outcome(&before, &after, &upgraded))
}

/// The server may have been started in another directory than this command.
fn absolute(binary: &Path) -> Result<String> {
    let absolute = path::absolute(binary).with_context(|| binary.display().to_string())?;
    match absolute.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{}: a path has to be text", binary.display()),
    }
}

/// Waits until the new process answers on the socket and serves.
fn until_it_serves(client: &Client, upgraded: &Upgraded) -> Result<Status> {
    let since = Instant::now();
    loop {
        // While the socket passes from one to the other, either may answer, or a connection may break off.
        let answer = client.get::<Status>(super::status::STATUS);
        match &answer {
            Ok(status) if status.process == upgraded.process && status.state != "starting" => return answer,
            _ if since.elapsed() < SERVES_PATIENCE => std::thread::sleep(POLL),
            Ok(status) => bail!(
                "process {} was ready, and after {} s process {} still answers, with {}: see the log",
                upgraded.process,
                SERVES_PATIENCE.as_secs(),
                status.process,
                plain(&status.state)
            ),
            Err(_) => {
                return answer.with_context(|| {
                    format!("process {} was ready and does not answer: see the log", upgraded.process)
                });
            }
        }
    }
}

fn outcome(before: &Status, after: &Status, upgraded: &Upgraded) -> String {
    format!(
        "process {}, ringpost {}, has handed over to process {}, ringpost {}\nit was ready after {}, and is {}\n",
        before.process,
        plain(&before.version),
        after.process,
        plain(&after.version),
        took(upgraded.took_ms.saturating_mul(1_000)),
        plain(&after.state)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_over_from_whom() {
        let status = |process, version: &str, state: &str| Status {
            process,
            version: version.to_owned(),
            state: state.to_owned(),
            ..Status::default()
        };
        let upgraded = Upgraded { process: 43, version: "0.2.0".to_owned(), took_ms: 1_250 };
        assert_eq!(
            outcome(&status(42, "0.1.0", "ready"), &status(43, "0.2.0", "degraded"), &upgraded),
            "process 42, ringpost 0.1.0, has handed over to process 43, ringpost 0.2.0\nit was ready after 1.2 s, and is \
             degraded\n"
        );
    }

    #[test]
    fn a_binary_is_named_by_its_whole_path() {
        assert_eq!(absolute(Path::new("/usr/sbin/ringpost")).expect("a path"), "/usr/sbin/ringpost");
        let here = std::env::current_dir().expect("a directory").join("target/ringpost");
        assert_eq!(absolute(Path::new("target/ringpost")).expect("a path"), here.to_str().expect("text"));
        assert!(absolute(Path::new("")).is_err());
    }
}
