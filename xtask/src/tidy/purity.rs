//! The engine's purity and the wall around glommio, read from what each file names.
//!
//! `engine/clippy.toml` guards the same by resolved types and methods; this check also sees modules, async and macros,
//! and says why.

use super::tokens::{self, Kind, Path};
use super::{Finding, Source};

/// What `engine/*` must not name: the start of a path, and what it would bring in.
const IMPURE: [(&[&str], &str); 20] = [
    (&["glommio"], "a runtime"),
    (&["tokio"], "a runtime"),
    (&["rand"], "randomness"),
    (&["getrandom"], "randomness"),
    (&["std", "fs"], "files"),
    (&["std", "process"], "processes"),
    (&["std", "thread"], "threads"),
    (&["std", "time", "Instant"], "a clock"),
    (&["std", "time", "SystemTime"], "a clock"),
    (&["std", "time", "UNIX_EPOCH"], "a clock"),
    (&["std", "time", "*"], "a clock"),
    (&["std", "io", "stdin"], "a file"),
    (&["std", "io", "stdout"], "a file"),
    (&["std", "io", "stderr"], "a file"),
    (&["std", "os"], "descriptors"),
    (&["std", "net", "*"], "sockets"),
    (&["std", "net", "TcpStream"], "sockets"),
    (&["std", "net", "TcpListener"], "sockets"),
    (&["std", "net", "UdpSocket"], "sockets"),
    (&["std", "net", "ToSocketAddrs"], "name resolution"),
];

/// Modules with pure and impure names in them: they must not be imported whole, or their names couldn't be seen.
const MIXED: [&[&str]; 2] = [&["std", "net"], &["std", "time"]];

/// The only crates below the daemon that may touch glommio's sockets and files.
const GLOMMIO_IO: [&str; 3] = ["shards/net/", "shards/store/", "shards/runtime/"];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.path.starts_with("engine/") && source.path.contains("/src/") && !source.is_test() {
        engine(source, &mut findings);
    }
    if source.is_rust() {
        wall(source, &mut findings);
    }
    findings
}

fn engine(source: &Source, findings: &mut Vec<Finding>) {
    for path in tokens::paths(&source.tokens).iter().filter(|path| !path.test) {
        // A name alone is a variable, a module of ours, or nothing that could do anything.
        let brings = IMPURE.iter().find(|(names, _)| path.names.len() > 1 && path.starts_with(names));
        let whole = MIXED.iter().any(|names| path.names == *names);
        let name = path.names.join("::");
        if let Some((_, what)) = brings {
            let message = format!("engine/ must not name {name}: it brings in {what}, which are arguments here");
            findings.push(Finding::new(&source.path, path.line, message));
        } else if whole {
            let message = format!("import what is needed of {name} by name, so that this check can see it");
            findings.push(Finding::new(&source.path, path.line, message));
        }
    }
    for token in source.tokens.iter().filter(|token| token.kind == Kind::Word && !token.test) {
        if token.text == "async" || token.text == "await" {
            let message = "engine/ has no async: machines are driven from outside";
            findings.push(Finding::new(&source.path, token.line, message));
        }
    }
}

fn wall(source: &Source, findings: &mut Vec<Finding>) {
    let shard = source.path.starts_with("shards/") && !source.path.starts_with("shards/daemon/");
    let input_output = GLOMMIO_IO.iter().any(|folder| source.path.starts_with(folder));
    for path in tokens::paths(&source.tokens).iter().filter(|path| path.starts_with(&["glommio"])) {
        let message = match refusal(path, shard, input_output) {
            Some(message) => message,
            None => continue,
        };
        findings.push(Finding::new(&source.path, path.line, message));
    }
}

fn refusal(path: &Path, shard: bool, input_output: bool) -> Option<&'static str> {
    let module = path.names.get(1).map(String::as_str);
    match module {
        _ if !shard => Some("only crates of shards/ below the daemon may name glommio"),
        // Alone it would hide what is used of it; as `x.glommio()` it is a method, and no harm either way.
        None => Some("name what is used of glommio, not glommio as a whole"),
        Some("net" | "io") if !input_output => {
            Some("only shards/net, shards/store and shards/runtime may touch glommio's sockets and files")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{lines, source};
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&source(path, text)).len()
    }

    #[test]
    fn the_engine_names_no_io() {
        let path = "engine/base/src/id.rs";
        for text in [
            "use std::net::TcpStream;",
            "use std::{fmt, net::{IpAddr, UdpSocket}};",
            "use std::net::*;",
            "use std::net;",
            "use std::time;",
            "fn f() { std::fs::read(\"x\"); }",
            "fn f() { std::thread::sleep(d) }",
            "use std::time::{Duration, Instant};",
            "fn f() -> std::time::SystemTime {}",
            "async fn f() {}",
            "fn f() { g().await }",
            "use rand::Rng;",
        ] {
            assert_eq!(count(path, text), 1, "{text}");
        }
        assert_eq!(count(path, "use glommio::timer;"), 2, "as engine and as a crate outside shards/");
    }

    #[test]
    fn values_and_words_are_fine() {
        let text = "//! Not std::fs, no tokio.\nuse std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};\n\
                    use std::time::Duration;\nfn brand(rand: u8) { let x = \"std::fs\"; } // async";
        assert_eq!(lines(&check(&source("engine/base/src/id.rs", text))), Vec::<String>::new());
    }

    #[test]
    fn tests_may_do_what_they_need() {
        let text = "#[cfg(test)] mod tests { use std::fs; async fn f() {} }";
        assert_eq!(count("engine/base/src/id.rs", text), 0);
        assert_eq!(count("engine/base/tests/all.rs", "use std::fs;"), 0);
        assert_eq!(count("engine/base/src/tests.rs", "use std::fs;"), 0);
        assert_eq!(count("shards/net/src/a.rs", "use std::fs;"), 0);
    }

    #[test]
    fn glommio_stays_behind_its_wall() {
        for (path, text, expected) in [
            ("shards/net/src/a.rs", "use glommio::net::TcpStream;", 0),
            ("shards/serve/src/a.rs", "use glommio::timer::Timer;", 0),
            ("shards/serve/src/a.rs", "use glommio::{net::TcpStream, io::DmaFile};", 2),
            ("shards/daemon/src/a.rs", "use glommio::timer::Timer;", 1),
            ("loadtest/src/a.rs", "fn f() { glommio::yield_if_needed() }", 1),
            ("shards/runtime/src/a.rs", "pub use glommio;", 1),
        ] {
            assert_eq!(count(path, text), expected, "{path}: {text}");
        }
    }
}
