//! Room for many connections: open files, and local addresses to connect from.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, anyhow, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::PROCESSES_MAX;
use crate::client::Target;

/// Descriptors that aren't connections: the runtime's, files, timers.
const DESCRIPTORS_SPARE: u64 = 200;

/// Connections that one local address can hold to one target. The kernel's default range of ports is 28,231 long; some
/// of them rest in TIME_WAIT or serve others.
const CONNECTIONS_PER_SOURCE_MAX: u64 = 25_000;

/// Raises the limit on open files to what so many connections need: the soft one up to the hard one, and the hard one
/// too where this process may.
pub(crate) fn raise_open_files(connections: u64, per_connection: u64) -> Result<()> {
    let wanted = connections * per_connection + DESCRIPTORS_SPARE;
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if enough(limit.current) {
        return Ok(());
    }
    let maximum = if enough(limit.maximum) { limit.maximum } else { Some(wanted) };
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    ensure!(
        raised.is_ok(),
        "{connections} connections need {wanted} open files, but this process may have only {}: raise it with \
         'ulimit -Hn {wanted}' as root, or LimitNOFILE=",
        limit.maximum.unwrap_or(u64::MAX)
    );
    Ok(())
}

/// Sees to the open files of a crowd that is spread over so many processes, and says how many of them would do if these
/// are too few: the limit counts for each process by itself.
pub(crate) fn raise_open_files_of_crowd(connections: u64, processes: u64) -> Result<()> {
    let raised = raise_open_files(connections.div_ceil(processes), 1);
    let room = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).saturating_sub(DESCRIPTORS_SPARE);
    match (raised, processes_for(connections, room)) {
        (Err(error), Some(needed)) => {
            Err(anyhow!("{error}; or spread them over several processes with --processes {needed}"))
        }
        (raised, _) => raised,
    }
}

/// How many processes it takes to hold so many connections with room for so many each; none if it takes too many.
fn processes_for(connections: u64, room: u64) -> Option<u64> {
    let needed = connections.div_ceil(room.max(1));
    (needed <= u64::from(PROCESSES_MAX)).then_some(needed)
}

/// The address after this many is in the next /24: a server that tells networks apart is to see several.
const SOURCE_DISTANCE: u32 = 256;

/// How many connections need ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// That are open at one time: without ports for them there is no run.
    pub(crate) at_once: u64,
    /// With those whose ports rest in TIME_WAIT, in the worst case.
    pub(crate) with_resting: u64,
}

impl Demand {
    /// Connections that are all open at one time, and none before them.
    pub(crate) fn at_once(connections: u64) -> Self {
        Self { at_once: connections, with_resting: connections }
    }
}

/// Local addresses for so many connections. Towards a loopback target there are 16 million to choose from; towards
/// others they must be given.
pub(crate) fn sources_for(given: Vec<IpAddr>, targets: &[Target], demand: Demand) -> Result<Vec<IpAddr>> {
    let addresses = |connections: u64| connections.div_ceil(CONNECTIONS_PER_SOURCE_MAX * targets.len() as u64);
    let loopback = |target: &Target| matches!(target.address.ip(), IpAddr::V4(address) if address.is_loopback());
    let free = given.is_empty() && targets.iter().all(loopback);
    let needed = addresses(if free { demand.with_resting } else { demand.at_once });
    if given.len() as u64 >= needed || needed <= 1 {
        return Ok(given);
    }
    ensure!(
        free,
        "{} connections need {needed} local addresses, {CONNECTIONS_PER_SOURCE_MAX} connections each: give them with --source",
        demand.at_once
    );
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    Ok((0..needed as u32).map(|index| IpAddr::V4(Ipv4Addr::from(first + index * SOURCE_DISTANCE))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;

    fn target(address: &str) -> Target {
        let name = ServerName::try_from("mx.example").expect("valid");
        Target { address: address.parse().expect("valid"), name }
    }

    #[test]
    fn sources_are_added_only_where_they_are_needed_and_known_to_exist() {
        let local = [target("127.0.0.1:25")];
        let remote = [target("192.0.2.1:25")];
        let count = |given: &[IpAddr], targets: &[Target], demand| {
            sources_for(given.to_vec(), targets, demand).map(|sources| sources.len()).ok()
        };
        let (few, many) = (Demand::at_once(25_000), Demand::at_once(60_000));
        let flood = Demand { at_once: 50, with_resting: 60_000 };
        assert_eq!(count(&[], &local, few), Some(0));
        assert_eq!(count(&[], &local, many), Some(3));
        assert_eq!(count(&[], &remote, many), None);
        let given = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        assert_eq!(count(&given, &local, many), None);
        assert_eq!(count(&given, &remote, few), Some(1));
        assert_eq!(
            [count(&[], &local, flood), count(&[], &remote, flood), count(&given, &local, flood)],
            [Some(3), Some(0), Some(1)]
        );
    }

    #[test]
    fn processes_share_the_descriptors() {
        assert_eq!(processes_for(50_000, 19_800), Some(3));
        assert_eq!(processes_for(19_800, 19_800), Some(1));
        assert_eq!(processes_for(10_000_000, 1), None);
        assert!(raise_open_files_of_crowd(10, 1).is_ok());
    }
}
