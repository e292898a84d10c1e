//! Folders and ports for one run, gone after it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process;

/// A folder that is removed when this value goes.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes one below `parent`, or below the system's folder for temporary files.
    pub(crate) fn new(parent: Option<&Path>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ringpost-xtask-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        process::remember_folder(&path);
        Ok(Folder(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if KEEPING.load(Ordering::Relaxed) {
            return;
        }
        let _ = std::fs::remove_dir_all(&self.0);
        process::forget_folder(&self.0);
    }
}

static KEEPING: AtomicBool = AtomicBool::new(false);

/// While this lives, folders stay, and all go with it. For measuring: ext4 looks at each inode freed in the last seconds
/// before it gives out a new one, so that files removed after one run would make those of the next one dear.
pub(crate) struct Keep;

impl Keep {
    pub(crate) fn folders() -> Self {
        KEEPING.store(true, Ordering::Relaxed);
        Self
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        KEEPING.store(false, Ordering::Relaxed);
        process::remove_folders();
    }
}

/// A loopback address with a port that nothing listens on now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_their_value() {
        let folder = Folder::new(None).expect("is made");
        let path = folder.path().to_path_buf();
        std::fs::write(path.join("file"), "x").expect("is written");
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn addresses_are_loopback() {
        assert!(free_address().expect("is free").ip().is_loopback());
    }
}
