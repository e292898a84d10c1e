//! What a run was made on: machine, kernel and commit, so that its numbers can be compared with others.

use std::process::Command;

use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Hardware {
    /// `null` where /proc/cpuinfo names none.
    pub(crate) cpu_model: Option<String>,
    /// Cores this process may use.
    pub(crate) cores: usize,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) architecture: &'static str,
}

/// The state of the source tree in the current directory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Source {
    /// Full hash; `null` outside of a repository.
    pub(crate) commit: Option<String>,
    /// Whether a tracked file differs from the commit.
    pub(crate) dirty: Option<bool>,
}

impl Hardware {
    pub(crate) fn read() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&meminfo, "MemTotal").and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
        Self {
            cpu_model: field(&cpuinfo, "model name").map(str::to_owned),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.map(|kib| kib * 1024),
            architecture: std::env::consts::ARCH,
        }
    }
}

/// The kernel's release.
pub(crate) fn kernel() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(text.trim().to_owned())
}

impl Source {
    pub(crate) fn read() -> Self {
        let commit = git(&["rev-parse", "--verify", "--quiet", "HEAD"]).filter(|text| !text.is_empty());
        let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).map(|text| !text.is_empty());
        Self { dirty: dirty.filter(|_| commit.is_some()), commit }
    }

    /// The commit as it stands in the name of a file.
    pub(crate) fn short(&self) -> &str {
        self.commit.as_deref().and_then(|commit| commit.get(..10)).unwrap_or("nocommit")
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: fast\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz: fast"));
        assert_eq!(field(text, "model"), None);
    }
}
