//! The config file of a test, put together from parts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which cores the server runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cores {
    /// One, not always the same, so that tests side by side share the machine.
    One,
    /// This many.
    Count(usize),
}

#[derive(Clone, Debug)]
struct Listener {
    name: String,
    tls: String,
    /// Further lines.
    lines: Vec<String>,
}

#[derive(Clone, Debug)]
struct Domain {
    name: String,
    recipients: String,
    path: String,
    /// Further lines.
    lines: Vec<String>,
}

/// A config file to be. The default: one core, one listener with STARTTLS, and a Maildir for every recipient of
/// example.com below `mail` in the state directory.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    cores: Cores,
    listeners: Vec<Listener>,
    domains: Vec<Domain>,
    /// Lines by section.
    sections: BTreeMap<String, Vec<String>>,
    /// Entries of arrays of tables, as text.
    entries: Vec<String>,
    lone_core: usize,
    /// Faults on purpose, as `point=argument`.
    faults: Vec<String>,
    /// What the server is started by, as `setpriv` with its options.
    wrapper: Vec<String>,
    /// Environment variables.
    variables: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let lone_core = STARTED.fetch_add(1, Ordering::Relaxed) % cpus;
        let settings = Self {
            cores: Cores::One,
            listeners: Vec::new(),
            domains: Vec::new(),
            sections: BTreeMap::new(),
            entries: Vec::new(),
            lone_core,
            faults: Vec::new(),
            wrapper: Vec::new(),
            variables: Vec::new(),
        };
        // Segments are written with zeros before they are used: small ones spare the disk of whoever runs the tests.
        settings
            .set("server", "hostname = \"mx.example.com\"")
            .set("spool", "segment_size = \"2MiB\"")
            .set("spool", "batch_max = \"1MiB\"")
            .set("log", "format = \"json\"")
    }
}

impl Settings {
    /// On so many cores.
    pub(crate) fn cores(mut self, count: usize) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(count <= cpus, "this test needs {count} cores, and the machine has {cpus}");
        self.cores = Cores::Count(count);
        self
    }

    /// Adds a line to a section; a line with the same key takes the place of an earlier one.
    pub(crate) fn set(mut self, section: &str, line: &str) -> Self {
        set_line(self.sections.entry(section.to_owned()).or_default(), line);
        self
    }

    /// Has the server meet a fault on purpose, from its next start on.
    pub(crate) fn fault(mut self, point: &str, argument: &str) -> Self {
        self.faults.push(format!("{point}={argument}"));
        self
    }

    /// Takes the faults back.
    pub(crate) fn without_faults(mut self) -> Self {
        self.faults.clear();
        self
    }

    /// The faults as the server reads them from its environment; nothing if there are none.
    pub(crate) fn faults(&self) -> Option<String> {
        (!self.faults.is_empty()).then(|| self.faults.join(","))
    }

    /// Has another program start the server, which becomes it: the program with its arguments.
    pub(crate) fn under(mut self, program: &[&str]) -> Self {
        self.wrapper.extend(program.iter().map(|&word| word.to_owned()));
        self
    }

    /// Gives the server an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The start of the binary as these settings have it.
    pub(crate) fn command(&self, binary: &str) -> Command {
        let words: Vec<&str> = self.wrapper.iter().map(String::as_str).chain([binary]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Adds an entry to an array of tables, such as `screen.list`.
    pub(crate) fn entry(mut self, array: &str, lines: &[&str]) -> Self {
        self.entries.push(format!("[[{array}]]\n{}\n", lines.join("\n")));
        self
    }

    /// Adds a target; one of the same name takes the place of an earlier one.
    pub(crate) fn target(self, name: &str, kind: &str, lines: &[&str]) -> Self {
        let kind = format!("kind = \"{kind}\"");
        self.named_entry("target", name, &[&[kind.as_str()], lines].concat())
    }

    /// Adds a domain in which everybody exists and whose mail goes to a target, or several: `target` is TOML. One of the same
    /// name takes the place of an earlier one.
    pub(crate) fn domain_to(self, name: &str, target: &str, lines: &[&str]) -> Self {
        let target = format!("target = {target}");
        self.named_entry("domain", name, &[&[target.as_str()], lines].concat())
    }

    fn named_entry(mut self, array: &str, name: &str, lines: &[&str]) -> Self {
        let name = format!("name = \"{name}\"");
        let start = format!("[[{array}]]\n{name}\n");
        self.entries.retain(|entry| !entry.starts_with(&start));
        self.entry(array, &[&[name.as_str()], lines].concat())
    }

    /// Takes all entries of an array of tables out.
    pub(crate) fn without(mut self, array: &str) -> Self {
        let start = format!("[[{array}]]\n");
        self.entries.retain(|entry| !entry.starts_with(&start));
        self
    }

    /// Adds a listener, on an address of its own.
    pub(crate) fn listener(mut self, name: &str, tls: &str) -> Self {
        self.listeners.push(Listener { name: name.to_owned(), tls: tls.to_owned(), lines: Vec::new() });
        self
    }

    /// Adds a line to the last listener, the usual one if there is no other.
    pub(crate) fn listener_line(mut self, line: &str) -> Self {
        if self.listeners.is_empty() {
            self = self.listener("mx", "starttls");
        }
        let last = self.listeners.last_mut().expect("there is one");
        set_line(&mut last.lines, line);
        self
    }

    /// Adds a domain with a Maildir target of its own. `recipients` is TOML: `"any"` with its quotes, or a list.
    pub(crate) fn domain(mut self, name: &str, recipients: &str, path: &str) -> Self {
        let (name, recipients, path) = (name.to_owned(), recipients.to_owned(), path.to_owned());
        self.domains.push(Domain { name, recipients, path, lines: Vec::new() });
        self
    }

    /// Takes the domains out that were added, with their targets.
    pub(crate) fn without_domains(mut self) -> Self {
        self.domains.clear();
        self
    }

    /// Adds a line to the last domain.
    pub(crate) fn domain_line(mut self, line: &str) -> Self {
        let last = self.domains.last_mut().expect("there is one");
        set_line(&mut last.lines, line);
        self
    }

    /// How many listeners there are.
    pub(crate) fn listener_count(&self) -> usize {
        self.listeners.len().max(1)
    }

    /// How many sockets listen for mail when the server is up.
    pub(crate) fn socket_count(&self) -> usize {
        let shards = match self.cores {
            Cores::One => 1,
            Cores::Count(count) => count,
        };
        shards * self.listener_count()
    }

    /// The file. `smtp` has an address for each listener.
    pub(crate) fn render(&self, state_dir: &Path, smtp: &[SocketAddr], admin: SocketAddr) -> String {
        let mut out = String::new();
        let state = state_dir.display();
        let cores = match self.cores {
            Cores::One => format!("use = [{}]", self.lone_core),
            Cores::Count(count) => format!("use = {count}"),
        };
        let mut sections = self.sections.clone();
        let mut first = |section: &str, line: String| sections.entry(section.to_owned()).or_default().insert(0, line);
        first("server", format!("state_dir = \"{state}\""));
        first("admin", format!("listen = \"{admin}\""));
        first("cores", cores);
        for (section, lines) in &sections {
            put(&mut out, format_args!("[{section}]\n{}\n", lines.join("\n")));
        }
        let usual = [Listener { name: "mx".into(), tls: "starttls".into(), lines: Vec::new() }];
        let listeners = if self.listeners.is_empty() { usual.as_slice() } else { &self.listeners };
        for (Listener { name, tls, lines }, address) in listeners.iter().zip(smtp) {
            put(&mut out, format_args!("[[listener]]\nname = \"{name}\"\n{}\n", lines.join("\n")));
            put(&mut out, format_args!("address = [\"{address}\"]\ntls = \"{tls}\"\n"));
        }
        for entry in &self.entries {
            out.push_str(entry);
        }
        for Domain { name, recipients, path, lines } in &self.domains {
            put(&mut out, format_args!("[[domain]]\nname = \"{name}\"\nrecipients = {recipients}\n"));
            put(&mut out, format_args!("target = \"{name}\"\n{}\n", lines.join("\n")));
            put(&mut out, format_args!("[[target]]\nname = \"{name}\"\nkind = \"maildir\"\npath = \"{path}\"\n"));
        }
        out
    }
}

/// Adds a line; one with the same key takes the place of an earlier one.
fn set_line(lines: &mut Vec<String>, line: &str) {
    let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
    lines.retain(|old| key(old) != key(line));
    lines.push(line.to_owned());
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = out.write_fmt(text);
}
