//! Who the server is once its sockets are bound, and what it may do from then on: nothing of what it only needed before.
//!
//! What a thread may do is its own: the kernel changes it for one thread at a time, and threads that are started later have
//! what their maker had. So all of this is done by the main thread before there is another, and refused later.
//!
//! - As root with `server.user`: the process becomes that user, with the user's groups and no capability.
//! - As root without: it keeps `CAP_DAC_OVERRIDE`, since it delivers into Maildirs, reads keys and talks to sockets of other users;
//!   `CAP_IPC_LOCK`, since the kernel counts the locked memory of io_uring for all processes of a user together, and whatever else runs as
//!   root would count against a limit that was meant for one; and `CAP_NET_ADMIN`, since recent kernels want it for the filter that turns
//!   new clients away at the stop (SO_ATTACH_FILTER on TCP), and for `nft`. Nothing is given away (`CAP_CHOWN`), no mode of another's
//!   file is changed (`CAP_FOWNER`), nobody else is become (`CAP_SETUID`, `CAP_SETGID`), and no port is bound any more
//!   (`CAP_NET_BIND_SERVICE`).
//! - As anybody else: no capability, also not the `CAP_NET_BIND_SERVICE` that a unit gave for port 25.
//!
//! To others than root `CAP_NET_ADMIN` stays where bans are mirrored into nftables, and goes on to `nft`. In all cases no
//! program that is started later gains anything by a set-user-id bit. `docs/ARCHITECTURE.md` has the place of this in the start.

mod account;

use account::Account;
use anyhow::{Context, Result, bail};
use rustix::process::{geteuid, getuid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a server that stays root keeps.
const OF_ROOT: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::IPC_LOCK).union(CapabilitySet::NET_ADMIN);

/// Capabilities that the kernel may know: it has 41 of at most 64.
const CAPABILITIES_MAX: u32 = 64;

/// Who the server is from now on.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Who it has become; nothing if it is who it was.
    account: Option<Account>,
    kept: CapabilitySet,
    lacks_net_admin: bool,
}

/// Becomes the user that the config says, and gives up every capability that is not needed after the sockets are bound.
///
/// # Errors
/// No such user or group; a user that only root could become; more than one thread.
pub(crate) fn settle(user: Option<&str>, group: Option<&str>, keep_net_admin: bool) -> Result<Settled> {
    require_one_thread()?;
    let account = user.map(|user| Account::find(user, group)).transpose()?;
    let becomes = account.filter(|account| account.user != geteuid().as_raw());
    let remains_root = becomes.as_ref().map_or(geteuid().is_root(), |account| account.user == 0);
    if let (Some(account), false) = (&becomes, geteuid().is_root()) {
        let name = &account.name;
        bail!("server.user is {name:?}: only root can become another user; start ringpost as root, or as {name}");
    }
    let had = thread::capabilities(None).context("the capabilities can't be read")?;
    let net_admin = if keep_net_admin { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() };
    let wanted = if remains_root { OF_ROOT } else { net_admin };
    let kept = wanted & had.permitted;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        bound(kept)?;
    }
    if let Some(account) = &becomes {
        thread::set_keep_capabilities(true).context("capabilities can't be kept")?;
        account.become_it()?;
    }
    restrict(kept, remains_root).context("capabilities can't be given up")?;
    if becomes.is_some() && !remains_root && can_return() {
        bail!("the process could become root again: this kernel or container is not fit for server.user");
    }
    let lacks_net_admin = !kept.contains(net_admin);
    Ok(Settled { account: becomes, kept, lacks_net_admin })
}

impl Settled {
    /// Says it in the log.
    pub(crate) fn tell(&self) {
        let user = getuid().as_raw();
        tracing::info!(
            user,
            name = self.account.as_ref().map(|of| &*of.name),
            capabilities = names(self.kept),
            "privileges settled"
        );
        if self.lacks_net_admin {
            tracing::warn!("bans.nftables needs CAP_NET_ADMIN, which this process was not started with");
        }
    }

    /// Whether the state directory is that of the user that the server has become.
    ///
    /// # Errors
    /// What is somebody else's, and what to do.
    pub(crate) fn check_state_dir(&self, path: &Path) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        let (name, group, shown) = (&account.name, account.group, path.display());
        let advice = format!("if it is ringpost's, give it to {name}: chown -R {name}:{group} {shown}");
        let Ok(entries) = fs::read_dir(path) else {
            match path.symlink_metadata() {
                Ok(_) => bail!("{shown}: {name}, who is server.user, can't read the state directory; {advice}"),
                // Where the user may make it, that is done later.
                Err(_) => return may_make(path, account),
            }
        };
        // What a file system of its own has in it is nobody's of ours.
        let entries = entries.flatten().filter(|entry| entry.file_name() != "lost+found").map(|entry| entry.path());
        let foreign = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.uid() != account.user);
        match std::iter::once(path.to_owned()).chain(entries).find(|path| foreign(path)) {
            Some(found) => {
                let found = found.display();
                bail!("{found}: in the state directory and not {name}'s, who is server.user; {advice}")
            }
            None => Ok(()),
        }
    }
}

/// Whether the state directory, which is not there, can be made.
fn may_make(path: &Path, account: &Account) -> Result<()> {
    let (name, group, shown) = (&account.name, account.group, path.display());
    let above = path.ancestors().skip(1).find(|above| above.as_os_str().is_empty() || above.exists());
    let above = above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable =
        rustix::fs::accessat(rustix::fs::CWD, above, rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS);
    if writable.is_err() {
        bail!(
            "{shown}: {name}, who is server.user, can't make the state directory: install -d -m 0700 -o {name} -g {group} {shown}"
        );
    }
    Ok(())
}

/// Threads that are there already would keep what they have.
fn require_one_thread() -> Result<()> {
    // Without a /proc nobody can say; whoever calls this does so before the first thread.
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        bail!("privileges have to be settled before there are threads, and there are {threads}");
    }
    Ok(())
}

/// No program that is started later can have more than these.
fn bound(kept: CapabilitySet) -> Result<()> {
    for number in 0..CAPABILITIES_MAX {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The kernel knows no more from the first that it refuses to be asked about.
        let Ok(is_there) = thread::capability_is_in_bounding_set(capability) else { break };
        if is_there && !kept.contains(capability) {
            thread::remove_capability_from_bounding_set(capability).context("capabilities can't be bounded")?;
        }
    }
    Ok(())
}

fn restrict(kept: CapabilitySet, remains_root: bool) -> rustix::io::Result<()> {
    thread::clear_ambient_capability_set()?;
    // What root starts is root's; from anybody else a program gets what is ambient.
    let handed_on = if remains_root { CapabilitySet::empty() } else { kept };
    thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: handed_on })?;
    for capability in handed_on.iter() {
        thread::configure_capability_in_ambient_set(capability, true)?;
    }
    thread::set_keep_capabilities(false)?;
    thread::set_no_new_privs(true)
}

/// Whether root could be become again.
fn can_return() -> bool {
    // SAFETY: the call takes integers. Where it succeeds, the caller ends the process.
    unsafe { libc::setresuid(0, 0, 0) == 0 }
}

/// The names of capabilities, as others write them.
fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_names() {
        assert_eq!(names(OF_ROOT), "CAP_DAC_OVERRIDE CAP_NET_ADMIN CAP_IPC_LOCK");
        assert_eq!(names(CapabilitySet::empty()), "none");
    }

    /// The runner of the tests has threads, and the thread of a test keeps what it has.
    #[test]
    fn a_process_with_threads_is_refused() {
        let before = thread::capabilities(None).expect("they can be read");
        let refused = settle(None, None, false).expect_err("there are two threads at least").to_string();
        assert!(refused.starts_with("privileges have to be settled before there are threads"), "{refused}");
        assert_eq!(thread::capabilities(None).expect("they can be read"), before);
    }
}
