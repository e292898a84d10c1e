//! From a config to what shards serve by: the files that it names are read, and everything is checked, before anything is
//! in force.

use crate::in_force::CertificateEnd;
use crate::plan::{self, Core};
use crate::state::StateDir;
use anyhow::{Context, Result, anyhow, bail};
use ringpost_base::Network;
use ringpost_config::{self as config, Config};
use ringpost_net::{
    Acceptor, CertificateFiles, ClientCertificates, Strength, Ticketing, TlsMin, TlsOptions, certificate_expires,
    stored_or_made,
};
use ringpost_policy::{BanBook, Directory, Policy, Protected, Recipients};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Faults of a recipients' file that are printed; the number of the others is said.
const FAULTS_SHOWN_MAX: usize = 50;

/// The rules of a config: reads the recipients' files, and checks that their aliases lead to domains of ours.
pub(crate) fn policy(config: &Config) -> Result<Arc<Policy>> {
    let mut directories = HashMap::new();
    for domain in &config.policy.domains {
        let Recipients::File(path) = &domain.recipients else { continue };
        if directories.contains_key(path) {
            continue;
        }
        let text = fs::read_to_string(path)
            .with_context(|| format!("{path}: the recipients of {} can't be read", domain.name))?;
        let directory = Directory::parse(path, &text)
            .map_err(|faults| anyhow!("the recipients of {} are not valid\n{}", domain.name, listed(&faults)))?;
        directories.insert(path.clone(), Arc::new(directory));
    }
    let policy = Policy::new(config.policy.clone(), &directories);
    policy.map(Arc::new).map_err(|faults| anyhow!("the recipients are not valid\n{}", listed(&faults)))
}

/// Whether the targets of a config can be made: reads every file that they name.
pub(crate) fn check_targets(config: &Config) -> Result<()> {
    ringpost_deliver::check(config).map_err(|reason| anyhow!(reason))
}

/// One fault a line.
fn listed(faults: &[impl ToString]) -> String {
    let shown: Vec<String> = faults.iter().take(FAULTS_SHOWN_MAX).map(ToString::to_string).collect();
    let more = faults.len().saturating_sub(FAULTS_SHOWN_MAX);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    format!("{}{more}", shown.join("\n"))
}

/// How names are looked up.
pub(crate) fn dns_options(config: &Config) -> ringpost_dns::Options {
    let config::Dns { servers, timeout, attempts, cache } = &config.dns;
    ringpost_dns::Options { servers: servers.clone(), timeout: *timeout, attempts: *attempts, cache: *cache }
}

/// Who is never banned: the allow list, and whoever speaks for others.
pub(crate) fn set_bans(book: &mut BanBook, config: &Config) {
    let listeners = config.listeners.iter();
    let protected = listeners.flat_map(|listener| {
        let named = |key: &str, networks: &[Network]| {
            let setting = format!("listener[{}].{key}", listener.name);
            let protected = |network: &Network| Protected { network: *network, setting: setting.clone() };
            networks.iter().map(protected).collect::<Vec<_>>()
        };
        [
            named("proxy_from", &listener.proxy_from),
            named("xclient_from", &listener.xclient_from),
            named("xforward_from", &listener.xforward_from),
        ]
        .concat()
    });
    let mut lifted = book.protect(protected.collect());
    lifted.extend(book.allow(config.policy.bans.allow.clone()));
    for ban in lifted {
        tracing::warn!(network = %ban.network, reason = &*ban.reason, "ban lifted: the config protects or allows it now");
    }
}

/// What TLS is set up from, a self-signed certificate made where none is configured.
pub(crate) fn acceptors(
    config: &Config,
    state: &StateDir,
    ticketing: &Ticketing,
    shards: usize,
) -> Result<Vec<Acceptor>> {
    let tls = &config.tls;
    let mut certificates: Vec<CertificateFiles> = tls.certificates.iter().map(files_of).collect();
    if certificates.is_empty() {
        let (cert, key) = stored_or_made(&state.tls(), &config.server.hostname)?;
        tracing::info!(certificate = %cert.display(), "no certificate configured, using a self-signed one");
        certificates.push(CertificateFiles { cert, key, ocsp: None });
    }
    let options = TlsOptions {
        certificates,
        min_version: match tls.min_version {
            config::TlsVersion::V12 => TlsMin::V12,
            config::TlsVersion::V13 => TlsMin::V13,
        },
        min_strength: match tls.min_strength {
            config::TlsStrength::Bits128 => Strength::Bits128,
            config::TlsStrength::Bits256 => Strength::Bits256,
        },
        post_quantum: tls.post_quantum,
        client_certificates: match tls.client_certificates {
            config::ClientCertificates::Off => ClientCertificates::Off,
            config::ClientCertificates::Ask => ClientCertificates::Ask,
        },
        client_ca: tls.client_ca.as_ref().map(PathBuf::from),
    };
    Ok(Acceptor::all(&options, ticketing, shards)?)
}

/// The certificates that this server shows: to clients, and to targets that ask for one.
pub(crate) fn certificates(config: &Config, state: &StateDir) -> Result<Vec<CertificateEnd>> {
    let mut files: Vec<String> = config.tls.certificates.iter().map(|pair| pair.cert.clone()).collect();
    if files.is_empty() {
        let (cert, _) = stored_or_made(&state.tls(), &config.server.hostname)?;
        files.push(cert.display().to_string());
    }
    files.extend(config.targets.iter().filter_map(|target| match &target.kind {
        config::TargetKind::Lmtp(hop) | config::TargetKind::Smtp(hop) => {
            Some(hop.tls_certificate.as_ref()?.cert.clone())
        }
        config::TargetKind::Webhook(hook) => Some(hook.certificate.as_ref()?.cert.clone()),
        _ => None,
    }));
    files.sort();
    files.dedup();
    let mut ends = Vec::new();
    for file in files {
        // One whose end can't be read is used all the same, and is not watched.
        if let Some(expires) = certificate_expires(Path::new(&file))? {
            ends.push(CertificateEnd { file, expires });
        }
    }
    Ok(ends)
}

fn files_of(pair: &config::Certificate) -> CertificateFiles {
    CertificateFiles {
        cert: pair.cert.clone().into(),
        key: pair.key.clone().into(),
        ocsp: pair.ocsp.as_ref().map(PathBuf::from),
    }
}

/// The cores of a config that is to follow another: the same ones, with what each may carry now.
pub(crate) fn cores_again(config: &Config, running: &[Core], descriptors: u64) -> Result<Vec<Core>> {
    let mut cores = plan::cores(config)?;
    if cores.len() != running.len() {
        bail!("the cores in use can't be changed while the server runs");
    }
    for (core, running) in cores.iter_mut().zip(running) {
        core.cpu = running.cpu;
    }
    plan::fit_descriptors(&mut cores, descriptors)?;
    Ok(cores)
}

/// What a file looked like: it has changed when any of this has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

/// The files besides the config file that a config is made from, as they look now; nothing for one that is not there.
pub(crate) fn stamps(config: &Config) -> Vec<(PathBuf, Option<Stamp>)> {
    let tls = &config.tls;
    let recipients = config.policy.domains.iter().filter_map(|domain| match &domain.recipients {
        Recipients::File(path) => Some(path),
        Recipients::Any | Recipients::Listed(_) => None,
    });
    let certificates = tls.certificates.iter().flat_map(|pair| [Some(&pair.cert), Some(&pair.key), pair.ocsp.as_ref()]);
    let targets = config.targets.iter().flat_map(|target| files_of_target(&target.kind));
    let paths = recipients.chain(certificates.flatten()).chain(tls.client_ca.as_ref()).chain(targets);
    paths.map(|path| (PathBuf::from(path), stamp(path))).collect()
}

/// The files that a target names.
fn files_of_target(kind: &config::TargetKind) -> Vec<&String> {
    let (ca, pair, secret) = match kind {
        config::TargetKind::Lmtp(hop) | config::TargetKind::Smtp(hop) => {
            (hop.tls_ca.as_ref(), hop.tls_certificate.as_ref(), None)
        }
        config::TargetKind::Webhook(hook) => (hook.ca.as_ref(), hook.certificate.as_ref(), hook.secret_file.as_ref()),
        _ => (None, None, None),
    };
    let pair = pair.into_iter().flat_map(|pair| [&pair.cert, &pair.key]);
    ca.into_iter().chain(pair).chain(secret).collect()
}

fn stamp(path: &str) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp { modified: (meta.mtime(), meta.mtime_nsec()), size: meta.size(), inode: meta.ino() })
}
