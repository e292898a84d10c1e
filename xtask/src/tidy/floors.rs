//! The floors: a crate imports only from floors below its own. `docs/ARCHITECTURE.md` says what stands on which.

use super::Finding;
use crate::workspace::Package;

/// Where a crate stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floor {
    /// In the house; 0 is the ground.
    Number(u8),
    /// Beside the house: may import only what is listed.
    Apart(&'static [&'static str]),
}

/// Every crate of the workspace, from the ground up.
const FLOORS: [(&str, Floor); 22] = [
    ("ringpost-base", Floor::Number(0)),
    ("ringpost-smtp", Floor::Number(1)),
    ("ringpost-message", Floor::Number(1)),
    ("ringpost-spool", Floor::Number(1)),
    ("ringpost-metrics", Floor::Number(1)),
    ("ringpost-trace", Floor::Number(1)),
    ("ringpost-policy", Floor::Number(2)),
    ("ringpost-queue", Floor::Number(2)),
    ("ringpost-config", Floor::Number(3)),
    ("ringpost-control", Floor::Number(4)),
    ("ringpost-runtime", Floor::Number(5)),
    ("ringpost-net", Floor::Number(6)),
    ("ringpost-dns", Floor::Number(6)),
    ("ringpost-store", Floor::Number(6)),
    ("ringpost-telemetry", Floor::Number(6)),
    ("ringpost-deliver", Floor::Number(7)),
    ("ringpost-serve", Floor::Number(8)),
    ("ringpost-admin", Floor::Number(8)),
    ("ringpost", Floor::Number(9)),
    ("ringpost-sim", Floor::Number(9)),
    ("ringpost-load", Floor::Apart(&["ringpost-smtp"])),
    ("xtask", Floor::Apart(&[])),
];

/// Floor-mates that may import each other all the same: who, whom, and why.
const MATES: [(&str, &str, &str); 0] = [];

/// Imports that the floors would allow and the design doesn't.
const NEVER: [(&str, &str, &str); 4] = [
    ("ringpost-net", "ringpost-smtp", "the driver of machines doesn't know which protocol it drives"),
    ("ringpost-store", "ringpost-smtp", "what is stored is bytes, however they came"),
    ("ringpost-serve", "ringpost-deliver", "a message goes from one to the other through the queue"),
    ("ringpost-deliver", "ringpost-serve", "a message goes from one to the other through the queue"),
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 4] = ["common", "util", "helpers", "types"];

/// Crates from outside that would bring I/O, async, clocks or randomness into the engine.
const IMPURE: [&str; 14] = [
    "async-std",
    "crossbeam",
    "futures",
    "futures-lite",
    "getrandom",
    "glommio",
    "glommio-ng",
    "libc",
    "mio",
    "rand",
    "rustix",
    "smol",
    "socket2",
    "tokio",
];

/// Checks what each crate imports; `manifest` gives the text of a `Cargo.toml`, for the line.
pub(super) fn check(packages: &[Package], manifest: impl Fn(&str) -> String) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let path = format!("{}/Cargo.toml", package.folder);
        let text = manifest(&path);
        let line = |name: &str| text.lines().position(|line| line.starts_with(name)).map_or(1, |at| at + 1);
        let last_word = package.name.rsplit('-').next().unwrap_or_default();
        if EMPTY_NAMES.contains(&last_word) {
            findings.push(Finding::new(&path, line("name"), format!("a crate called {last_word} says nothing")));
        }
        let Some(floor) = floor(&package.name) else {
            let message = format!("{} has no floor: give it one in xtask/src/tidy/floors.rs", package.name);
            findings.push(Finding::new(&path, line("name"), message));
            continue;
        };
        for dependency in &package.dependencies {
            let ours = packages.iter().any(|other| other.name == *dependency);
            let reason = if ours {
                refusal(&package.name, floor, dependency)
            } else if package.folder.starts_with("engine/") && IMPURE.contains(&dependency.as_str()) {
                Some("engine/ has no I/O, async, clocks or randomness".to_owned())
            } else {
                None
            };
            if let Some(reason) = reason {
                let message = format!("{} must not import {dependency}: {reason}", package.name);
                findings.push(Finding::new(&path, line(dependency), message));
            }
        }
    }
    findings
}

fn floor(name: &str) -> Option<Floor> {
    FLOORS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, floor)| *floor)
}

/// Why `who`, on `floor`, must not import `whom`.
fn refusal(who: &str, on: Floor, whom: &str) -> Option<String> {
    if whom == "ringpost" {
        return Some("nothing imports the daemon".to_owned());
    }
    if let Some((_, _, reason)) = NEVER.iter().find(|(a, b, _)| *a == who && *b == whom) {
        return Some((*reason).to_owned());
    }
    if MATES.iter().any(|(a, b, _)| *a == who && *b == whom) {
        return None;
    }
    match (on, floor(whom)) {
        (Floor::Apart(allowed), _) if allowed.contains(&whom) => None,
        (Floor::Apart(_), _) => Some(format!("it stands apart from the house and {whom} isn't in its list")),
        (Floor::Number(_), Some(Floor::Apart(_))) => Some(format!("{whom} stands apart from the house")),
        (Floor::Number(own), Some(Floor::Number(other))) if other >= own => {
            Some(format!("it is on floor {own} and {whom} on floor {other}, which isn't below"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn package(name: &str, folder: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            folder: folder.to_owned(),
            dependencies: dependencies.iter().map(|d| (*d).to_owned()).collect(),
        }
    }

    /// Checks `package` in a workspace of all listed crates and gives the findings.
    fn check_one(package: Package, manifest: &str) -> Vec<String> {
        let mut packages: Vec<_> = FLOORS.iter().map(|(name, _)| self::package(name, "shards/x", &[])).collect();
        packages.retain(|other| other.name != package.name);
        packages.push(package);
        fixture::lines(&check(&packages, |_| manifest.to_owned()))
    }

    #[test]
    fn imports_from_below_are_fine() {
        let net = package("ringpost-net", "shards/net", &["ringpost-base", "ringpost-runtime", "glommio-ng"]);
        assert!(check_one(net, "").is_empty());
        assert!(check_one(package("ringpost-load", "loadtest", &["ringpost-smtp", "libc"]), "").is_empty());
    }

    #[test]
    fn imports_from_above_or_beside_are_not() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nringpost-store.workspace = true\n";
        let found = check_one(package("ringpost-net", "shards/net", &["ringpost-store"]), manifest);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("4: ringpost-net must not import ringpost-store: it is on floor 6"), "{found:?}");
        assert_eq!(check_one(package("ringpost-base", "engine/base", &["ringpost-smtp"]), "").len(), 1);
        assert_eq!(check_one(package("ringpost-load", "loadtest", &["ringpost-base"]), "").len(), 1);
        assert_eq!(check_one(package("ringpost-serve", "shards/serve", &["xtask"]), "").len(), 1);
    }

    #[test]
    fn what_the_design_forbids_whatever_the_floors_say() {
        for (who, whom) in [
            ("ringpost-net", "ringpost-smtp"),
            ("ringpost-store", "ringpost-smtp"),
            ("ringpost-serve", "ringpost-deliver"),
            ("ringpost-deliver", "ringpost-serve"),
            ("xtask", "ringpost"),
        ] {
            assert_eq!(check_one(package(who, "shards/x", &[whom]), "").len(), 1, "{who} imports {whom}");
        }
    }

    #[test]
    fn unlisted_and_empty_names() {
        let found = check_one(package("ringpost-util", "engine/util", &[]), "");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn the_engine_takes_no_runtime_from_outside() {
        assert_eq!(check_one(package("ringpost-base", "engine/base", &["tokio"]), "").len(), 1);
        assert!(check_one(package("ringpost-admin", "shards/admin", &["tokio"]), "").is_empty());
    }
}
