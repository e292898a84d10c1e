//! Signals that tell of a crash, sent to a server under load, and a core's thread that stalls: what is told of it, and what is
//! not lost by it.

use crate::support::load::{load, verify};
use crate::support::net::client_address;
use crate::support::programs::{Finished, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::wait_until;
use rustix::process::{Pid, Signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A signal, and the thread that it is sent to.
struct Case {
    signal: Signal,
    name: &'static str,
    thread: &'static str,
}

const CASES: [Case; 5] = [
    Case { signal: Signal::SEGV, name: "SIGSEGV", thread: "shard-0" },
    Case { signal: Signal::BUS, name: "SIGBUS", thread: "shard-1" },
    Case { signal: Signal::FPE, name: "SIGFPE", thread: "ringpost" },
    Case { signal: Signal::ABORT, name: "SIGABRT", thread: "services" },
    Case { signal: Signal::ILL, name: "SIGILL", thread: "keeper" },
];

/// The thread of this name, of a process.
fn thread(process: u32, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("its threads can be read");
    for task in tasks {
        let path = task.expect("readable").path();
        let own_name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if own_name.trim_end() == name {
            let id = path.file_name().and_then(|id| id.to_str()?.parse().ok());
            return id.and_then(Pid::from_raw).expect("the number of a thread");
        }
    }
    panic!("no thread {name}");
}

fn crash_files(server: &Server) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.home.state_dir().join("crash")).expect("the folder is made at the start");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

#[track_caller]
fn check_report(report: &str, case: &Case) {
    let headline = format!(" has crashed: {}, sent by process {}", case.name, std::process::id());
    let thread = format!("in thread {} (", case.thread);
    let names =
        ["backlog_bytes", "\nstack of the thread that crashed, with names\n", "\nstack of shard ", "glommio_ng::"];
    for expected in [&*headline, &*thread].iter().chain(&names) {
        assert!(report.contains(expected), "no {expected:?} in:\n{report}");
    }
    let is_row = |line: &&str| line.split_whitespace().count() == 9 && line.split_whitespace().all(is_number);
    assert_eq!(report.lines().filter(is_row).count(), 2, "a row a shard in:\n{report}");
    assert!(!report.contains("no names"), "{report}");
}

fn is_number(word: &str) -> bool {
    word.parse::<u64>().is_ok()
}

/// Load that goes on while the server dies and comes again.
fn loading(server: &Server, number: usize) -> (PathBuf, impl FnOnce() -> Finished + Send + use<>) {
    let acked = server.home.path().join(format!("acked.{number}"));
    let mut command = load(server.smtp(), &["--reconnect", "--sessions", "8", "--duration", "4s", "--rate", "200/s"]);
    command.args(["--timeout", "20s", "--seed", &number.to_string(), "--acked"]).arg(&acked);
    (acked, move || run(&mut command, ""))
}

/// Sends the signal under load; gives the file with what was acknowledged.
fn crash(server: &mut Server, case: &Case, number: usize) -> PathBuf {
    let (acked, run) = loading(server, number);
    let finished = std::thread::scope(|scope| {
        let loading = scope.spawn(run);
        wait_until("some is accepted", || server.metrics().total("ringpost_messages_accepted_total") > 20);
        let process = server.id();
        let thread = thread(process, case.thread).as_raw_nonzero().get();
        // SAFETY: the call takes integers.
        let refused = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, case.signal.as_raw()) };
        assert_eq!(refused, 0);
        let status = server.wait();
        assert_eq!(status.signal(), Some(case.signal.as_raw()), "{status}");
        check_report(&server.errors(), case);
        server.start_again();
        loading.join().expect("the load ran")
    });
    assert!(finished.status.success(), "{}", finished.all());
    acked
}

/// No core dumps of these servers.
fn without_core_dumps(settings: Settings) -> Settings {
    settings.under(&["prlimit", "--core=0"])
}

#[test]
fn each_signal_of_a_crash_is_told_with_names_and_loses_nothing() {
    let mut server = Server::start(without_core_dumps(Settings::default().cores(2)));
    let mut acked = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        acked.push(crash(&mut server, case, number));
        let files = crash_files(&server);
        assert_eq!(files.len(), number + 1, "{files:?}");
        let newest = &files[number];
        check_report(&fs::read_to_string(newest).expect("text"), case);
        assert_eq!(fs::metadata(newest).expect("there").permissions().mode() & 0o777, 0o600);
    }
    server.wait_for_rest();
    verify(&acked, &server.mail());
}

/// Clients that keep talking from different networks, each with how often it was answered.
struct Talkers {
    done: AtomicBool,
    answers: Vec<AtomicU64>,
}

impl Talkers {
    fn total(&self) -> u64 {
        self.answers.iter().map(|answers| answers.load(Relaxed)).sum()
    }

    fn talk(&self, server: &Server, number: usize) {
        let mut client = Client::hello_from(client_address(number as u8, 1), server.smtp());
        while !self.done.load(Relaxed) {
            client.say("NOOP", 250);
            self.answers[number].fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
        client.quit();
    }
}

/// Ends the talk, also where the test fails.
struct End<'a>(&'a Talkers);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Relaxed);
    }
}

/// Has a shard stall, and looks at the others meanwhile. Whether somebody was served meanwhile, and the server not ready: a
/// machine with too much to do may let the stall pass unseen.
fn stall(server: &Server, talkers: &Talkers) -> bool {
    let mut guilty = Client::connect(server.smtp());
    guilty.expect(220);
    guilty.send(b"EHLO stall.example\r\n");
    let is_stalled = || server.metrics().total("ringpost_shard_stalled") > 0;
    wait_until("a shard stalls", is_stalled);
    let (code, reason) = server.get("/readyz");
    let before = talkers.total();
    std::thread::sleep(Duration::from_millis(200));
    let served = talkers.total() > before;
    let seen = is_stalled();
    if seen {
        assert!(code == 503 && reason.contains("stall"), "{code} {reason}");
    }
    guilty.expect(250);
    guilty.quit();
    wait_until("it goes on", || server.get("/readyz").0 == 200 && !is_stalled());
    served && seen
}

#[test]
fn a_stalled_shard_is_told_with_its_stack_while_the_others_serve() {
    let settings = Settings::default().cores(2).set("server", "stall_timeout = \"500ms\"");
    let settings = settings.set("limits", "commands_without_progress = 1000000");
    let server = Server::start(settings.fault("shard.stall", "stall.example"));
    let talkers = Talkers { done: AtomicBool::new(false), answers: (0..16).map(|_| AtomicU64::new(0)).collect() };
    let (mut stalls, mut served) = (0, false);
    std::thread::scope(|scope| {
        let _end = End(&talkers);
        for number in 0..talkers.answers.len() {
            let (talkers, server) = (&talkers, &server);
            scope.spawn(move || talkers.talk(server, number));
        }
        wait_until("both shards have sessions", || {
            server.metrics().by_shard("ringpost_sessions_open").iter().all(|open| *open > 0)
        });
        while !served && stalls < 5 {
            served = stall(&server, &talkers);
            stalls += 1;
        }
        let before: Vec<u64> = talkers.answers.iter().map(|answers| answers.load(Relaxed)).collect();
        let all_go_on = || talkers.answers.iter().zip(&before).all(|(now, before)| now.load(Relaxed) > *before);
        wait_until("all sessions go on", all_go_on);
    });
    assert!(served, "nobody was served during {stalls} stalls");
    let line = server.wait_for_line("shard stalled", |_| true);
    let stack = line["stack"].as_str().expect("text");
    assert!(stack.contains("std::thread::") && stack.contains("sleep") && stack.contains("glommio_ng::"), "{stack}");
    assert!(line["silent_ms"].as_u64().is_some_and(|silent| silent >= 500) && line["level"] == "error", "{line}");
    let told = || server.log().iter().filter(|line| line["message"] == "shard stalled").count() as u64;
    let over = || server.log().iter().filter(|line| line["message"] == "shard no longer stalled").count() as u64;
    wait_until("the end of each is told", || told() >= stalls && over() == told());
    assert_eq!(server.metrics().total("ringpost_shard_stalls_total"), told());
    assert_eq!(server.metrics().total("ringpost_shard_stalled"), 0);
    assert!(crash_files(&server).is_empty());
}
