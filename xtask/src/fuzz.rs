//! `cargo xtask fuzz`: builds the fuzz targets of `engine/fuzz` and runs each of them for a while.
//!
//! Neither cargo-fuzz nor a nightly compiler is needed: coverage is compiled in with the flags that cargo-fuzz gives,
//! which the stable compiler has. There is no address sanitizer, which it hasn't: what is fuzzed is safe Rust, and what
//! goes wrong there panics. All that a run makes is under `target/fuzz`, the corpus too, which the next run begins with.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use toml_edit::DocumentMut;

use crate::process;
use crate::workspace::Workspace;

/// Where the targets and their seeds are.
const FOLDER: &str = "engine/fuzz";

/// What cargo knows of them. They are a workspace of their own.
pub(crate) const MANIFEST: &str = "engine/fuzz/Cargo.toml";

/// What cargo-fuzz gives the compiler, for libFuzzer to see which code an input reaches and what it is compared with.
const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Clink-dead-code",
    "-Ccodegen-units=1",
];

/// An input that takes longer is a finding. The slowest take milliseconds.
const INPUT_SECONDS_MAX: u32 = 20;

/// A target that takes more memory is a finding.
const MEMORY_MIB_MAX: u32 = 1024;

/// Seconds for each target when it is only to be seen that all of them run and the seeds pass.
const SMOKE_SECONDS: u64 = 5;

/// Lines of a target's log that are shown when it finds something.
const LOG_LINES_SHOWN: usize = 16;

/// What can be asked of the run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The targets to run; all of them if none is named
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only build them, and say where they are
    #[arg(long)]
    build: bool,
}

/// Builds and runs what is asked for.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let all = targets(workspace)?;
    if let Some(unknown) = options.targets.iter().find(|name| !all.contains(name)) {
        bail!("no target {unknown}; there are {}", all.join(", "));
    }
    let folder = build(workspace)?;
    if options.build {
        println!("{}", folder.display());
        return Ok(());
    }
    let chosen = if options.targets.is_empty() { all } else { options.targets.clone() };
    run_targets(workspace, &folder, &chosen, options.seconds)
}

/// Clippy on the targets, and each of them for a few seconds.
pub(crate) fn smoke(workspace: &Workspace) -> Result<()> {
    let all = targets(workspace)?;
    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--all-targets", "--manifest-path", MANIFEST, "--target-dir"]).arg(folder(workspace));
    process::run(clippy.args(["--", "-D", "warnings"]))?;
    let binaries = build(workspace)?;
    run_targets(workspace, &binaries, &all, SMOKE_SECONDS)
}

/// Checks the format of the targets, which aren't of the workspace.
pub(crate) fn is_formatted(workspace: &Workspace) -> Result<bool> {
    process::succeeds(workspace.cargo().args(["fmt", "--check", "--manifest-path", MANIFEST]))
}

/// Where all that is made goes.
fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target_directory().join("fuzz")
}

/// The names of the targets, from their manifest.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    names(&workspace.text(MANIFEST).with_context(|| format!("{MANIFEST} is missing"))?)
}

fn names(manifest: &str) -> Result<Vec<String>> {
    let manifest: DocumentMut = manifest.parse().context("the manifest of the fuzz targets")?;
    let bins = manifest.get("bin").and_then(|bins| bins.as_array_of_tables()).context("no fuzz targets")?;
    let names = bins.iter().filter_map(|bin| bin.get("name").and_then(|name| name.as_str()));
    Ok(names.map(str::to_owned).collect())
}

/// Builds all targets; gives the folder that they are in.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let version = process::output_of(Command::new("rustc").arg("-vV")).context("rustc doesn't run")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let target_directory = folder(workspace);
    let own = std::env::var("RUSTFLAGS").unwrap_or_default();
    let flags: Vec<&str> = own.split_whitespace().chain(FLAGS).collect();
    let mut command = workspace.cargo();
    command
        .args(["build", "--release", "--bins", "--manifest-path", MANIFEST])
        // With a target named, build scripts are compiled without these flags, which they couldn't be linked with.
        .args(["--target", host, "--target-dir"])
        .arg(&target_directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    process::run(&mut command)?;
    Ok(target_directory.join(host).join("release"))
}

/// Runs the targets, as many at a time as there are cores.
fn run_targets(workspace: &Workspace, binaries: &Path, names: &[String], seconds: u64) -> Result<()> {
    let width = std::thread::available_parallelism().map_or(1, usize::from).min(names.len());
    let (next, findings) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                let target = Target { workspace, binaries, name };
                if !target.run(seconds)? {
                    findings.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..width).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a fuzz run panicked")))
    })?;
    match findings.into_inner() {
        0 => Ok(()),
        count => bail!("fuzz: {count} of {} targets found something", names.len()),
    }
}

/// A target to be run.
struct Target<'a> {
    workspace: &'a Workspace,
    binaries: &'a Path,
    name: &'a str,
}

impl Target<'_> {
    /// Runs it; false when it finds something.
    fn run(&self, seconds: u64) -> Result<bool> {
        let folder = |kind: &str| folder(self.workspace).join(kind);
        let (corpus, artifacts) = (folder("corpus").join(self.name), folder("artifacts").join(self.name));
        for made in [&corpus, &artifacts, &folder("logs")] {
            fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let log = folder("logs").join(format!("{}.log", self.name));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let own = self.workspace.root.join(FOLDER);
        let dictionary = own.join("dictionaries").join(format!("{}.dict", self.name));
        let mut command = Command::new(self.binaries.join(self.name));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args([format!("-timeout={INPUT_SECONDS_MAX}"), format!("-rss_limit_mb={MEMORY_MIB_MAX}")])
            .arg("-print_final_stats=1");
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command.arg(corpus).arg(own.join("seeds").join(self.name));
        command.stdout(file.try_clone()?).stderr(file);
        let ok = process::succeeds(&mut command)?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let sum = Sum::of(&text);
        let name = self.name;
        if ok && sum.counters > 0 {
            println!("{name:>10}  {sum}");
        } else {
            self.report(&text, &log);
        }
        Ok(ok && sum.counters > 0)
    }

    /// Says what was found, where it is, and how to see it again.
    fn report(&self, log: &str, path: &Path) {
        let name = self.name;
        let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with('#')).collect();
        // A panic comes with its words first; a hang or too much memory is told at the end.
        let from = lines.iter().position(|line| line.contains(" panicked at "));
        let from = from.unwrap_or(lines.len().saturating_sub(LOG_LINES_SHOWN));
        let shown = lines.iter().skip(from).take(LOG_LINES_SHOWN);
        let shown = shown.fold(String::new(), |text, line| text + "    " + line + "\n");
        // In one piece: others are running.
        let mut text = format!("{name:>10}  FOUND SOMETHING, the whole log is {}\n{shown}", path.display());
        for input in inputs(log) {
            let binary = self.binaries.join(name);
            text += &format!("  again: {} {input}\n  once mended, keep it: {FOLDER}/seeds/{name}/\n", binary.display());
        }
        println!("{text}");
    }
}

/// The inputs that libFuzzer wrote down.
fn inputs(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path.trim()))
}

/// What a run did, from its log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    /// Places in the code that are counted. Without any the flags had no effect.
    counters: u64,
    /// Inputs tried.
    inputs: u64,
    /// Places reached.
    reached: u64,
    /// Inputs kept.
    kept: u64,
}

impl Sum {
    fn of(log: &str) -> Self {
        let mut sum = Self::default();
        for line in log.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| {
                let digits =
                    words.get(at).map_or("", |word| word.split(['/', '(', ',']).find(|s| !s.is_empty()).unwrap_or(""));
                digits.parse().unwrap_or(0)
            };
            let behind = |label: &str| words.iter().position(|word| *word == label).map_or(0, |at| number(at + 1));
            if line.contains("inline 8-bit counters)") {
                sum.counters = behind("modules");
            } else if line.starts_with("stat::number_of_executed_units:") {
                sum.inputs = number(1);
            } else if words.contains(&"cov:") {
                (sum.reached, sum.kept) = (behind("cov:"), behind("corp:"));
            }
        }
        sum
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counters, inputs, reached, kept } = self;
        write!(formatter, "{inputs:>9} inputs, {reached} of {counters} places reached, {kept} inputs kept")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_seeds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("reads");
        let names = names(&manifest).expect("names");
        assert!(names.len() > 5);
        for name in names {
            assert!(folder.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
            let seeds = fs::read_dir(folder.join("seeds").join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(seeds.count() > 0, "{name}");
        }
    }

    #[test]
    fn a_log_is_read() {
        let log = "INFO: Loaded 1 modules   (4242 inline 8-bit counters): 4242 [0x1, 0x2), \n\
                   #2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                   #9000\tDONE   cov: 812 ft: 1500 corp: 77/9Kb lim: 4096 exec/s: 1800 rss: 40Mb\n\
                   ###### Recommended dictionary. ######\n\
                   stat::number_of_executed_units: 9000\n";
        assert_eq!(Sum::of(log), Sum { counters: 4242, inputs: 9000, reached: 812, kept: 77 });
        let log = "x\nartifact_prefix='t/'; Test unit written to t/crash-0a1b\nBase64: eA==\n";
        assert_eq!(inputs(log).collect::<Vec<_>>(), ["t/crash-0a1b"]);
    }
}
