//! The unix socket: made, guarded, taken away.
//!
//! Invariants: the socket's file is for its owner alone from the moment it exists, unless the config names others who may, by
//! their credentials. Only a socket that nobody answers on is replaced, and only a socket of our own is removed; one that
//! another process handed over is ours from [`SocketFile::own`] on. It refuses to make directories.

use crate::Error;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Bytes of a socket's path: `sun_path` of unix(7), less the zero at its end.
pub(crate) const PATH_BYTES_MAX: usize = 107;

/// Clients that the kernel keeps waiting: they are people, and scripts.
const BACKLOG: i32 = 64;

/// The mode of the socket's file, and its mode where credentials decide who may.
const MODE: u32 = 0o600;
const MODE_OPEN: u32 = 0o666;

/// The file of a listening socket; removed when this is dropped, if it is still the one that was made.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a server that was started meanwhile may have put its own in the place.
    identity: (u64, u64),
    /// Whether it is this process's to open up and to remove.
    owned: bool,
    /// Whether it is to be open to everybody.
    open: bool,
}

impl SocketFile {
    /// Makes the socket, for its owner alone or for everybody, and listens.
    pub(crate) fn listen(path: &Path, open: bool) -> Result<(Self, UnixListener), Error> {
        let length = path.as_os_str().as_bytes().len();
        if length > PATH_BYTES_MAX {
            return Err(Error::SocketPath { path: path.to_owned(), length, most: PATH_BYTES_MAX });
        }
        let failed = |source: io::Error| Error::Socket { path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
        clear(path, &address)?;
        let socket = stream_socket().map_err(failed)?;
        // Linux takes the file's mode from the socket's own at bind, less the umask: no moment is left at which the file
        // would be open to others.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
        bind(&socket, &address).map_err(|error| failed(error.into()))?;
        let file = Self::at(path, true, open).map_err(failed)?;
        file.set_mode().map_err(failed)?;
        listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
        Ok((file, UnixListener::from(socket)))
    }

    /// The file of a socket that listens already and was handed over: still another's, and as it was.
    pub(crate) fn take_over(path: &Path, open: bool) -> Result<Self, Error> {
        Self::at(path, false, open).map_err(|source| Error::Socket { path: path.to_owned(), source })
    }

    fn at(path: &Path, owned: bool, open: bool) -> io::Result<Self> {
        let there = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (there.dev(), there.ino()), owned, open })
    }

    /// From here on the file is this process's.
    pub(crate) fn own(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.owned, true) || !self.is_there() {
            return Ok(());
        }
        self.set_mode()
    }

    /// Opens the file up to everybody, or to its owner alone.
    fn set_mode(&self) -> io::Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(if self.open { MODE_OPEN } else { MODE }))
    }

    /// Leaves the file to the process that answers on it; one on which nobody answers any more is removed. To be called once
    /// the socket is closed here.
    pub(crate) fn leave(mut self) {
        self.owned &= SocketAddrUnix::new(&self.path).is_ok_and(|address| is_deserted(&address));
    }

    /// Whether the file at the path is still the one that this is about.
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.identity)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another's, or gone already.
        if !self.owned || !self.is_there() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "admin socket can't be removed");
        }
    }
}

/// Whether no process listens at an address any more.
fn is_deserted(address: &SocketAddrUnix) -> bool {
    stream_socket().is_ok_and(|probe| connect(&probe, address) == Err(rustix::io::Errno::CONNREFUSED))
}

/// Whether a listening socket is the one at this path.
pub(crate) fn is_at(listener: &UnixListener, path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|there| (there.dev(), there.ino())).ok();
    let address = listener.local_addr().ok();
    let own = address.as_ref().and_then(|address| address.as_pathname()).and_then(identity);
    own.is_some() && own == identity(path)
}

/// Removes the socket that a server left behind which did not end in order.
fn clear(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(Error::SocketPlace(path.to_owned())),
        Ok(_) => {}
    }
    let probe = stream_socket().map_err(failed)?;
    match connect(&probe, address) {
        // Without waiting: a full backlog is somebody's too.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(Error::SocketInUse(path.to_owned())),
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error.into())),
    }
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}
