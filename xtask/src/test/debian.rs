//! The Debian packages that the tests talk to, installed when one is missing.
//!
//! The tests run against the real programs. Nothing is touched on a machine that has them all.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// What the tests start or need to be there.
const PACKAGES: [&str; 28] = [
    "apparmor",
    "ca-certificates",
    "curl",
    "dovecot-core",
    "dovecot-lmtpd",
    "e2fsprogs",
    "g++",
    "haproxy",
    "iproute2",
    "libio-socket-ssl-perl",
    "libnet-dns-perl",
    "libnet-ssleay-perl",
    "man-db",
    "mount",
    "nftables",
    "openssl",
    "postfix",
    "procps",
    "prometheus",
    "python3",
    "python3-seccomp",
    "sslscan",
    "strace",
    "swaks",
    "systemd",
    "testssl.sh",
    "unbound",
    "util-linux",
];

/// Installs the packages that are missing, as root or through sudo; an error that says what to do otherwise.
pub(super) fn install_missing() -> Result<()> {
    if process::find_program("dpkg-query").is_none() || process::find_program("apt-get").is_none() {
        bail!("not a Debian machine: install what these packages hold: {}", PACKAGES.join(" "));
    }
    let missing = missing();
    if missing.is_empty() {
        println!("all there");
        return Ok(());
    }
    println!("missing: {}", missing.join(" "));
    if !process::is_root() && process::find_program("sudo").is_none() {
        bail!("as root: apt-get update && apt-get install --no-install-recommends {}", missing.join(" "));
    }
    process::run(apt(&["update", "-qq"]).env("LC_ALL", "C"))?;
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    process::run(install.args(&missing))?;
    match self::missing() {
        still if still.is_empty() => Ok(()),
        still => bail!("still missing after apt-get install: {}", still.join(" ")),
    }
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = if process::is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    command
}

fn missing() -> Vec<&'static str> {
    // dpkg-query fails when it doesn't know one of them; what it knows it prints all the same.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(PACKAGES)
        .output();
    let listing = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    not_installed(&listing)
}

fn not_installed(listing: &str) -> Vec<&'static str> {
    let installed: BTreeSet<&str> = listing.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    PACKAGES.into_iter().filter(|package| !installed.contains(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dpkg_does_not_call_installed_is_missing() {
        let all: String = PACKAGES.iter().map(|package| format!("installed {package}\n")).collect();
        assert!(not_installed(&all).is_empty());
        let one_removed = all.replace("installed swaks", "config-files swaks");
        assert_eq!(not_installed(&one_removed), ["swaks"]);
        assert_eq!(not_installed("").len(), PACKAGES.len());
    }
}
