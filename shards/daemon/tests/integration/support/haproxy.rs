//! A real HAProxy in front of a server.

use super::net::{free_port, own_address};
use super::programs::{Guarded, program};
use super::{eventually, wait_until};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A running HAProxy, stopped when this value goes.
pub(crate) struct Haproxy {
    folder: TempDir,
    _child: Guarded,
    /// Where its clients connect.
    pub(crate) address: SocketAddr,
}

impl Haproxy {
    /// Starts one that hands every connection on to `next`. `options` are those of its line `server`, `backend` further
    /// lines of that section.
    pub(crate) fn start(next: SocketAddr, options: &str, backend: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("ringpost-test-").tempdir().expect("a folder");
        let address = free_port(own_address());
        let config = folder.path().join("haproxy.cfg");
        let stats = folder.path().join("stats").display().to_string();
        let text = format!(
            "global\n  stats socket {stats} mode 600\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  \
             timeout server 60s\nlisten mail\n  bind {address}\n{backend}\n  server ringpost {next} {options}\n"
        );
        fs::write(&config, text).expect("written");
        let output = File::create(folder.path().join("log")).expect("a file");
        let mut command = Command::new(program("haproxy", "haproxy"));
        command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a copy")).stderr(output);
        let haproxy = Self { _child: Guarded::spawn(&mut command), folder, address };
        let up = eventually(|| TcpStream::connect(address).ok());
        assert!(up.is_some(), "HAProxy does not answer; its log:\n{}", haproxy.log());
        haproxy
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("stats")
    }

    /// Waits until a health check of the server has come out like this, as `L7OK`.
    pub(crate) fn wait_for_check(&self, status: &str) {
        let fields = || -> Option<String> {
            let mut stream = UnixStream::connect(self.socket()).ok()?;
            stream.write_all(b"show stat\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            text.lines().find(|line| line.starts_with("mail,ringpost,")).map(str::to_owned)
        };
        wait_until(&format!("a health check with {status}"), || {
            fields().is_some_and(|line| line.split(',').any(|field| field == status))
        });
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of HAProxy:\n{}", self.log());
        }
    }
}
