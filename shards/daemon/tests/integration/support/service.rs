//! What a service manager does for a server, done by the test: it listens to what the server says of itself.

use super::{PATIENCE, eventually};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// The socket of sd_notify(3), and what came over it.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Mutex<Vec<String>>,
}

impl Manager {
    /// Listens in a folder, to whoever may write there.
    pub(crate) fn listen(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        Self { socket, path, heard: Mutex::default() }
    }

    /// The value for NOTIFY_SOCKET.
    pub(crate) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Everything that was said up to now, one assignment each.
    pub(crate) fn heard(&self) -> Vec<String> {
        let mut heard = self.heard.lock().expect("no test goes on after a panic");
        let mut datagram = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            heard.extend(String::from_utf8_lossy(&datagram[..length]).lines().map(str::to_owned));
        }
        heard.clone()
    }

    /// Forgets what was said.
    pub(crate) fn forget(&self) {
        self.heard();
        self.heard.lock().expect("no test goes on after a panic").clear();
    }

    /// Waits for an assignment, and gives what is assigned.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str) -> String {
        let prefix = format!("{name}=");
        let found = eventually(|| self.heard().iter().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned)));
        found.unwrap_or_else(|| panic!("no {name} within {PATIENCE:?}, but {:?}", self.heard()))
    }

    /// How often something was said.
    pub(crate) fn count(&self, assignment: &str) -> usize {
        self.heard().iter().filter(|line| *line == assignment).count()
    }
}
