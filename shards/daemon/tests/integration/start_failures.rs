//! What keeps the server from starting: one clear line each, soon, and nothing left behind.

use crate::support::net::{free_port, listening_sockets, own_address};
use crate::support::programs::{Finished, program, run};
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A failing start ends within 2 s on an idle machine; tests share theirs.
const FAILS_WITHIN: Duration = Duration::from_secs(4);

/// Locked memory that no shard can live on, in bytes.
const MEMLOCK_LOW: u64 = 64 * 1024;

fn serve(home: &Home, config: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(config).current_dir(home.path());
    command
}

/// Runs a start that must fail with one line that holds all of `words`.
#[track_caller]
fn check(home: &Home, command: &mut Command, words: &[&str]) {
    let finished = fails(home, command);
    assert_eq!(finished.err.lines().count(), 1, "not one line: {}", finished.err);
    assert!(finished.err.starts_with("ringpost: "), "{}", finished.err);
    for word in words {
        assert!(finished.err.contains(word), "{word:?} is not in: {}", finished.err);
    }
}

#[track_caller]
fn fails(home: &Home, command: &mut Command) -> Finished {
    let taken = listening_sockets(home.smtp[0]);
    let finished = run(command, "");
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    assert!(finished.took < FAILS_WITHIN, "it took {:?}", finished.took);
    assert_eq!(listening_sockets(home.smtp[0]), taken, "a listener was left");
    finished
}

/// The same with usual settings.
#[track_caller]
fn check_settings(home: &Home, settings: &Settings, words: &[&str]) {
    let config = home.configure(settings);
    check(home, &mut serve(home, &config), words);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let home = Home::new(1);
    let address = home.smtp[0];
    let _taken = TcpListener::bind(address).expect("free");
    for settings in [Settings::default(), Settings::default().cores(2)] {
        check_settings(&home, &settings, &["\"mx\"", &address.to_string(), "in use"]);
    }
}

#[test]
fn an_admin_port_that_is_taken_is_named() {
    let home = Home::new(1);
    let _taken = TcpListener::bind(home.admin).expect("free");
    let settings = Settings::default().cores(2);
    check_settings(&home, &settings, &["admin", &home.admin.to_string(), "in use"]);
}

#[test]
fn an_address_of_another_machine_is_named() {
    let mut home = Home::new(1);
    home.smtp[0] = "192.0.2.1:2525".parse().expect("an address");
    check_settings(&home, &Settings::default(), &["192.0.2.1:2525"]);
}

#[test]
fn a_state_dir_that_cannot_be_made_is_named() {
    let home = Home::new(1);
    // In the place of the directory, and above it.
    fs::write(home.state_dir(), "a plain file").expect("written");
    let want = [home.state_dir().display().to_string(), "state directory".into(), "`state_dir`".into()];
    check_settings(&home, &Settings::default(), &want.each_ref().map(String::as_str));
    for path in [home.state_dir().join("below"), "/proc/ringpost".into()] {
        let config = home.configure(&Settings::default());
        let text = fs::read_to_string(&config).expect("config");
        let (old, new) = (format!("\"{}\"", home.state_dir().display()), format!("\"{}\"", path.display()));
        fs::write(&config, text.replace(&old, &new)).expect("written");
        check(&home, &mut serve(&home, &config), &[&path.display().to_string(), "`state_dir`"]);
    }
}

#[test]
fn a_state_dir_without_permission_is_named() {
    let home = Home::new(1);
    let config = home.configure(&Settings::default());
    fs::create_dir(home.state_dir()).expect("made");
    for (path, mode) in [(home.path(), 0o755), (&home.state_dir(), 0o755), (&config, 0o644)] {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("may be set");
    }
    // The build may stand where only its owner gets.
    let binary = home.path().join("ringpost");
    fs::copy(BINARY, &binary).expect("copied");
    let mut command = Command::new(program("setpriv", "util-linux"));
    command.args(["--reuid", "65534", "--clear-groups"]).arg(binary).arg("serve").arg("--config").arg(&config);
    assert!(rustix::process::geteuid().is_root(), "only root can become another user: run this test as root");
    check(&home, &mut command, &[&home.state_dir().display().to_string(), "`state_dir`", "ermission"]);
}

#[test]
fn a_second_server_on_the_same_state_dir_is_told() {
    let mut first = Server::start(Settings::default());
    let address = own_address();
    let (smtp, admin) = (free_port(address), free_port(address));
    let config = first.home.path().join("second.toml");
    fs::write(&config, Settings::default().render(&first.home.state_dir(), &[smtp], admin)).expect("written");
    let mut command = serve(&first.home, &config);
    check(&first.home, &mut command, &["another ringpost", &first.home.state_dir().display().to_string()]);
    assert_eq!(listening_sockets(smtp), 0);
    assert_eq!(first.get("/readyz").0, 200);
    assert!(first.ended().is_none());
}

#[test]
fn too_little_locked_memory_is_told() {
    let home = Home::new(1);
    let config = home.configure(&Settings::default());
    let mut command = serve(&home, &config);
    let limit = libc::rlimit { rlim_cur: MEMLOCK_LOW, rlim_max: MEMLOCK_LOW };
    let lower = move || {
        // SAFETY: setrlimit(2) is async-signal-safe and reads `limit`, which lives through the call.
        match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(lower) };
    check(&home, &mut command, &["locked memory", "65536", "LimitMEMLOCK"]);
}

#[test]
fn blocked_io_uring_is_told() {
    let home = Home::new(1);
    let config = home.configure(&Settings::default());
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut command = serve(&home, &config);
        // SAFETY: the closure makes two system calls on memory of its own stack and allocates nothing.
        unsafe { command.pre_exec(move || deny_io_uring(errno)) };
        let words = if errno == libc::EPERM { ["io_uring is blocked", "seccomp"] } else { ["no io_uring", "Linux"] };
        check(&home, &mut command, &words);
    }
}

/// Lets io_uring_setup(2) fail in this process from now on, as the seccomp profile of a container does.
fn deny_io_uring(errno: i32) -> std::io::Result<()> {
    let op = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let number = libc::SYS_io_uring_setup as u32;
    // The number of the system call stands first in what the filter is given.
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the arguments are numbers, and a filter that lives through the call and says its own length.
    let denied = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if denied { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn a_missing_or_wrong_certificate_is_named() {
    let home = Home::new(1);
    let (missing, wrong) = (home.path().join("missing.pem"), home.path().join("wrong.pem"));
    fs::write(&wrong, "no certificate\n").expect("written");
    for path in [missing, wrong] {
        let path = path.display().to_string();
        let line = format!("certificates = [{{ cert = \"{path}\", key = \"{path}\" }}]");
        check_settings(&home, &Settings::default().set("tls", &line), &[&path]);
    }
}

#[test]
fn a_bad_config_file_is_told_with_every_error() {
    let home = Home::new(1);
    let config = home.configure(&Settings::default().set("limits", "hop = 3").set("queue", "retry_first = \"soon\""));
    let finished = fails(&home, &mut serve(&home, &config));
    let place = format!("{}:", config.display());
    let errors: Vec<&str> = finished.err.lines().filter(|line| line.starts_with(&place)).collect();
    assert_eq!(errors.len(), 2, "{}", finished.err);
    assert!(errors.iter().any(|line| line.contains("limits.hop") && line.contains("\"hops\"")), "{errors:?}");
    assert!(errors.iter().any(|line| line.contains("queue.retry_first")), "{errors:?}");
    let missing = home.path().join("missing.toml");
    check(&home, &mut serve(&home, &missing), &[&missing.display().to_string()]);
}

#[test]
fn cores_that_are_not_there_are_named() {
    let home = Home::new(1);
    let config = home.configure(&Settings::default());
    let text = fs::read_to_string(&config).expect("config");
    let (before, rest) = text.split_once("use = [").expect("cores.use");
    let (_, after) = rest.split_once(']').expect("a list");
    fs::write(&config, format!("{before}use = [8000]{after}")).expect("written");
    check(&home, &mut serve(&home, &config), &["cores.use", "8000"]);
}
