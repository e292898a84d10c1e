//! A process that crashes tells all about it and dies by the signal.
//!
//! Each case is a process of its own: this program again, told by its arguments what to do wrong. Without the test harness,
//! since it has to be the program that the crash handler starts for the names as well.

mod support;

use ringpost_metrics::{Counter, Gauge};
use ringpost_runtime::{crash, sleep, spawn};
use std::fs;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::shard;

/// What a process does wrong, the signal it dies by, and what its report says of it.
struct Case {
    name: &'static str,
    wrong: fn(),
    signal: libc::c_int,
    says: &'static [&'static str],
}

const CASES: [Case; 9] = [
    Case {
        name: "segv",
        wrong: read_nowhere,
        signal: libc::SIGSEGV,
        says: &["SIGSEGV at address 0x10", "crashes::read_nowhere"],
    },
    Case {
        name: "bus",
        wrong: read_behind_the_end,
        signal: libc::SIGBUS,
        says: &["SIGBUS at", "crashes::read_behind_the_end"],
    },
    Case { name: "fpe", wrong: divide_by_zero, signal: libc::SIGFPE, says: &["SIGFPE", "crashes::divide_by_zero"] },
    Case { name: "ill", wrong: run_what_is_none, signal: libc::SIGILL, says: &["SIGILL", "crashes::run_what_is_none"] },
    Case { name: "abort", wrong: abort, signal: libc::SIGABRT, says: &["SIGABRT", "crashes::abort"] },
    Case {
        name: "overflow",
        wrong: recurse,
        signal: libc::SIGSEGV,
        says: &["SIGSEGV", "it has overflowed", "crashes::deeper"],
    },
    Case {
        name: "panic",
        wrong: || panic_where_it_must_not(),
        signal: libc::SIGABRT,
        says: &["SIGABRT", "crashes::panic_where_it_must_not"],
    },
    Case { name: "sent", wrong: send, signal: libc::SIGSEGV, says: &["SIGSEGV, sent by process", "crashes::send"] },
    Case {
        name: "unread",
        wrong: read_nowhere,
        signal: libc::SIGSEGV,
        says: &["SIGSEGV at address 0x10", "crashes::read_nowhere"],
    },
];

#[inline(never)]
fn read_nowhere() {
    // SAFETY: there is none: the process dies of it, as it is meant to.
    black_box(unsafe { std::ptr::without_provenance::<u8>(16).read_volatile() });
}

#[inline(never)]
fn read_behind_the_end() {
    let file = tempfile::tempfile().expect("a file");
    // SAFETY: there is none for the reading: the mapping's page has no file behind it, and the process dies of it.
    unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        assert_ne!(page, libc::MAP_FAILED);
        black_box(page.cast::<u8>().read_volatile());
    }
}

#[inline(never)]
fn divide_by_zero() {
    // SAFETY: there is none: the processor refuses, and the process dies of it. Others than this one don't refuse.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("xor ecx, ecx", "mov eax, 1", "xor edx, edx", "div ecx", out("ecx") _, out("eax") _, out("edx") _);
        #[cfg(not(target_arch = "x86_64"))]
        libc::raise(libc::SIGFPE);
    }
    black_box(());
}

#[inline(never)]
fn run_what_is_none() {
    // SAFETY: there is none: it is no instruction, and the process dies of it.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("ud2");
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("udf #0");
    }
    black_box(());
}

#[inline(never)]
fn abort() {
    black_box(std::process::abort)();
}

#[inline(never)]
fn recurse() {
    black_box(deeper(black_box(1)));
}

#[inline(never)]
fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    if room[0] == 0 { 0 } else { deeper(black_box(depth + 1)) + room[63] }
}

#[inline(never)]
extern "C" fn panic_where_it_must_not() {
    panic!("through a function that nothing may unwind through");
}

#[inline(never)]
fn send() {
    // SAFETY: the call takes two integers.
    unsafe { libc::raise(libc::SIGSEGV) };
    black_box(());
}

/// The process of a case: two shards, one of which does something wrong in a session.
fn run_case(name: &str, directory: PathBuf) {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call reads what it is given. Nobody wants the core dumps of these tests.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    let wrong = CASES.iter().find(|case| case.name == name).map(|case| case.wrong);
    // The first must not begin before the handlers are there.
    let (sender, begin) = std::sync::mpsc::channel();
    let guilty = shard(0, move |shard| async move {
        shard.block.raise(Gauge::SessionsOpen, 3);
        shard.block.add(Counter::MessagesAccepted, 4711);
        begin.recv().expect("told to begin");
        sleep(Duration::from_millis(50)).await;
        spawn("session", async move {
            match wrong {
                Some(wrong) => wrong(),
                None => panic!("contained"),
            }
        });
        sleep(Duration::from_millis(50)).await;
    });
    let innocent = shard(1, |_| sleep(Duration::from_secs(60)));
    let pulses = vec![guilty.pulse.clone(), innocent.pulse.clone()];
    let blocks = vec![guilty.block.clone(), innocent.block.clone()];
    crash::install(crash::Options { directory, version: "1.2.3", pulses, blocks }).expect("installs");
    while innocent.pulse.silent_for().is_none() {
        std::thread::yield_now();
    }
    sender.send(()).expect("the shard waits");
    guilty.thread.join().expect("ends well");
}

/// A directory with more crash files than are kept, and something else.
fn full_directory(at: &Path) {
    fs::create_dir(at).expect("a directory");
    for day in 1..=12 {
        fs::write(at.join(format!("crash-201901{day:02}T000000Z-1.txt")), "old").expect("a file");
    }
    fs::write(at.join("notes.txt"), "not ours").expect("a file");
}

fn crash_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("readable").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| !path.ends_with("notes.txt")).collect();
    files.sort();
    files
}

/// Runs a case; what it writes to standard error, and whether it died, by which signal.
fn run(name: &str, directory: &Path, is_read: bool) -> (String, Option<i32>) {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    if !is_read {
        let file = std::os::fd::AsRawFd::as_raw_fd(&writer);
        // SAFETY: the call takes integers. One page, so that it is full soon.
        assert!(unsafe { libc::fcntl(file, libc::F_SETPIPE_SZ, 4096) } > 0);
    }
    let mut child = Command::new(std::env::current_exe().expect("known"))
        .args(["case", name])
        .arg(directory)
        .stdin(Stdio::null())
        .stderr(writer)
        .spawn()
        .expect("starts");
    let mut told = String::new();
    if is_read {
        reader.read_to_string(&mut told).expect("text");
    }
    (told, child.wait().expect("ends").signal())
}

#[track_caller]
fn check_report(report: &str, case: &Case) {
    let common = [
        "ringpost 1.2.3 has crashed: ",
        "in thread shard-0 (",
        "shard silent_ms",
        "\nstack of the thread that crashed, with names\n",
        "shards/runtime/src/contain.rs",
        "glommio_ng::",
        "\nstack of shard 1, with names\n",
        "submit_and_wait",
    ];
    for expected in common.iter().chain(case.says) {
        assert!(report.contains(expected), "{}: no {expected:?} in:\n{report}", case.name);
    }
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = report.lines().map(row).filter(|row| row.len() == 9).collect();
    let shard = rows.iter().find(|row| row[0] == "0").expect("a row of shard 0");
    assert_eq!((&*shard[3], &*shard[8]), ("3", "4711"), "{report}");
    assert!(!report.contains("no names"), "{report}");
}

fn check(case: &Case) {
    let directory = tempfile::tempdir().expect("a directory");
    let crashes = directory.path().join("crash");
    full_directory(&crashes);
    let is_read = case.name != "unread";
    let (told, signal) = run(case.name, &crashes, is_read);
    assert_eq!(signal, Some(case.signal), "{}: {told}", case.name);
    let files = crash_files(&crashes);
    assert_eq!(files.len(), crash::FILES_MAX, "{files:?}");
    let newest = files.last().expect("one");
    let report = fs::read_to_string(newest).expect("text");
    let mode = fs::metadata(newest).expect("there").permissions().mode();
    assert!(!newest.ends_with("crash-20190112T000000Z-1.txt") && mode & 0o777 == 0o600, "{newest:?} {mode:o}");
    check_report(&report, case);
    if is_read {
        check_report(&told, case);
    }
}

/// A panic that is contained is no crash.
fn check_contained() {
    let directory = tempfile::tempdir().expect("a directory");
    let crashes = directory.path().join("deep/crash");
    let (told, signal) = run("contained", &crashes, true);
    assert!(signal.is_none() && !told.contains("crashed") && told.contains("contained"), "{signal:?} {told}");
    assert_eq!(crash_files(&crashes), Vec::<PathBuf>::new());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["crash-report"] => crash::report(io::stdin(), io::stdout()).expect("reports"),
        ["case", name, directory] => run_case(name, PathBuf::from(directory)),
        filters => {
            let wanted = |name: &str| {
                let mut words = filters.iter().filter(|word| !word.starts_with('-')).peekable();
                words.peek().is_none() || words.any(|word| name.contains(word))
            };
            for case in CASES.iter().filter(|case| wanted(case.name)) {
                check(case);
                eprintln!("test {} ... ok", case.name);
            }
            if wanted("contained") {
                check_contained();
                eprintln!("test contained ... ok");
            }
        }
    }
}
