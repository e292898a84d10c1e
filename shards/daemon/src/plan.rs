//! Which cores run a shard, and what each may carry.

use anyhow::{Result, bail};
use ringpost_base::{ByteCount, ShardId};
use ringpost_config::{Config, CoreUse};
use ringpost_policy::Capacity;

/// Connections that a core must at least have room for.
const CONNECTIONS_MIN: usize = 64;

/// A shard to be.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) shard: ShardId,
    pub(crate) cpu: usize,
    pub(crate) capacity: Capacity,
}

/// The cores that the configuration names, with their limits. What the process may carry in all is split evenly, the
/// first shards taking the remainder.
pub(crate) fn cores(config: &Config) -> Result<Vec<Core>> {
    let available = ringpost_runtime::cores();
    if available.is_empty() {
        bail!("the CPUs this process may run on can't be found out (sched_getaffinity failed)");
    }
    let cpus = match &config.cores.using {
        CoreUse::All => available,
        CoreUse::Count(count) if *count <= available.len() => available[..*count].to_vec(),
        CoreUse::Count(count) => {
            bail!("cores.use: {count} cores are wanted and this process may run on {}: {available:?}", available.len())
        }
        CoreUse::Ids(ids) => match ids.iter().find(|id| !available.contains(id)) {
            None => ids.clone(),
            Some(id) => bail!("cores.use: this process may not run on core {id}, only on {available:?}"),
        },
    };
    if let Some(stray) = config.cores.overrides.iter().find(|over| !cpus.contains(&over.core)) {
        bail!("cores.override: core {} is not in use, only {cpus:?} are", stray.core);
    }
    let shards = cpus.len();
    let make = |(index, cpu): (usize, usize)| {
        let limits = config.cores.limits_of(cpu);
        let share = config.limits.connections.map(|all| all / shards + usize::from(index < all % shards));
        let capacity = Capacity {
            connections: share.unwrap_or(usize::MAX).min(limits.connections),
            messages_in_flight: limits.messages_in_flight,
            message_memory: limits.message_memory,
            spool_backlog: limits.spool_backlog,
        };
        Core { shard: ShardId(index as u16), cpu, capacity }
    };
    Ok(cpus.into_iter().enumerate().map(make).collect())
}

/// Lowers each core's connections so that together they fit the limit on open files.
pub(crate) fn fit_descriptors(cores: &mut [Core], descriptors: u64) -> Result<Option<usize>> {
    let share = usize::try_from(descriptors).unwrap_or(usize::MAX) / cores.len();
    if share < CONNECTIONS_MIN {
        bail!(
            "the limit on open files leaves {share} connections for each of {} cores: raise it with LimitNOFILE= in the \
             systemd unit or with `ulimit -n` in a shell, or use fewer cores",
            cores.len()
        );
    }
    let wanted = cores.iter().map(|core| core.capacity.connections).max().unwrap_or(0);
    for core in cores.iter_mut() {
        core.capacity.connections = core.capacity.connections.min(share);
    }
    Ok((share < wanted).then_some(share))
}

/// Of the memory for messages, how much accepted ones may hold while they wait for delivery: half of it, so that
/// there is always room for new ones.
pub(crate) fn hot_share(message_memory: ByteCount) -> u64 {
    message_memory.0 / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_maximum_is_split_without_loss() {
        let mut config = Config::default();
        config.limits.connections = Some(101);
        let cores = cores(&config).expect("cores");
        assert_eq!(cores.iter().map(|core| core.capacity.connections).sum::<usize>(), 101);
    }

    #[test]
    fn a_core_that_is_not_there_is_named() {
        let mut config = Config::default();
        config.cores.using = CoreUse::Ids(vec![100_000]);
        assert!(cores(&config).expect_err("no such core").to_string().contains("100000"));
    }

    #[test]
    fn connections_fit_the_descriptors() {
        let mut all = cores(&Config::default()).expect("cores");
        let descriptors = all.len() as u64 * 100;
        assert_eq!(fit_descriptors(&mut all, descriptors).expect("enough"), Some(100));
        assert!(all.iter().all(|core| core.capacity.connections == 100));
        assert!(fit_descriptors(&mut all, 10).is_err(), "a core without connections is no start");
    }
}
