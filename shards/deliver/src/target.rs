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
use std::os::unix::fs::MetadataExt;
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
    /// Whether it tells the server the trace context of an attempt.
    pub(crate) fn is_told_context(&self) -> bool {
        matches!(self, Self::Webhook(_))
    }

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
    by_name: HashMap<Rc<str>, Made>,
    host: Rc<str>,
    /// It can't be closed, so webhooks that come later have the same.
    desk: WebhookDesk,
}

/// A target, and what it was made from, to see at a reload whether that has changed.
#[derive(Clone)]
struct Made {
    kind: TargetKind,
    files: Vec<Option<FileState>>,
    target: Target,
}

/// What tells a file that has changed: also one that was exchanged for another of the same size and time, and one whose time
/// was set back.
#[derive(Clone, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// Of the file that a path leads to; nothing if it leads to none.
    fn of(path: &str) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl Targets {
    /// The targets of a config. Those of `former` that are as they were, and the files that they name too, stay, with their
    /// connections and what they know of their servers. Nothing is connected, started or closed by this: whatever comes of
    /// it, the former ones can be used further.
    ///
    /// # Errors
    /// Where a file that a target names can't be read, or does not hold what it should; in words.
    pub fn new(config: &Config, parts: &TargetParts, former: &Self) -> Result<Self, String> {
        let host: Rc<str> = config.server.hostname.as_str().into();
        let desk = former.desk.clone();
        let mut by_name = HashMap::new();
        for configured in &config.targets {
            // Before they are read: a change in between is seen the next time.
            let files: Vec<_> = files(&configured.kind).into_iter().map(FileState::of).collect();
            let kept = former.by_name.get(configured.name.as_str());
            let kept = kept.filter(|was| was.kind == configured.kind && was.files == files && former.host == host);
            let target = match kept {
                Some(was) => was.target.clone(),
                None => make(configured, &host, parts, &desk)?,
            };
            by_name.insert(configured.name.as_str().into(), Made { kind: configured.kind.clone(), files, target });
        }
        Ok(Self { by_name, host, desk })
    }

    /// A target by its name.
    pub(crate) fn find(&self, name: &str) -> Option<&Target> {
        self.by_name.get(name).map(|made| &made.target)
    }

    /// Whether a target is this server's own; nothing if there is none of the name.
    pub(crate) fn is_local(&self, name: &str) -> Option<bool> {
        self.by_name.get(name).map(|made| made.kind.is_local())
    }

    /// The name that reports and greetings give this server.
    pub(crate) fn host(&self) -> &Rc<str> {
        &self.host
    }

    /// The targets elsewhere that were there in another form.
    pub(crate) fn renewed_since(&self, former: &Self) -> Vec<Rc<str>> {
        let renewed = |name: &Rc<str>, made: &Made| {
            let was = former.by_name.get(name);
            !made.kind.is_local() && was.is_some_and(|was| was.kind != made.kind || was.files != made.files)
        };
        self.by_name.iter().filter(|(name, made)| renewed(name, made)).map(|(name, _)| name.clone()).collect()
    }

    /// Lets go of the connections of targets that are not among `next` any more.
    pub(crate) fn retire(&self, next: &Self) {
        for (name, made) in &self.by_name {
            if let Target::Hop(hop) = &made.target {
                let stays = matches!(next.find(name), Some(Target::Hop(other)) if Rc::ptr_eq(hop, other));
                if !stays {
                    hop.close();
                }
            }
        }
    }
}

/// The files that making a target reads. Those of the system's authorities are not among them.
fn files(kind: &TargetKind) -> Vec<&str> {
    let (named, certificate) = match kind {
        TargetKind::Lmtp(hop) | TargetKind::Smtp(hop) => ([&hop.tls_ca, &None], &hop.tls_certificate),
        TargetKind::Webhook(hook) => ([&hook.ca, &hook.secret_file], &hook.certificate),
        _ => return Vec::new(),
    };
    let pair = certificate.iter().flat_map(|files| [&files.cert, &files.key]);
    named.into_iter().flatten().chain(pair).map(String::as_str).collect()
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

fn make(configured: &Configured, host: &Rc<str>, parts: &TargetParts, desk: &WebhookDesk) -> Result<Target, String> {
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
            let (host, desk) = (host.clone(), desk.clone());
            let setup = WebhookSetup { name: name.clone(), options, host, handle, desk, block };
            Target::Webhook(Webhook::new(setup).map_err(|error| wrong(&name, &error))?)
        }
        _ => Target::Discard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::unbounded;
    use ringpost_base::ShardId;
    use ringpost_control::Board;
    use ringpost_dns::{Dns, Options as DnsOptions};
    use ringpost_runtime::{Plan, Services, cores, start};

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

    /// Targets with files, and what they are made with.
    struct Bench {
        folder: tempfile::TempDir,
        parts: TargetParts,
    }

    impl Bench {
        /// Runs a test where targets are made: on a shard.
        fn with(test: fn(&Self)) {
            let services = Services::start().expect("starts");
            let nobody = "127.0.0.1:9".parse().expect("address");
            let options = DnsOptions { servers: vec![nobody], ..DnsOptions::default() };
            let dns = Dns::start(services.handle(), &options).expect("has servers");
            let (board, handle) = (Board::new(1), services.handle());
            let seat = board.seat(ShardId(0)).expect("the first");
            let (ended, _departures) = unbounded();
            let block = Arc::new(Block::new());
            let plan = Plan {
                shard: ShardId(0),
                cpu: cores()[0],
                block: block.clone(),
                seat,
                pulse: ringpost_runtime::Pulse::new(ShardId(0)),
                ended,
            };
            let body = async move || {
                let (state_dir, resolver) = (PathBuf::from("/nowhere"), dns.resolver());
                let parts = TargetParts { state_dir, resolver, services: handle, block };
                let bench = Self { folder: tempfile::tempdir().expect("directory"), parts };
                bench.write("ca.pem", &authority());
                bench.write("secret", "a secret of some length");
                test(&bench);
            };
            let result = start(plan, move |_| body()).expect("starts").join();
            services.stop();
            result.expect("the test holds");
        }

        fn path(&self, file: &str) -> String {
            self.folder.path().join(file).to_str().expect("text").to_owned()
        }

        /// As files are exchanged: by another one in their place.
        fn write(&self, file: &str, text: &str) {
            let beside = self.path("beside");
            std::fs::write(&beside, text).expect("written");
            std::fs::rename(beside, self.path(file)).expect("renamed");
        }

        /// A hop, a webhook and something local, with keys for all of the first two, and for the hop alone.
        fn config(&self, host: &str, both: &str, hop: &str) -> Config {
            let (ca, secret) = (self.path("ca.pem"), self.path("secret"));
            let text = format!(
                "[server]\nhostname = '{host}'\n[[target]]\nname = 'local'\nkind = 'maildir'\n\
                 [[target]]\nname = 'hook'\nkind = 'webhook'\nurl = 'http://hook.example/'\nsecret_file = '{secret}'\n{both}\n\
                 [[target]]\nname = 'hop'\nkind = 'smtp'\nhosts = ['a.example']\ntls = 'verified'\ntls_ca = '{ca}'\n{both}\n{hop}"
            );
            Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"))
        }

        fn take_up(&self, config: &Config, former: &Targets) -> Result<Targets, String> {
            Targets::new(config, &self.parts, former)
        }
    }

    fn authority() -> String {
        rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate").cert.pem()
    }

    /// Which of the hop and the webhook are still the ones that they were.
    #[track_caller]
    fn check_kept(former: &Targets, next: &Targets, want: &[&str], why: &str) {
        let kept = |name: &&str| match (former.find(name), next.find(name)) {
            (Some(Target::Hop(was)), Some(Target::Hop(is))) => Rc::ptr_eq(was, is),
            (Some(Target::Webhook(was)), Some(Target::Webhook(is))) => Rc::ptr_eq(was, is),
            _ => panic!("{name} is not there"),
        };
        let got: Vec<&str> = ["hop", "hook"].into_iter().filter(|name| kept(name)).collect();
        assert_eq!(got, want, "{why}");
    }

    #[test]
    fn targets_are_made_anew_only_if_they_or_their_files_have_changed() {
        Bench::with(|bench| {
            let config = bench.config("mx.example.org", "", "");
            let first = bench.take_up(&config, &Targets::default()).expect("made");
            let again = |config: &Config| bench.take_up(config, &first).expect("made");
            check_kept(&first, &again(&config), &["hop", "hook"], "nothing");
            let busier = bench.config("mx.example.org", "concurrency = 7", "");
            check_kept(&first, &again(&busier), &["hop", "hook"], "what the owner of the destination goes by");
            let slower = bench.config("mx.example.org", "", "data_timeout = '7m'");
            check_kept(&first, &again(&slower), &["hook"], "an option of the hop");
            check_kept(&first, &again(&bench.config("mx.example.net", "", "")), &[], "our name");
            bench.write("ca.pem", &authority());
            check_kept(&first, &again(&config), &["hook"], "the authority of the hop");
            bench.write("secret", "a secret of same length");
            check_kept(&first, &again(&config), &[], "both files");
            check_kept(&again(&config), &again(&config), &[], "nothing is remembered of what was not taken up");
        });
    }

    #[test]
    fn targets_that_cannot_be_made_leave_the_former_ones() {
        Bench::with(|bench| {
            let config = bench.config("mx.example.org", "", "");
            let first = bench.take_up(&config, &Targets::default()).expect("made");
            // With the other name the webhook would be made anew too, and is made before it is found that the hop can't be.
            for host in ["mx.example.org", "mx.example.net"] {
                let wrong = bench.config(host, "", "tls_cert = '/nowhere/cert'\ntls_key = '/nowhere/key'");
                let error = bench.take_up(&wrong, &first).err().unwrap_or_default();
                assert!(error.starts_with("target \"hop\": can't read /nowhere/cert"), "{error}");
            }
            check_kept(
                &first,
                &bench.take_up(&config, &first).expect("made"),
                &["hop", "hook"],
                "the faults are mended",
            );
            assert!(!first.desk.is_open(), "nothing was started for what came to nothing");
        });
    }
}
