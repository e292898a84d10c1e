//! Which CPUs server and clients run on. Where a measurement is about one core, the server has that core and its clients
//! have the others, so that neither takes time from the other.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How the CPUs are shared out.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    /// The server's only core.
    pub(crate) server: usize,
    /// Those of its clients; the server's too, where there is only one.
    pub(crate) clients: Vec<usize>,
}

impl Split {
    /// The first CPU that this process may run on for the server, the others for its clients.
    pub(crate) fn of_this_machine() -> Self {
        let all = allowed();
        let server = all.first().copied().unwrap_or(0);
        let others: Vec<usize> = all.iter().copied().filter(|cpu| *cpu != server).collect();
        Split { server, clients: if others.is_empty() { vec![server] } else { others } }
    }

    /// What a reader has to know of it.
    pub(crate) fn note(&self) -> String {
        let apart =
            if self.clients.contains(&self.server) { "which the clients share" } else { "the clients on others" };
        format!("the server on one core, {apart}")
    }

    /// Does something on the CPUs of the clients; what it starts stays there.
    pub(crate) fn as_client<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = sched_getaffinity(None);
        let mut set = CpuSet::new();
        self.clients.iter().for_each(|cpu| set.set(*cpu));
        // Where it isn't allowed, the kernel shares the cores out as it likes: worse, but no reason to give up.
        let _ = sched_setaffinity(None, &set);
        let result = work();
        if let Ok(before) = before {
            let _ = sched_setaffinity(None, &before);
        }
        result
    }
}

/// The CPUs this thread may run on.
fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_start_on_their_own_cores_and_leave_ours_as_they_were() {
        let split = Split::of_this_machine();
        let before = allowed();
        let mut there = split.as_client(allowed);
        there.sort_unstable();
        assert_eq!(there, split.clients);
        assert_eq!(allowed(), before);
    }
}
