//! The shipped units, started by a real systemd: process 1 of namespaces of the test's own. Where those are not allowed, as in
//! a container without privileges, each of these tests says so and is over; `unit` tests the directives one by one there too.

pub(crate) mod machine;

use crate::support::maildir::Maildir;
use crate::support::programs::make_certificate;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;
use crate::unit::granted;
use machine::{Machine, NOTIFY_RELOAD, USER, version};
use rustix::process::Resource;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const CONFIG: &str = "/etc/ringpost/ringpost.toml";

fn settings() -> Settings {
    Settings::default().cores(2)
}

/// A message on its way: taken, and in its Maildir below the state directory.
#[track_caller]
fn check_mail(machine: &Machine, subject: &str) {
    let to = format!("{subject}@example.com");
    let mut client = Client::hello(machine.smtp);
    client.deliver("a@example.org", &[&to], &message(subject, "body\r\n"));
    client.quit();
    Maildir(machine.path(&format!("/var/lib/ringpost/mail/example.com/{subject}"))).only();
}

/// The lines of /proc/PID/task/*/status that begin so, of the main process.
fn of_threads(machine: &Machine, field: &str) -> Vec<String> {
    let id = machine.property("MainPID");
    let script = format!("cat /proc/{id}/task/*/status");
    let told = machine.inside(&["sh", "-c", &script]).ok().out;
    let prefix = format!("{field}:");
    let values = told.lines().filter_map(|line| line.strip_prefix(&prefix));
    values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[track_caller]
fn check_threads(machine: &Machine, field: &str, value: &str) {
    let found = of_threads(machine, field);
    assert!(found.len() > 5, "the server has more threads than {found:?}");
    assert!(found.iter().all(|one| one == value), "{field}: {found:?}");
}

/// As a user of its own, without a capability, behind the filter of system calls, with the limits of the unit.
#[test]
fn a_started_unit_serves_and_has_what_it_was_given() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.control(&["start", "ringpost"]).ok();
    // It came back when the server had said that it is ready, so nothing has to be waited for.
    Client::hello(machine.smtp).quit();
    assert_eq!((machine.property("ActiveState"), machine.property("SubState")), ("active".into(), "running".into()));
    check_mail(&machine, "first");
    let user = format!("{USER} {USER} {USER} {USER}");
    check_threads(&machine, "Uid", &user);
    check_threads(&machine, "Gid", &user);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        check_threads(&machine, set, "0000000000000000");
    }
    // Of port 25, which it could bind before it gave that up.
    check_threads(&machine, "CapBnd", "0000000000000400");
    check_threads(&machine, "NoNewPrivs", "1");
    check_threads(&machine, "Seccomp", "2");
    let id = machine.property("MainPID");
    let limits = machine.inside(&["cat", &format!("/proc/{id}/limits")]).ok().out;
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let twice = |number: u64| [number.to_string(), number.to_string()];
    assert_eq!(limit("Max locked memory"), twice(granted("LimitMEMLOCK", "memlock", Resource::Memlock)));
    assert_eq!(limit("Max open files"), twice(granted("LimitNOFILE", "nofile", Resource::Nofile)));
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    let state = fs::metadata(machine.path("/var/lib/ringpost")).expect("the state directory");
    assert_eq!((state.uid(), state.mode() & 0o7777), (USER, 0o700));
    let files = fs::read_dir(machine.path("/var/lib/ringpost")).expect("entries").flatten();
    let readable: Vec<_> = files.filter(|file| file.metadata().is_ok_and(|meta| meta.mode() & 0o077 != 0)).collect();
    assert!(readable.is_empty(), "{readable:?}");
    wait_until("it says what it is at", || !machine.property("StatusText").is_empty());
}

/// What the service sees of the machine, from inside of its mounts.
#[test]
fn a_started_unit_can_write_to_its_state_directory_only() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.control(&["start", "ringpost"]).ok();
    let id = machine.property("MainPID");
    let seen = |script: &str| machine.inside(&["nsenter", "-t", &id, "-m", "--", "sh", "-c", script]);
    for folder in ["/etc", "/usr", "/var/lib", "/opt", "/dev", "/sys", "/proc/sys/net"] {
        let tried = seen(&format!("touch {folder}/ringpost-was-here"));
        assert!(!tried.status.success(), "{folder} can be written to");
    }
    seen("touch /var/lib/ringpost/written && rm /var/lib/ringpost/written").ok();
    seen("touch /tmp/written").ok();
    assert!(!std::path::Path::new("/tmp/written").exists(), "/tmp is everybody's");
    assert!(seen("ls /root /home | grep -v : | tr -d '\\n'").out.is_empty(), "home directories are seen");
    assert!(!seen("test -e /proc/meminfo").status.success(), "/proc shows more than processes");
    assert!(!seen("test -e /dev/kmsg").status.success(), "devices are seen");
}

#[test]
fn a_reload_by_systemctl_is_over_when_the_new_config_is_in_force() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.control(&["start", "ringpost"]).ok();
    let id = machine.property("MainPID");
    let mut old = Client::hello(machine.smtp);
    machine.configure(&settings().set("server", "hostname = \"other.example.com\""));
    machine.control(&["reload", "ringpost"]).ok();
    let mut new = Client::connect(machine.smtp);
    assert!(new.expect(220).text().contains("other.example.com"));
    old.say("NOOP", 250);
    assert_eq!(machine.property("MainPID"), id);
    assert_eq!(machine.property("SubState"), "running");
    // A faulty file changes nothing.
    fs::write(machine.path(CONFIG), "[server]\nhostnam = \"x\"\n").expect("written");
    let told = machine.control(&["reload", "ringpost"]);
    assert!(version() >= NOTIFY_RELOAD || !told.status.success(), "the command of the drop-in says that it failed");
    wait_until("the fault is in the log", || machine.log().contains("hostnam"));
    machine.wait_for_property("SubState", "running");
    check_mail(&machine, "after");
}

#[test]
fn a_stop_by_systemctl_is_in_order_and_a_kill_is_followed_by_a_start() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.control(&["start", "ringpost"]).ok();
    let mut client = Client::hello(machine.smtp);
    client.begin("a@example.org", &["late@example.com"]);
    machine.control(&["stop", "--no-block", "ringpost"]).ok();
    machine.wait_for_property("SubState", "stop-sigterm");
    client.content(&message("late", "body\r\n"));
    machine.wait_for_property("ActiveState", "inactive");
    assert_eq!((machine.property("Result"), machine.property("ExecMainStatus")), ("success".into(), "0".into()));
    Maildir(machine.path("/var/lib/ringpost/mail/example.com/late")).only();
    machine.control(&["start", "ringpost"]).ok();
    machine.control(&["kill", "--signal=KILL", "ringpost"]).ok();
    machine.wait_for_property("NRestarts", "1");
    machine.wait_for_property("SubState", "running");
    check_mail(&machine, "again");
}

/// A process that stands still is aborted and started again.
#[test]
fn a_server_that_gives_no_sign_of_life_is_started_again() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.drop_in("ringpost.service", "watchdog.conf", Some("[Service]\nWatchdogSec=2s\n"));
    machine.control(&["start", "ringpost"]).ok();
    check_mail(&machine, "before");
    // One that lives is left alone, for longer than the watchdog waits.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(machine.property("NRestarts"), "0");
    let id = machine.property("MainPID");
    machine.inside(&["kill", "-STOP", &id]).ok();
    machine.wait_for_property("NRestarts", "1");
    machine.wait_for_property("SubState", "running");
    assert_ne!(machine.property("MainPID"), id);
    check_mail(&machine, "after");
}

#[test]
fn an_upgrade_changes_the_main_process_of_the_unit() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.drop_in("ringpost.service", "watchdog.conf", Some("[Service]\nWatchdogSec=2s\n"));
    machine.control(&["start", "ringpost"]).ok();
    let id = machine.property("MainPID");
    machine.inside(&["ringpost", "upgrade", "--config", CONFIG]).ok();
    wait_until("another main process", || machine.property("MainPID") != id);
    wait_until("the former one has ended", || !machine.inside(&["kill", "-0", &id]).status.success());
    // It is watched as the first one was, and what the first one said of its end is not taken for the unit's.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!((machine.property("SubState"), machine.property("NRestarts")), ("running".into(), "0".into()));
    check_mail(&machine, "after");
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        check_threads(&machine, set, "0000000000000000");
    }
    machine.control(&["stop", "ringpost"]).ok();
    assert_eq!((machine.property("Result"), machine.property("ExecMainStatus")), ("success".into(), "0".into()));
}

/// The sockets of the shipped unit at an address of the test's own, once for each core.
fn activated(machine: &Machine) {
    let address = machine.smtp;
    let sockets = format!("[Socket]\nListenStream=\nListenStream={address}\nListenStream={address}\n");
    machine.drop_in("ringpost.socket", "address.conf", Some(&sockets));
    machine.drop_in("ringpost.service", "socket-activation.conf", None);
    machine.configure(&settings());
    machine.control(&["start", "ringpost.socket"]).ok();
}

#[test]
fn a_connection_starts_a_unit_with_sockets_and_waits_over_its_restart() {
    let Some(machine) = Machine::start() else { return };
    activated(&machine);
    assert_eq!(machine.property("ActiveState"), "inactive");
    check_mail(&machine, "activated");
    check_threads(&machine, "CapBnd", "0000000000000000");
    let id = machine.property("MainPID");
    // Clients that come while there is no server wait for the next one.
    machine.control(&["stop", "ringpost"]).ok();
    check_mail(&machine, "waited");
    assert_ne!(machine.property("MainPID"), id);
    machine.control(&["restart", "ringpost"]).ok();
    check_mail(&machine, "restarted");
}

/// A key that only root may read, by LoadCredential=.
#[test]
fn a_credential_is_the_key_of_a_certificate() {
    let Some(machine) = Machine::start() else { return };
    let folder = machine.path("/etc/ringpost");
    let (certificate, key) = make_certificate(&folder, "mx", "rsa:2048", &["mx.example.com"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::set_permissions(&certificate, fs::Permissions::from_mode(0o644)).expect("changed");
    fs::rename(&key, folder.join("mx.key")).expect("renamed");
    fs::rename(&certificate, folder.join("mx.pem")).expect("renamed");
    fs::write(folder.join("hook.secret"), "secret\n").expect("written");
    machine.drop_in("ringpost.service", "credentials.conf", None);
    let pair = "certificates = [{ cert = \"/etc/ringpost/mx.pem\", key = \"credential:mx.key\" }]";
    machine.configure(&settings().set("tls", pair));
    machine.control(&["start", "ringpost"]).ok();
    check_mail(&machine, "sealed");
    let mut client = Client::hello(machine.smtp);
    client.say("STARTTLS", 220);
    // The commands that read no such file don't ask for it, and those that do say what is missing.
    // The certificate is one of two days: 3 says that the server is degraded.
    let status = machine.inside(&["ringpost", "status", "--config", CONFIG]);
    assert_eq!(status.status.code(), Some(3), "{}", status.all());
    let told = machine.inside(&["ringpost", "check", "--config", CONFIG]);
    assert!(!told.status.success() && told.err.contains("$CREDENTIALS_DIRECTORY is not set"), "{}", told.all());
}

#[test]
fn a_dynamic_user_keeps_its_state_over_a_restart() {
    let Some(machine) = Machine::start() else { return };
    machine.configure(&settings());
    machine.drop_in("ringpost.service", "dynamic-user.conf", None);
    // No user of this name is known, so systemd makes one.
    for name in ["/etc/passwd", "/etc/group"] {
        let file = machine.path(name);
        let text = fs::read_to_string(&file).expect("text");
        let kept = text.lines().filter(|line| !line.starts_with("ringpost:")).map(|line| format!("{line}\n"));
        fs::write(&file, kept.collect::<String>()).expect("written");
    }
    machine.control(&["start", "ringpost"]).ok();
    check_mail(&machine, "first");
    let user = of_threads(&machine, "Uid").remove(0);
    assert!(!user.starts_with("0 ") && !user.starts_with(&USER.to_string()), "{user}");
    machine.control(&["restart", "ringpost"]).ok();
    check_mail(&machine, "second");
    assert!(machine.path("/var/lib/private/ringpost/mail/example.com/first").exists());
}

#[test]
fn a_start_that_can_not_be_is_told_and_given_up() {
    let Some(machine) = Machine::start() else { return };
    fs::write(machine.path(CONFIG), "[server]\nhostnam = \"x\"\n").expect("written");
    assert!(!machine.control(&["start", "ringpost"]).status.success());
    assert!(machine.log().contains("hostnam"), "{}", machine.log());
    machine.drop_in("ringpost.service", "soon.conf", Some("[Service]\nRestartSec=10ms\n"));
    machine.wait_for_property("ActiveState", "failed");
}
