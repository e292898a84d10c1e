//! A small file system of a test's own, which can be filled.
//!
//! It is an ext4 on a loop device, as real as that of any server. Where there are no loop devices, as in some containers, it is
//! a tmpfs. Only root may mount either.

use super::programs::{program, run};
use super::server::Home;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the file system may still be in use after its last user was killed: an io_uring outlives its process by a moment.
const UMOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// What the file that takes the room grows by when nothing is to be left: as much as goes, down to a block.
const STEPS: [u64; 4] = [4 << 20, 256 << 10, 16 << 10, 4 << 10];

/// A mounted file system. Declare it before the server that uses it, so that it goes after it.
pub(crate) struct SmallDisk {
    /// With the image and the directory that it is mounted on.
    folder: TempDir,
}

impl SmallDisk {
    /// Makes one of so many MiB and mounts it.
    pub(crate) fn new(mib: u64) -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root may mount: run this test as root");
        let folder = tempfile::Builder::new().prefix("ringpost-test-disk-").tempdir().expect("a folder");
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        fs::create_dir(disk.root()).expect("made");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        // Nothing is kept back for root, as whom the test runs: full is full.
        let mut format = Command::new(program("mkfs.ext4", "e2fsprogs"));
        run(format.args(["-q", "-F", "-m", "0"]).arg(&image), "").ok();
        let mount = |arguments: &[&str], what: &Path| {
            let mut command = Command::new(program("mount", "mount"));
            run(command.args(arguments).arg(what).arg(disk.root()), "")
        };
        let mounted = mount(&["-o", "loop"], &image);
        if !mounted.status.success() {
            eprintln!("no loop device here, so this runs on a tmpfs: {}", mounted.err);
            mount(&["-t", "tmpfs", "-o", &format!("size={mib}m")], Path::new("ringpost-test")).ok();
        }
        disk
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A home whose state directory is on this disk. Logs and config are not, nor is what is below [`Home::path`] otherwise.
    pub(crate) fn home(&self) -> Home {
        let home = Home::new(1);
        let state = self.root().join("state");
        fs::create_dir(&state).expect("made");
        std::os::unix::fs::symlink(&state, home.state_dir()).expect("linked");
        home
    }

    /// Bytes that are free.
    pub(crate) fn available(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.root()).expect("a file system");
        stat.f_bavail * stat.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.root().join("ballast")
    }

    /// Takes room until no more than about so much is left.
    pub(crate) fn leave(&self, bytes: u64) {
        self.take(self.available().saturating_sub(bytes)).expect("there is so much");
    }

    /// Takes all the room there is, to the last block.
    pub(crate) fn fill(&self) {
        for step in STEPS {
            while self.take(step).is_ok() {}
        }
    }

    fn take(&self, bytes: u64) -> rustix::io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file to take the room");
        let len = file.metadata().expect("a file").len();
        if bytes == 0 {
            return Ok(());
        }
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), len, bytes)
    }

    /// Gives back what was taken.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umount = |arguments: &[&str]| {
            let mut command = Command::new("umount");
            command.args(arguments).arg(self.root()).output().is_ok_and(|output| output.status.success())
        };
        let deadline = Instant::now() + UMOUNT_PATIENCE;
        while !umount(&["--quiet"]) {
            if Instant::now() >= deadline {
                // Whoever still uses it keeps it until it ends; nobody else sees it any more.
                umount(&["--lazy"]);
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
