//! Names for addresses, from the files that the process is made of.
//!
//! The program is read through `/proc/self/exe`, which is the one that runs also when another has been installed in its
//! place. Functions that the compiler has put into others are told apart again. Where a file says nothing, the address and
//! the file are told.

use addr2line::Loader;
use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt;

/// Where the program of the process is.
const PROGRAM: &str = "/proc/self/exe";

/// A file in the memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// What is added to the file's own addresses.
    pub(crate) base: usize,
    /// The addresses that it takes up.
    pub(crate) start: usize,
    /// The first one after.
    pub(crate) end: usize,
    /// Where the file is.
    pub(crate) path: String,
}

impl Module {
    /// The files of this process, the program first.
    pub(crate) fn of_this_process() -> Vec<Self> {
        let mut modules: Vec<Self> = Vec::new();
        // SAFETY: `note` is called with the pointer given here, while it lives, and with nothing else by nobody else.
        unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut modules).cast()) };
        modules
    }
}

/// Notes one file of the process.
unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, modules: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the C library gives a record that is whole for the time of the call, and the pointer handed to it.
    let (info, modules) = unsafe { (&*info, &mut *modules.cast::<Vec<Module>>()) };
    // SAFETY: the record says how many headers there are, and they stay while the file is loaded.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    // SAFETY: a name ends with a zero.
    let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy();
    let base = info.dlpi_addr as usize;
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let start = loaded().map(|header| base + header.p_vaddr as usize).min();
    let end = loaded().map(|header| base + (header.p_vaddr + header.p_memsz) as usize).max();
    if let (Some(start), Some(end)) = (start, end) {
        let path = if modules.is_empty() { PROGRAM.to_owned() } else { name.into_owned() };
        modules.push(Module { base, start, end, path });
    }
    0
}

/// A function on a stack, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its path, without the hash that the compiler adds.
    pub(crate) name: String,
    /// File and line, where known.
    pub(crate) place: Option<String>,
}

impl Function {
    /// The name by which samples are counted. A closure within another function has none that would tell it from others of
    /// its file; its line does.
    pub(crate) fn counted_as(&self) -> String {
        let line = self.place.as_ref().and_then(|place| place.rsplit_once(':')).map(|(_, line)| line);
        match line.filter(|_| self.name.ends_with('}') && self.name.contains('#')) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} at {place}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Looks names up, and remembers them.
pub(crate) struct Symbols {
    modules: Vec<Module>,
    /// What has been read of each module's file; nothing where it could not be.
    files: HashMap<usize, Option<Loader>>,
    known: HashMap<(usize, bool), Vec<Function>>,
}

impl Symbols {
    /// For addresses of this process.
    pub(crate) fn of_this_process() -> Self {
        Self::new(Module::of_this_process())
    }

    /// For addresses of a process with these files, whose program is ours.
    pub(crate) fn new(modules: Vec<Module>) -> Self {
        Self { modules, files: HashMap::new(), known: HashMap::new() }
    }

    /// The functions at an address, the innermost first: several where the compiler has put one into another. `exact`: the
    /// thread is there; else it comes back there, and the call is just before.
    pub(crate) fn functions(&mut self, address: usize, exact: bool) -> &[Function] {
        if !self.known.contains_key(&(address, exact)) {
            let functions = self.look_up(address, exact);
            self.known.insert((address, exact), functions);
        }
        &self.known[&(address, exact)]
    }

    fn look_up(&mut self, address: usize, exact: bool) -> Vec<Function> {
        let is_in = |module: &Module| (module.start..module.end).contains(&address);
        let Some(at) = self.modules.iter().position(is_in) else {
            return vec![Function { name: format!("{address:#x}"), place: None }];
        };
        let module = &self.modules[at];
        let probe = (address - module.base) as u64 - u64::from(!exact);
        let file = self.files.entry(at).or_insert_with(|| Loader::new(&module.path).ok());
        let functions = file.as_ref().map(|file| named(file, probe)).unwrap_or_default();
        if functions.is_empty() {
            let name = format!("{:#x} of {}", address - module.base, file_name(&module.path));
            return vec![Function { name, place: None }];
        }
        functions
    }
}

/// What the file says of an address: by its line tables, else by its table of symbols.
fn named(file: &Loader, probe: u64) -> Vec<Function> {
    let mut functions = Vec::new();
    if let Ok(mut frames) = file.find_frames(probe) {
        while let Ok(Some(frame)) = frames.next() {
            let location = frame.location.as_ref();
            let path = location.and_then(|location| Some(shortened(location.file?)));
            let line = location.and_then(|location| location.line);
            let name = frame.function.as_ref().and_then(|function| Some(full_name(&function.raw_name().ok()?, path)));
            let place = path.map(|path| line.map_or_else(|| path.to_owned(), |line| format!("{path}:{line}")));
            functions.push((name, place));
        }
    }
    if functions.is_empty() {
        functions.push((None, None));
    }
    // The outermost is the one that the table of symbols names, and there with its path.
    if let (Some(symbol), Some(last)) = (file.find_symbol(probe), functions.last_mut()) {
        last.0 = Some(demangled(symbol));
    }
    functions.into_iter().filter_map(|(name, place)| Some(Function { name: name?, place })).collect()
}

/// The name as it is in the source, without the hash.
fn demangled(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// The name of a function that is in another. Line tables have it without its path, but with all its types, which may
/// be long: these go, and the path comes from that of the file.
fn full_name(name: &str, path: Option<&str>) -> String {
    if name.starts_with("_R") || name.starts_with("_ZN") {
        return demangled(name);
    }
    let short = match name.find('<') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    };
    path.and_then(module).map_or_else(|| short.to_owned(), |module| format!("{module}::{short}"))
}

/// The module whose source is in a file: `core::future::future` for `library/core/src/future/future.rs`.
fn module(path: &str) -> Option<String> {
    let (package, file) = path.split_once("/src/")?;
    let folder = file_name(package);
    let version = folder.match_indices('-').find(|(at, _)| folder[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    let name = version.map_or(folder, |(at, _)| &folder[..at]).replace('-', "_");
    let krate = match package.split_once('/') {
        Some(("engine" | "shards", "daemon")) => "ringpost".to_owned(),
        Some(("engine" | "shards", _)) => format!("ringpost_{name}"),
        _ => name,
    };
    let file = file.strip_suffix(".rs")?;
    let file = file.strip_suffix("/mod").unwrap_or(file);
    Some(match file {
        "lib" | "main" => krate,
        file => format!("{krate}::{}", file.replace('/', "::")),
    })
}

/// A path from where it says something: without the folders of the compiler, of the packages and of our own sources.
fn shortened(path: &str) -> &str {
    let after = |mark: &str, depth: usize| {
        let rest = &path[path.find(mark)? + mark.len()..];
        rest.splitn(depth + 1, '/').nth(depth)
    };
    let ours = || path.strip_prefix(env!("CARGO_MANIFEST_DIR").strip_suffix("shards/runtime")?);
    after("/registry/src/", 1).or_else(|| after("/rustc/", 1)).or_else(ours).unwrap_or(path)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_the_folders_that_say_nothing() {
        let check = |path: &str, expected: &str| assert_eq!(shortened(path), expected);
        check(
            "/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/slab-0.4.1/src/lib.rs",
            "slab-0.4.1/src/lib.rs",
        );
        check("/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/lib.rs", "library/std/src/lib.rs");
        check(concat!(env!("CARGO_MANIFEST_DIR"), "/src/shard.rs"), "shards/runtime/src/shard.rs");
        check("/rustc/", "/rustc/");
        check("", "");
    }

    #[test]
    fn a_function_within_another_is_named_by_its_file() {
        let check = |name: &str, path: &str, expected: &str| assert_eq!(full_name(name, Some(path)), expected);
        check(
            "{async_fn#0}<(), Pin<Box<T>>>",
            "shards/runtime/src/contain.rs",
            "ringpost_runtime::contain::{async_fn#0}",
        );
        check("poll<F>", "library/core/src/future/future.rs", "core::future::future::poll");
        check("run", "glommio-ng-0.12.0/src/executor/mod.rs", "glommio_ng::executor::run");
        check("main", "shards/daemon/src/main.rs", "ringpost::main");
        check("_ZN4core3fmt5write17h0123456789abcdefE", "library/core/src/fmt/mod.rs", "core::fmt::write");
        check("odd", "somewhere.c", "odd");
        assert_eq!(full_name("<T as U>::f", None), "<T as U>::f");
    }

    #[test]
    fn an_address_of_ours_has_its_name_and_an_unknown_one_is_told_as_it_is() {
        let mut symbols = Symbols::of_this_process();
        let address = file_name as fn(&str) -> &str as usize;
        let functions = symbols.functions(address, true).to_vec();
        assert!(functions.iter().any(|function| function.name.ends_with("symbols::file_name")), "{functions:?}");
        assert_eq!(symbols.functions(1, true)[0].to_string(), "0x1");
    }
}
