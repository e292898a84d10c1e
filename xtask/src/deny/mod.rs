//! `cargo xtask deny`: licences, banned packages and sources of everything that is linked in, as `deny.toml` says.
//!
//! With cargo-deny on the machine it is asked. Without it nothing is installed, which would take minutes; the same
//! file is then checked here against what `cargo metadata` says of each package.

mod spdx;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml_edit::{Array, DocumentMut, InlineTable, Item};

use crate::process;
use crate::workspace::Workspace;

/// The platform whose packages are checked.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The only registry, as cargo writes it.
const CRATES_IO: [&str; 2] =
    ["registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/"];

/// Licences that no list can allow: what links them takes them on as a whole.
const NEVER: [&str; 3] = ["GPL-", "AGPL-", "LGPL-"];

/// What `deny.toml` says, as far as the check here reads it.
#[derive(Debug, Default)]
struct Rules {
    allow: Vec<String>,
    /// Package, and what it may have beyond that.
    exceptions: Vec<(String, Vec<String>)>,
    /// Package, and why not.
    banned: Vec<(String, String)>,
}

/// A package that is linked in.
struct Linked {
    name: String,
    version: String,
    license: Option<String>,
    /// None for a package of the workspace.
    source: Option<String>,
}

/// Checks what is linked in; prints what is wrong.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    if process::find_program("cargo-deny").is_some() {
        return cargo_deny(workspace);
    }
    let text = workspace.text("deny.toml").context("deny.toml is missing")?;
    let rules = rules(&text)?;
    let linked = linked(&workspace.metadata(&["--locked", "--filter-platform", PLATFORM])?)?;
    let problems = check(&linked, &rules);
    problems.iter().for_each(|problem| println!("{problem}"));
    println!("{} packages: licences, bans and sources checked here, since cargo-deny isn't installed", linked.len());
    println!("advisories skipped: they need cargo-deny and its database");
    match problems.len() {
        0 => Ok(()),
        count => bail!("deny: {count} findings"),
    }
}

fn cargo_deny(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["deny", "check", "licenses", "bans", "sources"]))?;
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let database = home.map(|home| home.join("advisory-dbs")).filter(|folder| folder.is_dir());
    if database.is_none() {
        println!("advisories skipped: their database isn't on this machine (cargo deny fetch db)");
        return Ok(());
    }
    process::run(workspace.cargo().args(["deny", "check", "--disable-fetch", "advisories"]))
}

fn rules(text: &str) -> Result<Rules> {
    let file: DocumentMut = text.parse().context("deny.toml")?;
    let licenses = file.get("licenses").context("deny.toml has no [licenses]")?;
    let mut rules = Rules { allow: strings(licenses.get("allow").and_then(Item::as_array)), ..Rules::default() };
    for table in tables(licenses.get("exceptions")) {
        rules.exceptions.push((crate_of(table)?, strings(table.get("allow").and_then(|allow| allow.as_array()))));
    }
    for table in tables(file.get("bans").and_then(|bans| bans.get("deny"))) {
        let reason = table.get("reason").and_then(|reason| reason.as_str()).unwrap_or("banned");
        let name = crate_of(table)?;
        if rules.banned.iter().any(|(other, _)| *other == name) {
            bail!("deny.toml bans {name} twice");
        }
        rules.banned.push((name, reason.to_owned()));
    }
    for license in rules.allow.iter().chain(rules.exceptions.iter().flat_map(|(_, allow)| allow)) {
        if NEVER.iter().any(|never| license.starts_with(never)) {
            bail!("deny.toml allows {license}, which the binary can't be linked with");
        }
    }
    Ok(rules)
}

fn strings(array: Option<&Array>) -> Vec<String> {
    array.into_iter().flatten().filter_map(|value| value.as_str()).map(str::to_owned).collect()
}

fn tables(item: Option<&Item>) -> impl Iterator<Item = &InlineTable> {
    item.and_then(Item::as_array).into_iter().flatten().filter_map(|value| value.as_inline_table())
}

fn crate_of(table: &InlineTable) -> Result<String> {
    let name = table.get("crate").and_then(|name| name.as_str()).context("a row of deny.toml without crate")?;
    Ok(name.to_owned())
}

fn linked(metadata: &Value) -> Result<Vec<Linked>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
    let ids: std::collections::HashSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ours = packages.filter(|package| package["id"].as_str().is_some_and(|id| ids.contains(id)));
    Ok(ours
        .map(|package| Linked {
            name: text(&package["name"]).unwrap_or_default(),
            version: text(&package["version"]).unwrap_or_default(),
            license: text(&package["license"]),
            source: text(&package["source"]),
        })
        .collect())
}

fn check(linked: &[Linked], rules: &Rules) -> Vec<String> {
    let mut problems = Vec::new();
    for package in linked {
        let mut find = |what: String| problems.push(format!("{} {}: {what}", package.name, package.version));
        if let Some((_, reason)) = rules.banned.iter().find(|(name, _)| *name == package.name) {
            find(format!("banned: {reason}"));
        }
        if let Some(source) = package.source.as_deref().filter(|source| !CRATES_IO.contains(source)) {
            find(format!("comes from {source}, not from crates.io"));
        }
        let excepted = rules.exceptions.iter().filter(|(name, _)| *name == package.name).flat_map(|(_, allow)| allow);
        let allowed: Vec<&str> = rules.allow.iter().chain(excepted).map(String::as_str).collect();
        match package.license.as_deref().map(|license| (license, spdx::satisfied(license, &allowed))) {
            Some((_, Ok(true))) => {}
            Some((license, Ok(false))) => find(format!("its licence {license} isn't allowed by deny.toml")),
            Some((license, Err(error))) => find(format!("its licence {license} can't be read: {error}")),
            None => find("states no licence".to_owned()),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
[licenses]
allow = ["MIT", "Apache-2.0"]
exceptions = [{ crate = "maps", allow = ["MPL-2.0"] }]
[bans]
deny = [{ crate = "milter", reason = "GPL" }]
"#;

    fn problems(name: &str, license: Option<&str>, source: Option<&str>) -> Vec<String> {
        let package = Linked {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
        };
        check(&[package], &rules(TOML).expect("reads"))
    }

    #[test]
    fn what_is_allowed_passes() {
        assert!(problems("a", Some("MIT OR GPL-3.0"), Some(CRATES_IO[0])).is_empty());
        assert!(problems("ours", Some("Apache-2.0"), None).is_empty());
        assert!(problems("maps", Some("MPL-2.0+"), Some(CRATES_IO[0])).is_empty());
    }

    #[test]
    fn what_is_not_is_found() {
        assert_eq!(problems("a", Some("GPL-3.0"), None), ["a 1.0.0: its licence GPL-3.0 isn't allowed by deny.toml"]);
        assert_eq!(problems("other", Some("MPL-2.0"), None).len(), 1, "the exception is another package's");
        assert_eq!(problems("a", None, None), ["a 1.0.0: states no licence"]);
        assert_eq!(problems("milter", Some("MIT"), None), ["milter 1.0.0: banned: GPL"]);
        assert_eq!(problems("a", Some("MIT"), Some("git+https://example.com/a")).len(), 1);
    }

    #[test]
    fn the_list_itself_is_checked() {
        assert!(rules(&TOML.replace("\"MIT\"", "\"LGPL-2.1\"")).is_err());
        let twice = TOML.replace("[{ crate = \"milter\"", "[{ crate = \"milter\" }, { crate = \"milter\"");
        assert!(rules(&twice).is_err());
    }

    #[test]
    fn our_own_list_reads() {
        let rules = rules(include_str!("../../../deny.toml")).expect("deny.toml reads");
        assert!(rules.allow.iter().any(|license| license == "MIT"));
        assert!(rules.banned.len() > 5 && !rules.exceptions.is_empty());
    }
}
