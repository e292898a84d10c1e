//! The config file and what it names, read again.

use super::Keeper;
use crate::check;
use crate::in_force::{InForce, Source};
use crate::logging::log_options;
use crate::reload::{self, Stamp};
use crate::telemetry::telemetry_options;
use anyhow::{Context, Result};
use ringpost_admin::api::Reloaded;
use ringpost_base::ShardId;
use ringpost_config::Config;
use ringpost_dns::Dns;
use ringpost_telemetry::Options as TelemetryOptions;
use std::path::PathBuf;
use std::sync::Arc;

/// A file that the config names, and what is known of its changes.
pub(super) struct Watch {
    path: PathBuf,
    /// As it was when it was last taken up.
    taken: Option<Stamp>,
    /// As it was at the last look: a file is taken up once it has stayed the same for a round, since one that is being
    /// written would be read in half.
    seen: Option<Stamp>,
}

impl Watch {
    /// The files of a config as they are now. To be asked before they are read, so that a later change is noticed.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        let stamps = reload::stamps(config);
        stamps.into_iter().map(|(path, stamp)| Self { path, taken: stamp, seen: stamp }).collect()
    }
}

/// A config that was read, and how it differs from the one in force.
pub(super) struct Read {
    /// What of it a running server can take on.
    pub(super) config: Config,
    pub(super) changed: Vec<String>,
    pub(super) needs_restart: Vec<String>,
    pub(super) watches: Vec<Watch>,
}

/// All that is to be in force of a config, made and checked.
pub(super) struct Made {
    pub(super) source: Source,
    pub(super) telemetry: TelemetryOptions,
}

impl Keeper {
    /// Reads the config file, and everything that it names; puts it in force if nothing is wrong with it.
    pub(super) fn reload(&mut self) -> Result<Reloaded> {
        let former = self.publisher.current().source;
        let Read { config, changed, needs_restart, watches } = self.read(&former)?;
        let made = self.make(config, &former, self.standing.epoch + 1)?;
        let (epoch, warnings) = self.put_in_force(made)?;
        self.standing.watches = watches;
        Ok(Reloaded { epoch, changed, needs_restart, warnings })
    }

    pub(super) fn read(&self, former: &Source) -> Result<Read> {
        let config = check::load(&self.options)?;
        let needs_restart = former.config.differences_that_need_restart(&config);
        let changed = former.config.differences(&config);
        let mut changed: Vec<String> = changed.into_iter().filter(|key| !needs_restart.contains(key)).collect();
        let now = reload::stamps(&former.config);
        let files = self.standing.watches.iter().zip(now).filter(|(watch, (_, stamp))| watch.taken != *stamp);
        changed.extend(files.map(|(watch, _)| format!("the contents of {}", watch.path.display())));
        let config = former.config.reloaded(&config).context("the config does not go with what needs a restart")?;
        let watches = Watch::all(&config);
        Ok(Read { config, changed, needs_restart, watches })
    }

    /// Makes everything that can fail, and puts nothing in force.
    pub(super) fn make(&self, config: Config, former: &Source, epoch: u64) -> Result<Made> {
        let policy = reload::policy(&config)?;
        reload::check_targets(&config)?;
        let cores = reload::cores_again(&config, &former.cores, self.descriptors)?;
        let acceptors = reload::acceptors(&config, &self.state, &self.ticketing, cores.len())?;
        let certificates = reload::certificates(&config, &self.state)?;
        let telemetry = telemetry_options(&config)?;
        let dns = if config.dns == former.config.dns {
            former.dns.clone()
        } else {
            Dns::start(self.services.clone(), &reload::dns_options(&config)).context("dns.servers")?
        };
        Ok(Made { source: Source { epoch, config, cores, policy, acceptors, certificates, dns }, telemetry })
    }

    /// Puts it in force on every shard, also on one that tried another. Gives its number, and what an operator should know.
    ///
    /// What can still fail comes first, and changes nothing if it does.
    pub(super) fn put_in_force(&mut self, made: Made) -> Result<(u64, Vec<String>)> {
        let Made { source, telemetry } = made;
        self.telemetry.change(telemetry)?;
        reload::set_bans(&mut self.book, &source.config);
        self.log.change(log_options(&source.config));
        let epoch = source.epoch;
        let next = InForce { source: Arc::new(source), bans: Arc::new(self.book.snapshot()) };
        self.standing.trial = None;
        let late = self.publisher.end_trial(Some(next));
        self.standing.epoch = epoch;
        self.mirror();
        tracing::info!(epoch, "configuration taken up");
        Ok((epoch, self.warnings(epoch, &late)))
    }

    fn warnings(&self, epoch: u64, late: &[ShardId]) -> Vec<String> {
        let failures = self.publisher.failures_of(epoch).into_iter();
        let mut warnings: Vec<String> = failures
            .map(|(shard, reason)| format!("shard {shard} can't take it up and goes on as before: {reason}"))
            .collect();
        warnings.extend(late.iter().map(|shard| format!("shard {shard} has not taken it up yet")));
        warnings
    }

    pub(super) fn watches(&self) -> Vec<Watch> {
        Watch::all(&self.publisher.current().source.config)
    }

    /// Takes up the files that have changed and come to rest.
    pub(super) fn look(&mut self) {
        let former = self.publisher.current().source;
        let stamps = reload::stamps(&former.config);
        let mut changed = Vec::new();
        for (watch, (_, stamp)) in self.standing.watches.iter_mut().zip(stamps) {
            let rests = watch.seen == stamp;
            watch.seen = stamp;
            if rests && stamp.is_some() && watch.taken != stamp {
                watch.taken = stamp;
                changed.push(watch.path.display().to_string());
            }
        }
        if changed.is_empty() {
            return;
        }
        let made = self.make(former.config.clone(), &former, self.standing.epoch + 1);
        match made.and_then(|made| self.put_in_force(made)) {
            Ok(_) => tracing::info!(files = changed.join(", "), "changed files taken up"),
            Err(error) => {
                tracing::error!(
                    files = changed.join(", "),
                    error = format!("{error:#}"),
                    "changed files can't be taken up; the former ones stay in force"
                );
            }
        }
    }
}
