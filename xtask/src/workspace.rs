//! Where the checkout is, which files belong to it, and what cargo knows of its crates.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Folders that never hold sources, for checkouts without git.
const SKIPPED: [&str; 3] = ["target", ".git", "ringpost-state"];

/// The checkout that xtask was built from.
pub(crate) struct Workspace {
    /// Its top folder.
    pub(crate) root: PathBuf,
}

/// One crate of the workspace, as cargo sees it.
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: String,
    /// What its manifest asks for, dev and build dependencies included.
    pub(crate) dependencies: Vec<String>,
}

impl Workspace {
    /// Finds the root from where cargo says that xtask's own manifest is, else from where it was at build time, which is
    /// another checkout where two share a target folder; a moved checkout is found from the working directory.
    pub(crate) fn here() -> Result<Self> {
        let told = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifests = told.into_iter().chain([PathBuf::from(env!("CARGO_MANIFEST_DIR"))]);
        let parents = manifests.filter_map(|folder| folder.parent().map(Path::to_path_buf));
        let working = std::env::current_dir().context("no working directory")?;
        let root = parents
            .chain(working.ancestors().map(Path::to_path_buf))
            .find(|folder| folder.join("xtask/Cargo.toml").is_file())
            .context("no workspace here: run this inside the checkout")?;
        Ok(Workspace { root })
    }

    /// A cargo command in the root, without the variables that describe xtask itself: build scripts that watch
    /// them would run again.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_directory(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => self.root.join(folder),
            None => self.root.join("target"),
        }
    }

    /// `cargo metadata` with more arguments, parsed.
    pub(crate) fn metadata(&self, arguments: &[&str]) -> Result<Value> {
        let output = self
            .cargo()
            .args(["metadata", "--format-version", "1"])
            .args(arguments)
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something else than JSON")
    }

    /// The crates of the workspace.
    pub(crate) fn packages(&self) -> Result<Vec<Package>> {
        let metadata = self.metadata(&["--no-deps"])?;
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        packages.iter().map(|package| self.package(package)).collect()
    }

    fn package(&self, package: &Value) -> Result<Package> {
        let name = package["name"].as_str().context("a package without a name")?;
        let manifest = package["manifest_path"].as_str().context("a package without a manifest")?;
        let folder = Path::new(manifest).parent().unwrap_or(Path::new(""));
        let folder = folder.strip_prefix(&self.root).unwrap_or(folder);
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        Ok(Package {
            name: name.to_owned(),
            folder: folder.to_string_lossy().into_owned(),
            dependencies: dependencies.filter_map(|d| d["name"].as_str()).map(str::to_owned).collect(),
        })
    }

    /// Every file that belongs to the checkout, relative to the root and sorted: what git tracks or would add, or,
    /// without git, what is there.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let git = Command::new("git")
            .current_dir(&self.root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output();
        let mut files = match git {
            Ok(output) if output.status.success() => {
                let listing = String::from_utf8_lossy(&output.stdout).into_owned();
                listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
            }
            _ => {
                let mut found = Vec::new();
                walk(&self.root, "", &mut found)?;
                found
            }
        };
        // A file that was deleted and not yet committed is still in git's index.
        files.retain(|path| self.root.join(path).is_file());
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// The text of a file of the checkout, if it is there and is text.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }
}

fn walk(root: &Path, folder: &str, found: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder:?}"))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if entry.file_type()?.is_dir() {
            walk(root, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
