//! The targets there are, as one shard has them.

use crate::hop::{Hop, HopSetup};
use crate::maildir::PathTemplate;
use crate::parcel::{Done, Parcel};
use crate::webhook::{Webhook, WebhookDesk, WebhookSetup};
use crate::{hop, webhook};
use ringpost_config::{Config, Target as Configured, TargetKind};
use ringpost_dns::Resolver;
use ringpost_metrics::Block;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Where mail can go.
#[derive(Clone)]
pub(crate) enum Target {
    /// Maildirs named by a template.
    Maildir(PathTemplate),
    /// A directory of files, one for each message.
    File(PathBuf),
    /// Nowhere: accepted, spooled, and settled. For measuring.
    Discard,
    /// A server that speaks LMTP or SMTP.
    Hop(Rc<Hop>),
    /// A server that takes messages by HTTP.
    Webhook(Rc<Webhook>),
}

impl Target {
    /// Takes a message to a target that is elsewhere; nothing if it is not.
    pub(crate) async fn deliver(&self, parcel: &Parcel) -> Option<Done> {
        match self {
            Self::Hop(hop) => Some(hop.deliver(parcel).await),
            Self::Webhook(webhook) => Some(webhook.deliver(parcel).await),
            Self::Maildir(_) | Self::File(_) | Self::Discard => None,
        }
    }
}

/// What targets are made with.
#[derive(Clone)]
pub struct TargetParts {
    /// What relative paths of a config are relative to.
    pub state_dir: PathBuf,
    /// Looks up the next hops.
    pub resolver: Rc<Resolver>,
    /// Where HTTP runs.
    pub services: Handle,
    /// Where is counted.
    pub block: Arc<Block>,
}

/// The targets of a config, by their names.
#[derive(Clone, Default)]
pub struct Targets {
    /// What each was made from, to see at a reload which have changed.
    by_name: HashMap<Rc<str>, (Configured, Target)>,
    host: Rc<str>,
    /// Made with the first webhook; it can't be closed, so those that come later have the same.
    desk: Option<WebhookDesk>,
}

impl Targets {
    /// The targets of a config. Those of `former` that are as they were stay, with their connections.
    ///
    /// # Errors
    /// Where a file that a target names can't be read, or does not hold what it should; in words.
    pub fn new(config: &Config, parts: &TargetParts, former: &Self) -> Result<Self, String> {
        let host: Rc<str> = config.server.hostname.as_str().into();
        let mut desk = former.desk.clone();
        let mut by_name = HashMap::new();
        for configured in &config.targets {
            let kept = former.by_name.get(configured.name.as_str());
            // A file behind a name may have changed too, so those that read some are made anew at every reload.
            let kept = kept.filter(|(was, _)| was == configured && former.host == host && !reads_files(&was.kind));
            let target = match kept {
                Some((_, target)) => target.clone(),
                None => make(configured, &host, parts, &mut desk)?,
            };
            by_name.insert(configured.name.as_str().into(), (configured.clone(), target));
        }
        Ok(Self { by_name, host, desk })
    }

    /// A target by its name.
    pub(crate) fn find(&self, name: &str) -> Option<&Target> {
        self.by_name.get(name).map(|(_, target)| target)
    }

    /// Whether a target is this server's own; nothing if there is none of the name.
    pub(crate) fn is_local(&self, name: &str) -> Option<bool> {
        self.by_name.get(name).map(|(configured, _)| configured.kind.is_local())
    }

    /// The name that reports and greetings give this server.
    pub(crate) fn host(&self) -> &Rc<str> {
        &self.host
    }

    /// Lets go of the connections of targets that are not among `next` any more.
    pub(crate) fn retire(&self, next: &Self) {
        for (name, (_, target)) in &self.by_name {
            if let Target::Hop(hop) = target {
                let stays = matches!(next.find(name), Some(Target::Hop(other)) if Rc::ptr_eq(hop, other));
                if !stays {
                    hop.close();
                }
            }
        }
    }
}

fn reads_files(kind: &TargetKind) -> bool {
    match kind {
        TargetKind::Lmtp(hop) | TargetKind::Smtp(hop) => hop.tls_ca.is_some() || hop.tls_certificate.is_some(),
        TargetKind::Webhook(_) => true,
        _ => false,
    }
}

/// Reads every file that the targets of a config name, as making them would, on any thread.
///
/// # Errors
/// The first of them that can't be read, or does not hold what it should; in words, with the target's name.
pub fn check(config: &Config) -> Result<(), String> {
    config.targets.iter().try_for_each(|configured| {
        let name = &configured.name;
        match &configured.kind {
            TargetKind::Lmtp(options) | TargetKind::Smtp(options) => {
                hop::check(options).map_err(|error| wrong(name, &error))
            }
            TargetKind::Webhook(options) => {
                webhook::check(options, config.server.hostname.as_str()).map_err(|error| wrong(name, &error))
            }
            _ => Ok(()),
        }
    })
}

fn wrong(name: &str, error: &dyn std::fmt::Display) -> String {
    format!("target {name:?}: {error}")
}

fn make(
    configured: &Configured,
    host: &Rc<str>,
    parts: &TargetParts,
    desk: &mut Option<WebhookDesk>,
) -> Result<Target, String> {
    let name: Rc<str> = configured.name.as_str().into();
    let below = |path: &str| Path::new(&parts.state_dir).join(path);
    Ok(match &configured.kind {
        TargetKind::Maildir { path } => Target::Maildir(PathTemplate::new(&below(path).to_string_lossy())),
        TargetKind::File { path } => Target::File(below(path)),
        TargetKind::Lmtp(_) | TargetKind::Smtp(_) => {
            let (resolver, block) = (parts.resolver.clone(), parts.block.clone());
            let setup =
                HopSetup { name: name.clone(), kind: configured.kind.clone(), helo: host.clone(), resolver, block };
            Target::Hop(Hop::new(setup).map_err(|error| wrong(&name, &error))?)
        }
        TargetKind::Webhook(options) => {
            let (options, handle, block) = (options.clone(), parts.services.clone(), parts.block.clone());
            let desk = desk.get_or_insert_with(WebhookDesk::open).clone();
            let setup = WebhookSetup { name: name.clone(), options, host: host.clone(), handle, desk, block };
            Target::Webhook(Webhook::new(setup).map_err(|error| wrong(&name, &error))?)
        }
        _ => Target::Discard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn checked(targets: &str) -> String {
        let config = Config::parse("f", targets).unwrap_or_else(|errors| panic!("{errors}"));
        check(&config).err().unwrap_or_default()
    }

    #[test]
    fn files_that_targets_name() {
        let local = "[[target]]\nname = 'local'\nkind = 'maildir'\n";
        let hook = "[[target]]\nname = 'hook'\nkind = 'webhook'\nurl = 'http://hook.example/'\n";
        let hop = "[[target]]\nname = 'hop'\nkind = 'smtp'\nhosts = ['a.example']\n";
        for (targets, want) in [
            (format!("{local}{hook}{hop}"), ""),
            (
                format!("{local}{hop}{hook}secret_file = '/nowhere/secret'"),
                "target \"hook\": can't read /nowhere/secret: No such file or directory (os error 2)",
            ),
            (
                format!("{local}{hop}tls = 'verified'\ntls_ca = '/nowhere/ca.pem'\n{hook}"),
                "target \"hop\": can't read /nowhere/ca.pem: No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(checked(&targets), want);
        }
    }
}
