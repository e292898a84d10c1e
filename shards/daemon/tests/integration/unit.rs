//! The directives of the shipped unit one by one, without a systemd: each is brought about by what there is, and the server has to
//! serve under it. `systemd` has them all at once, where a systemd can be started.

use crate::privileges::{as_nobody, home_of_nobody, words};
use crate::support::programs::{program, run};
use crate::support::server::{BINARY, Home, Server};
use crate::support::service::Manager;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::{eventually, wait_until};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, test_kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const UNIT: &str = include_str!("../../../../systemd/ringpost.service");

/// The values of a directive, in the order of the unit.
#[track_caller]
fn directive(name: &str) -> Vec<&'static str> {
    let values = UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let values: Vec<_> = values.collect();
    assert!(!values.is_empty(), "the unit has no {name}");
    values
}

/// A server of nobody, started by what brings a directive about, takes a message and delivers it.
#[track_caller]
fn check(home: Home, wrapper: &[&str]) -> Server {
    let nobody = as_nobody(&["net_bind_service"]);
    let server = Server::start_at(home, Settings::default().cores(2).under(wrapper).under(&words(&nobody)));
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &message("mail", "body\r\n"));
    client.quit();
    server.maildir("example.com/alice").only();
    server
}

/// A number with one of the suffixes of systemd.
fn bytes(value: &str) -> u64 {
    match value.strip_suffix('M') {
        Some(number) => number.parse::<u64>().expect("a number") << 20,
        None => value.parse().expect("a number"),
    }
}

/// What of a limit of the unit a process here can be given: root in a container may not be let raise it above what it has,
/// and then systemd gives what there is.
pub(crate) fn granted(name: &str, option: &str, resource: Resource) -> u64 {
    let wanted = bytes(directive(name)[0]);
    let mut command = Command::new(program("prlimit", "util-linux"));
    if run(command.args([&format!("--{option}={wanted}"), "true"]), "").status.success() {
        return wanted;
    }
    eprintln!("{name} can't be as high as {wanted} here: tested with less");
    getrlimit(resource).maximum.map_or(wanted, |most| most.min(wanted))
}

#[test]
fn limits() {
    let limit = |name: &str| bytes(directive(name)[0]);
    // 512 KiB for each of 500 cores, and a connection for each descriptor but the cores' own.
    assert!(limit("LimitMEMLOCK") >= 500 * 512 * 1024 && limit("LimitNOFILE") >= 500 * (768 + 1000) + 256);
    let memlock = granted("LimitMEMLOCK", "memlock", Resource::Memlock);
    let files = granted("LimitNOFILE", "nofile", Resource::Nofile);
    let words = [format!("--memlock={memlock}"), format!("--nofile={files}"), format!("--core={}", limit("LimitCORE"))];
    let prlimit = program("prlimit", "util-linux").display().to_string();
    let mut server = check(home_of_nobody(), &[&prlimit, &words[0], &words[1], &words[2]]);
    let text = fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("limits");
    let of = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(of("Max locked memory").contains(&memlock.to_string()), "{text}");
    assert!(of("Max open files").contains(&files.to_string()), "{text}");
    server.stop();
}

/// The names of a set, with those of the sets in it.
fn expand(set: &str, names: &mut BTreeSet<String>) {
    let mut command = Command::new(program("systemd-analyze", "systemd"));
    let told = run(command.args(["--no-pager", "syscall-filter", set]), "").ok().out;
    for line in told.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('@') {
            expand(line, names);
        } else {
            names.insert(line.to_owned());
        }
    }
}

/// What SystemCallFilter= leaves, line by line as systemd reads it.
fn system_calls() -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for line in directive("SystemCallFilter") {
        let (takes_away, line) = line.strip_prefix('~').map_or((false, line), |line| (true, line));
        let mut named = BTreeSet::new();
        for word in line.split_whitespace() {
            if word.starts_with('@') {
                expand(word, &mut named);
            } else {
                named.insert(word.to_owned());
            }
        }
        left = if takes_away { &left - &named } else { &left | &named };
    }
    left
}

/// Where a call that the unit denies ends the process, the server needs none of them. With it the families of sockets and, as
/// systemd does it, no namespaces and no foreign architecture.
#[test]
fn system_calls_and_address_families() {
    let mut names = system_calls();
    assert!(names.contains("io_uring_enter") && !names.contains("mount") && !names.contains("setuid"), "{names:?}");
    for filtered in ["socket", "clone", "clone3", "unshare", "setns", "personality"] {
        names.remove(filtered);
    }
    let allow = |names: serde_json::Value, arguments: serde_json::Value| serde_json::json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": arguments });
    let mut rows = vec![allow(serde_json::json!(names), serde_json::json!([]))];
    for family in directive("RestrictAddressFamilies")[0].split_whitespace() {
        let number = match family {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            other => panic!("{other} is not in the test"),
        };
        let argument = serde_json::json!([{ "index": 0, "value": number, "op": "SCMP_CMP_EQ" }]);
        rows.push(allow(serde_json::json!(["socket"]), argument));
    }
    assert_eq!(directive("RestrictNamespaces"), ["yes"]);
    let no_namespace =
        serde_json::json!([{ "index": 0, "value": 0x7e02_0080_u32, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]);
    rows.push(allow(serde_json::json!(["clone"]), no_namespace));
    rows.push(serde_json::json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    let profile = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "unknown": "skipped",
        "syscalls": rows,
    });
    let home = home_of_nobody();
    let file = home.path().join("profile.json");
    fs::write(&file, profile.to_string()).expect("written");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/support/under_seccomp.py");
    // setpriv changes the user, which the service need not do: the filter comes after it.
    let nobody = as_nobody(&["net_bind_service"]);
    let filter = ["/usr/bin/python3", script, &file.display().to_string(), "kill"];
    let settings = Settings::default().cores(2).under(&words(&nobody)).under(&filter);
    let mut server = Server::start_at(home, settings);
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &message("mail", "body\r\n"));
    server.maildir("example.com/alice").only();
    server.reconfigure(|settings| settings.set("limits", "hops = 7"));
    server.tell(&["reload"]).ok();
    server.stop();
}

/// MemoryDenyWriteExecute=, by the kernel's own switch for it, which children inherit.
#[test]
fn no_memory_is_written_and_executed() {
    assert_eq!(directive("MemoryDenyWriteExecute"), ["yes"]);
    let script = "import ctypes, os, sys\n\
                  if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:\n    sys.exit('this kernel has no PR_SET_MDWE')\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    let probe = run(Command::new("/usr/bin/python3").args(["-c", script, "/bin/true"]), "");
    if !probe.status.success() {
        eprintln!("skipped: {}", probe.err);
        return;
    }
    check(home_of_nobody(), &["/usr/bin/python3", "-c", script]).stop();
}

/// ProtectSystem=strict, PrivateTmp=, PrivateDevices=, ProcSubset=pid: everything but the home is read-only, devices are few, and
/// /proc has processes only.
#[test]
fn a_read_only_system_with_few_devices() {
    let wanted =
        [("ProtectSystem", "strict"), ("PrivateDevices", "yes"), ("ProcSubset", "pid"), ("ProtectProc", "invisible")];
    wanted.iter().for_each(|(name, value)| assert_eq!(directive(name), [*value]));
    const SCRIPT: &str = "set -e
        home=$1; shift
        mount --bind \"$home\" \"$home\"
        mount -t tmpfs -o mode=755 tmpfs /mnt
        for device in null zero full random urandom; do
            touch /mnt/$device; mount --bind /dev/$device /mnt/$device
        done
        mount --move /mnt /dev
        mount -t proc -o subset=pid,hidepid=invisible proc /proc
        mount -o remount,bind,ro /sys
        mount -o remount,bind,ro /
        cd \"$home\"
        exec \"$@\"";
    let home = home_of_nobody();
    let path = home.path().display().to_string();
    let unshare = program("unshare", "util-linux").display().to_string();
    let wrapper = [&unshare, "--mount", "--propagation=private", "sh", "-c", SCRIPT, "sandbox", &path];
    let mut server = check(home, &wrapper);
    let id = server.id().to_string();
    let nsenter = program("nsenter", "util-linux");
    let seen = |command: &str| run(Command::new(&nsenter).args(["-t", &id, "-m", "--", "sh", "-c", command]), "");
    assert!(!seen("touch /etc/ringpost-was-here").status.success(), "the system can be written to");
    assert!(!seen("test -e /dev/kmsg").status.success(), "devices are seen");
    assert!(!seen("test -e /proc/meminfo").status.success(), "/proc shows more than processes");
    server.stop();
}

/// Type=notify-reload, WatchdogSec= and NotifyAccess=: what the server says, and when.
#[test]
fn what_the_server_says_of_itself() {
    assert_eq!((directive("Type"), directive("NotifyAccess")), (vec!["notify-reload"], vec!["main"]));
    let home = home_of_nobody();
    let manager = Manager::listen(home.path());
    fs::set_permissions(home.path().join("notify"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("open");
    let settings = Settings::default().under(&words(&as_nobody(&["net_bind_service"])));
    let settings = settings.variable("NOTIFY_SOCKET", &manager.address()).variable("WATCHDOG_USEC", "400000");
    let mut server = Server::start_at(home, settings);
    assert_eq!(manager.wait_for("READY"), "1");
    assert!(!manager.wait_for("STATUS").is_empty());
    // Signs of life go on.
    wait_until("three signs of life", || manager.count("WATCHDOG=1") >= 3);
    manager.forget();
    let before = clock_gettime(ClockId::Monotonic);
    server.reconfigure(|settings| settings.set("server", "hostname = \"other.example.com\""));
    server.signal(Signal::HUP);
    assert_eq!(manager.wait_for("READY"), "1");
    let heard = manager.heard();
    let place = |name: &str| heard.iter().position(|line| line.starts_with(name));
    assert!(place("RELOADING=1") < place("READY=1"), "{heard:?}");
    let stamp: i64 = manager.wait_for("MONOTONIC_USEC").parse().expect("a number");
    assert!(stamp >= before.tv_sec * 1_000_000 + before.tv_nsec / 1000, "the reload began before the signal");
    // It is in force when that was said.
    assert!(Client::connect(server.smtp()).expect(220).text().contains("other.example.com"));
    // A faulty file is told and changes nothing; the reload is over all the same.
    manager.forget();
    fs::write(server.home.path().join("ringpost.toml"), "[server]\nhostnam = 5\n").expect("written");
    server.signal(Signal::HUP);
    assert_eq!(manager.wait_for("READY"), "1");
    assert!(Client::connect(server.smtp()).expect(220).text().contains("other.example.com"));
    manager.forget();
    server.stop();
    assert_eq!(manager.wait_for("STOPPING"), "1");
}

/// NotifyAccess=main at an upgrade: the former process names the new one, which then gives the signs of life.
#[test]
fn an_upgrade_names_the_new_main_process() {
    let home = home_of_nobody();
    let manager = Manager::listen(home.path());
    fs::set_permissions(home.path().join("notify"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("open");
    let settings = Settings::default().under(&words(&as_nobody(&["net_bind_service"])));
    let settings = settings.variable("NOTIFY_SOCKET", &manager.address()).variable("WATCHDOG_USEC", "400000");
    // systemd says for whom the watchdog is meant, which is not the new process.
    let mut server = Server::start_at(home, settings);
    manager.forget();
    server.tell(&["upgrade"]).ok();
    let id: i32 = manager.wait_for("MAINPID").parse().expect("a number");
    let successor = Pid::from_raw(id).expect("a process id");
    assert_ne!(id.cast_unsigned(), server.id());
    assert!(server.wait().success());
    assert_eq!(manager.count("STOPPING=1"), 0, "the service does not stop");
    manager.forget();
    wait_until("signs of life of the new one", || manager.count("WATCHDOG=1") >= 3);
    Client::hello(server.smtp()).quit();
    kill_process(successor, Signal::TERM).expect("a signal can be sent");
    assert_eq!(manager.wait_for("STOPPING"), "1");
    let gone = eventually(|| test_kill_process(successor).is_err().then_some(()));
    if gone.is_none() {
        // Where nobody takes note of its end it stays as a number.
        let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        assert!(state.contains(") Z "), "{state}");
    }
}

/// The sockets of `ringpost.socket`, handed over by the program that systemd has for trying that.
#[test]
fn sockets_that_are_handed_over_are_served() {
    const SOCKET: &str = include_str!("../../../../systemd/ringpost.socket");
    for line in ["FileDescriptorName=mx", "ReusePort=yes", "BindIPv6Only=ipv6-only"] {
        assert!(SOCKET.lines().any(|one| one == line), "{line}");
    }
    let home = home_of_nobody();
    let (address, nobody) = (home.smtp[0], as_nobody(&[]));
    let activate = program("systemd-socket-activate", "systemd");
    let config = home.configure(&Settings::default().cores(2));
    let mut command = Command::new(activate);
    command.args([&format!("--listen={address}"), "--fdname=mx"]).args(&nobody);
    command.arg(BINARY).args(["serve", "--config"]).arg(&config).current_dir(home.path());
    let log = fs::File::create(home.path().join("log")).expect("a file");
    command.stdout(log.try_clone().expect("a file")).stderr(log);
    let mut server = crate::support::programs::Guarded::spawn(&mut command);
    wait_until("somebody listens", || crate::support::net::listening_sockets(address) > 0);
    let mut client = Client::hello(address);
    client.deliver("a@example.org", &["alice@example.com"], &message("mail", "body\r\n"));
    client.quit();
    let maildir = home.state_dir().join("mail/example.com/alice");
    crate::support::maildir::Maildir(maildir).only();
    let text = fs::read_to_string(home.path().join("log")).expect("a log");
    assert!(!text.contains("\"level\":\"error\""), "{text}");
    let id = i32::try_from(server.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, Signal::TERM).expect("a signal can be sent");
    let status = server.wait_for(crate::support::PATIENCE).expect("it ends");
    assert!(status.success(), "{status}: {}", fs::read_to_string(home.path().join("log")).expect("a log"));
    assert!(Path::new(&home.state_dir()).exists());
}
