//! What an operator types to look at a running server and to change it: status, top, sessions, shards, limits, config, log,
//! profile, audit, canary, drain, upgrade. And the man pages and completions of all commands.

use crate::support::net::client_address;
use crate::support::programs::{Finished, program, python, run};
use crate::support::server::{BINARY, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::{eventually, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tempfile::TempDir;

/// What a command says as JSON.
#[track_caller]
fn asked(server: &Server, arguments: &[&str]) -> Value {
    let out = server.tell(&[arguments, &["--json"]].concat()).ok().out;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// What a command says.
#[track_caller]
fn told(server: &Server, arguments: &[&str]) -> String {
    server.tell(arguments).ok().out
}

/// A command that must be refused with status 1 and these words.
#[track_caller]
fn check_refused(server: &Server, arguments: &[&str], words: &[&str]) {
    let finished = server.tell(arguments);
    assert_eq!(finished.status.code(), Some(1), "{arguments:?}: {}", finished.all());
    words.iter().for_each(|word| assert!(finished.err.contains(word), "no {word:?} in {}", finished.err));
}

/// What `ringpost status` ends with and says, which has room on 80 columns but for paths.
#[track_caller]
fn check_status(finished: &Finished, status: i32, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(status), "{}", finished.all());
    words.iter().for_each(|word| assert!(finished.all().contains(word), "no {word:?} in {}", finished.all()));
    let wide = finished.out.lines().find(|line| line.chars().count() > 80 && !line.contains('/'));
    assert!(wide.is_none(), "{wide:?}");
}

#[test]
fn status_is_a_verdict_and_a_number_for_scripts() {
    let mut server = Server::start(Settings::default().cores(2));
    let finished = server.tell(&["status"]);
    check_status(&finished, 0, &["READY", "mx.example.com takes mail", "queue        empty", "SHARD  PHASE  SESSIONS"]);
    assert!(finished.out.starts_with("READY"), "{}", finished.out);
    let status = asked(&server, &["status"]);
    assert_eq!((&status["state"], &status["hostname"]), (&json!("ready"), &json!("mx.example.com")), "{status:#}");
    assert_eq!(status["process"], json!(server.id()));
    server.stop();
    check_status(&server.tell(&["status"]), 1, &["no server is running", "--socket"]);
    // More than any disk has: the server takes no mail, and says why.
    server.change(|settings| settings.set("spool", "space_soft = \"1000000GiB\""));
    server.start_again();
    wait_until("it is degraded", || server.get("/readyz").1.contains("\"state\":\"degraded\""));
    let words = ["DEGRADED", "mx.example.com takes mail; not well", "space_soft"];
    check_status(&server.tell(&["status"]), 3, &words);
    assert_eq!(server.tell(&["status", "--json"]).status.code(), Some(3));
}

#[test]
fn sessions_that_are_open_are_listed() {
    let server = Server::start(Settings::default().cores(2));
    assert_eq!(told(&server, &["sessions"]), "no sessions\n");
    let mut clients: Vec<Client> =
        (0..10).map(|number| Client::hello_from(client_address(number, 1), server.smtp())).collect();
    clients[3].deliver("a@example.org", &["alice@example.com"], &message("one", "x\r\n"));
    let one = client_address(3, 1).to_string();
    let sessions = asked(&server, &["sessions", "--client", &one]);
    let session = &sessions["sessions"][0];
    assert_eq!((&session["client"], &session["messages"]), (&json!(one), &json!(1)), "{sessions:#}");
    assert_eq!((&session["state"], &sessions["total"]), (&json!("command"), &json!(1)), "{sessions:#}");
    let id = session["id"].as_str().expect("an id");
    let explained = told(&server, &["explain", id]);
    assert!(explained.contains(id), "{explained}");
    let listed = told(&server, &["sessions"]);
    assert_eq!(listed.lines().count(), 11, "{listed}");
    assert!(listed.starts_with("SESSION") && listed.contains(&one) && listed.contains(id), "{listed}");
    let some = told(&server, &["sessions", "--limit", "4"]);
    assert!(some.contains("4 of 10: see more with --limit"), "{some}");
    assert_eq!(asked(&server, &["sessions", "--client", "127.1.0.0/20"])["total"], json!(10));
    assert_eq!(told(&server, &["sessions", "--client", "192.0.2.0/24"]), "no sessions\n");
    clients.into_iter().for_each(Client::quit);
}

#[test]
fn shards_and_limits_are_told_in_numbers() {
    let server = Server::start(Settings::default().cores(2).set("limits", "messages_per_ip = 2"));
    let mut client = Client::hello(server.smtp());
    for number in 0..2 {
        client.deliver("a@example.org", &["alice@example.com"], &message(&number.to_string(), "x\r\n"));
    }
    client.refused("MAIL FROM:<a@example.org>", 450, "4.7.1");
    server.wait_until_delivered();
    let shards = asked(&server, &["shards"]);
    let rows = shards.as_array().expect("shards");
    assert_eq!(rows.len(), 2, "{shards:#}");
    let total = |name: &str| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    assert_eq!((total("accepted"), total("delivered"), total("sessions_open")), (2, 2, 1), "{shards:#}");
    assert!(rows.iter().all(|row| row["cpu"].is_u64() && row["phase"] == "ready"), "{shards:#}");
    let report = told(&server, &["shards"]);
    for words in ["since the start:", "over the last ten seconds:", "LAG P99", "DELIVERED/S"] {
        assert!(report.contains(words), "no {words:?} in {report}");
    }
    let limits = asked(&server, &["limits"]);
    let limit = limits.as_array().expect("limits").iter().find(|limit| limit["key"] == "limits.messages_per_ip");
    let limit = limit.unwrap_or_else(|| panic!("{limits:#}"));
    assert_eq!((&limit["met"], &limit["scope"]), (&json!(1), &json!("address")), "{limit:#}");
    let table = told(&server, &["limits"]);
    assert!(table.starts_with("LIMIT") && table.contains("limits.messages_per_ip"), "{table}");
    client.quit();
}

#[test]
fn top_prints_frames_where_there_is_no_terminal() {
    let server = Server::start(Settings::default().cores(2));
    let frame = told(&server, &["top", "--once", "--interval", "100ms"]);
    assert!(frame.starts_with("mx.example.com: ready, up "), "{frame}");
    let rows: Vec<&str> = frame.lines().skip_while(|line| !line.starts_with("SHARD")).collect();
    assert_eq!(rows.len(), 4, "{frame}");
    assert!(frame.lines().all(|line| line.chars().count() <= 80) && !frame.contains('\u{1b}'), "{frame}");
    let frames = told(&server, &["top", "--count", "3", "--interval", "100ms"]);
    assert_eq!(frames.lines().filter(|line| line.starts_with("SHARD")).count(), 3, "{frames}");
    // Without a count it goes on until its reader has seen enough.
    let endless = "\"$1\" top --interval 100ms --config \"$2\" | head -n 12; echo \"status ${PIPESTATUS[0]}\"";
    let config = server.home.path().join("ringpost.toml");
    let mut shell = Command::new(program("bash", "bash"));
    shell.args(["-c", endless, "bash", BINARY]).arg(config);
    let seen = run(&mut shell, "").ok().out;
    assert!(seen.ends_with("status 0\n") && seen.matches("SHARD").count() >= 1, "{seen}");
}

/// Runs `top` in a pseudo-terminal, does something to it when it has drawn, and looks whether the terminal is given back.
/// Arguments: the directory, what to do (keys:..., signal:N or panic), the program and its arguments. Prints how it ended.
const IN_A_TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios
directory, action, argv = sys.argv[1], sys.argv[2], sys.argv[3:]
pid, master = pty.fork()
if pid == 0:
    os.chdir(directory)
    os.environ['TERM'] = 'xterm'
    if action == 'panic':
        os.environ['RINGPOST_FAULTS'] = 'top.panic=key'
    os.execv(argv[0], argv)
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
before, seen = termios.tcgetattr(master), b''
def read():
    global seen
    if not select.select([master], [], [], 30)[0]:
        sys.exit('nothing more after %r' % seen)
    try:
        piece = os.read(master, 65536)
    except OSError:
        piece = b''
    seen += piece
    return piece
while seen.count(b'q quit') < 2:
    read() or sys.exit('it ended: %r' % seen)
assert b'\x1b[?1049h' in seen, seen
assert b'mx.example.com: ready' in seen, seen
assert not termios.tcgetattr(master)[3] & (termios.ICANON | termios.ECHO), 'the terminal is not raw'
kind, _, what = action.partition(':')
if kind == 'signal':
    os.kill(pid, int(what))
else:
    os.write(master, (what or 'x').encode())
while read():
    pass
assert seen.count(b'\x1b[?1049l') == 1 and seen.count(b'\x1b[?25h') == 1, seen
assert termios.tcgetattr(master)[:6] == before[:6], 'the terminal is not as it was'
after = seen[seen.index(b'\x1b[?1049l'):]
status = os.waitpid(pid, 0)[1]
print('signal %d' % os.WTERMSIG(status) if os.WIFSIGNALED(status) else 'exit %d' % os.WEXITSTATUS(status))
print(after.decode(errors='replace'))
"#;

#[test]
fn top_gives_the_terminal_back_however_it_ends() {
    let server = Server::start(Settings::default());
    let home = server.home.path().display().to_string();
    let check = |action: &str, ended: &str, told: &str| {
        let arguments = [&home, action, BINARY, "top", "--interval", "100ms", "--config", "ringpost.toml"];
        let out = python(IN_A_TERMINAL, &arguments).out;
        assert_eq!(out.lines().next(), Some(ended), "{action}: {out}");
        assert!(out.contains(told), "{action}: {out}");
    };
    check("keys:q", "exit 0", "");
    check("keys:\u{3}", "exit 0", "");
    check("signal:15", "signal 15", "");
    check("signal:2", "signal 2", "");
    check("signal:1", "signal 1", "");
    // What is said of it has to be on the screen that stays.
    check("panic", "exit 101", "panicked at");
}

#[test]
fn the_config_in_force_is_shown() {
    let mut server = Server::start(Settings::default().set("limits", "recipients = 123"));
    server.reconfigure(|settings| settings.set("limits", "recipients = 124"));
    let running = told(&server, &["config", "show", "--running"]);
    assert!(running.starts_with("# config 0 of the running server, from "), "{running}");
    assert!(running.contains("recipients = 123"), "{running}");
    let file = server.home.path().join("running.toml");
    fs::write(&file, &running).expect("written");
    run(Command::new(BINARY).arg("check").arg("--config").arg(&file), "").ok();
    told(&server, &["reload"]);
    let running = told(&server, &["config", "show", "--running"]);
    assert!(running.starts_with("# config 1 ") && running.contains("recipients = 124"), "{running}");
}

#[test]
fn levels_of_the_log_change_and_go_back() {
    let server = Server::start(Settings::default());
    assert_eq!(told(&server, &["log", "show"]), "level info, as the config says\n");
    let until = "until a restart, a reload that changes the levels of the config, or `ringpost log reset`";
    let changed = told(&server, &["log", "set", "--level", "warn", "serve=debug"]);
    assert_eq!(changed, format!("level warn, {until}\n  serve  debug\n"));
    assert_eq!(
        told(&server, &["log", "set", "net=trace"]),
        format!("level warn, {until}\n  net    trace\n  serve  debug\n")
    );
    assert_eq!(asked(&server, &["log", "show"])["modules"], json!({"net": "trace", "serve": "debug"}));
    assert_eq!(told(&server, &["log", "reset"]), "level info, as the config says\n");
}

#[test]
fn a_shard_is_profiled_under_load() {
    let server = Server::start(Settings::default());
    let folder = TempDir::new().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::hello(server.smtp());
            while !done.load(Ordering::Relaxed) {
                client.deliver("a@example.org", &["alice@example.com"], &message("load", "x\r\n"));
            }
        });
        let svg = file("a.svg");
        let out = told(&server, &["profile", "--seconds", "2", "--to", &svg]);
        assert_eq!(out, format!("2 s of shard 0 written to {svg}\n"));
        let drawn = fs::read_to_string(&svg).expect("text");
        assert!(drawn.contains("<svg") && drawn.contains("<title>"), "{drawn}");
        let folded = told(&server, &["profile", "--seconds", "1", "--folded", "--to", "-"]);
        let counts = folded.lines().map(|line| line.rsplit_once(' ').map(|(_, count)| count.parse::<u64>()));
        assert!(!folded.is_empty() && counts.into_iter().all(|count| matches!(count, Some(Ok(1..)))), "{folded}");
        check_refused(&server, &["profile", "--seconds", "1", "--to", &svg], &["is there already"]);
        check_refused(&server, &["profile", "--shard", "7", "--seconds", "1", "--to", &file("b.svg")], &["shard"]);
        done.store(true, Ordering::Relaxed);
    });
    let names: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().map(|file| file.file_name()).collect();
    assert_eq!(names, ["a.svg"], "nothing is left of those that failed");
}

#[test]
fn changes_are_on_record() {
    let server = Server::start(Settings::default());
    assert_eq!(told(&server, &["audit"]), "nothing was changed\n");
    told(&server, &["ban", "add", "192.0.2.0/24", "--ttl", "1h"]);
    told(&server, &["log", "set", "--level", "warn"]);
    let entries = asked(&server, &["audit"]);
    let entries = entries.as_array().expect("entries");
    assert_eq!(entries.len(), 2, "{entries:#?}");
    let uid = rustix::process::getuid().as_raw();
    assert!(
        entries.iter().all(|entry| entry["who"]["uid"] == json!(uid) && entry["outcome"] == "done"),
        "{entries:#?}"
    );
    let listed = told(&server, &["audit"]);
    assert!(listed.starts_with("AT ") && listed.contains("192.0.2.0/24") && listed.contains("done"), "{listed}");
    assert_eq!(asked(&server, &["audit", "--limit", "1"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn without_a_canary_there_is_none_to_stop() {
    let server = Server::start(Settings::default());
    assert!(told(&server, &["canary", "show"]).starts_with("no config was tried"));
    check_refused(&server, &["canary", "stop"], &["no canary"]);
}

#[test]
fn a_canary_is_shown_and_stopped() {
    let mut server = Server::start(Settings::default().cores(2));
    let shards = asked(&server, &["shards"]);
    let core = shards[1]["cpu"].to_string();
    server.reconfigure(|settings| settings.set("limits", "recipients = 123"));
    let out = told(&server, &["reload", "--canary", &core, "--for", "10m"]);
    assert!(out.contains(&format!("in force on core {core} alone, for 10 minutes")), "{out}");
    assert!(out.contains("changed: limits.recipients"), "{out}");
    let shown = told(&server, &["canary", "show"]);
    assert!(shown.contains(&format!("runs on core {core} alone")) && shown.contains("THIS CORE"), "{shown}");
    assert!(told(&server, &["status"]).contains("canary "), "the status tells of it");
    assert!(told(&server, &["top", "--once", "--interval", "100ms"]).contains("shard 1 alone runs config 1"));
    assert!(told(&server, &["config", "show", "--running"]).contains("# config 0 "), "the others keep theirs");
    let stopped = told(&server, &["canary", "stop"]);
    assert!(stopped.contains(" and stopped"), "{stopped}");
    wait_until("both shards have the old config", || {
        server.metrics().by_shard("ringpost_config_epoch").windows(2).all(|two| two[0] == two[1])
    });
    check_refused(&server, &["canary", "stop"], &["canary"]);
    check_refused(&server, &["reload", "--canary", "4095"], &["4095"]);
}

#[test]
fn a_server_is_drained() {
    let mut server = Server::start(Settings::default());
    server.block("example.com");
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &message("one", "x\r\n"));
    let out = told(&server, &["drain"]);
    assert!(out.starts_with("no new connections are taken; ") && out.contains("1 message of the queue"), "{out}");
    assert!(server.wait().success());
}

/// A process that is no child of the test; it is killed when this value goes.
struct Stranger(Pid);

impl Drop for Stranger {
    fn drop(&mut self) {
        // It has ended, if all went well.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn another_process_takes_over() {
    let mut server = Server::start(Settings::default());
    let before = server.id();
    check_refused(&server, &["upgrade", "--binary", "/nonexistent/ringpost"], &["/nonexistent/ringpost"]);
    assert_eq!(asked(&server, &["status"])["process"], json!(before), "it goes on");
    let out = told(&server, &["upgrade", "--binary", BINARY]);
    let after = asked(&server, &["status"])["process"].as_i64().and_then(|id| i32::try_from(id).ok());
    let after = Stranger(after.and_then(Pid::from_raw).expect("a process"));
    let line = format!(
        "process {before}, ringpost {0}, has handed over to process {1}, ringpost {0}\n",
        env!("CARGO_PKG_VERSION"),
        after.0.as_raw_nonzero()
    );
    assert!(out.starts_with(&line), "{out}");
    assert!(server.wait().success(), "the old process ends well");
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &message("one", "x\r\n"));
    client.quit();
    kill_process(after.0, Signal::TERM).expect("a signal can be sent");
    assert!(eventually(|| test_kill_process(after.0).is_err().then_some(())).is_some(), "the new process ends");
}

#[test]
fn man_pages_are_what_man_takes() {
    let folder = TempDir::new().expect("a folder");
    let to = folder.path().display().to_string();
    let out = run(Command::new(BINARY).args(["man", "--to", &to]), "").ok().out;
    let pages: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().map(|page| page.path()).collect();
    assert_eq!(out, format!("{} pages written to {to}\n", pages.len()));
    for page in &pages {
        let finished = man(page);
        assert_eq!(finished.err, "", "{}", page.display());
        assert!(finished.out.contains("SYNOPSIS"), "{}", finished.all());
    }
    let page = man(&folder.path().join("ringpost-status.8")).out;
    for words in ["RINGPOST-STATUS(8)", "--json", "degraded: something needs to be seen to"] {
        assert!(page.contains(words), "no {words:?} in {page}");
    }
    let missing = run(Command::new(BINARY).args(["man", "--to", &format!("{to}/missing")]), "");
    assert_eq!(missing.status.code(), Some(1), "{}", missing.all());
}

/// What `man` makes of a page, with its warnings.
fn man(page: &Path) -> Finished {
    let mut command = Command::new(program("man", "man-db"));
    command.args(["--warnings", "-E", "UTF-8", "-l"]).arg(page);
    run(command.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", ""), "").ok()
}

/// What bash completes a line to: the words so far, of which the last is begun.
fn completed(words: &[&str]) -> Vec<String> {
    const SCRIPT: &str = "source /dev/stdin; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                          _ringpost ringpost \"${@: -1}\" \"${@: -2:1}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let completions = run(Command::new(BINARY).args(["completions", "bash"]), "").ok().out;
    let mut shell = Command::new(program("bash", "bash"));
    shell.args(["--norc", "-c", SCRIPT, "bash"]).args(words);
    run(&mut shell, &completions).ok().out.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let check = |words: &[&str], expected: &[&str]| {
        let completed = completed(words);
        let has_all = expected.iter().all(|word| completed.iter().any(|found| found == word));
        assert!(has_all, "{words:?}: {completed:?} lacks some of {expected:?}");
    };
    check(&["ringpost", "sta"], &["status"]);
    check(&["ringpost", "canary", ""], &["show", "stop"]);
    check(&["ringpost", "queue", "re"], &["retry", "release"]);
    check(&["ringpost", "log", "set", "--level", ""], &["error", "trace"]);
    check(&["ringpost", "reload", "--c"], &["--canary", "--config"]);
    assert!(!completed(&["ringpost", "cr"]).contains(&"crash-report".to_owned()), "what is hidden is not offered");
}
