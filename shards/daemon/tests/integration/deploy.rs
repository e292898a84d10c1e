//! What is shipped for running the server in earnest, judged by the programs that it is written for: the units, the AppArmor
//! profile, and the seccomp profile for containers, under which the server really runs.

use crate::support::programs::{Finished, program, run};
use crate::support::secure::Dialect;
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::systemd::machine::version;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What `systemd-analyze security` may say at most, in tenths.
const EXPOSURE_MAX: u32 = 20;

/// The first systemd that knows Type=notify-reload.
const NOTIFY_RELOAD: u32 = 253;

const APPARMOR: &str = "deploy/apparmor/usr.local.bin.ringpost";

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The shipped units in a folder, with the binary that is there, and some drop-ins; changed by `change`.
fn units(drop_ins: &[&str], change: impl Fn(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["ringpost.service", "ringpost.socket"] {
        let text = shipped(&format!("systemd/{name}")).replace("/usr/local/bin/ringpost", BINARY);
        fs::write(folder.path().join(name), change(text)).expect("written");
    }
    let of_service = folder.path().join("ringpost.service.d");
    fs::create_dir(&of_service).expect("made");
    for name in drop_ins {
        let text = shipped(&format!("systemd/drop-ins/{name}")).replace("/usr/local/bin/ringpost", BINARY);
        fs::write(of_service.join(name), text).expect("written");
    }
    folder
}

/// The faults that `systemd-analyze verify` finds. Before 253 there is one that the drop-in for it makes good.
fn faults(folder: &TempDir) -> Vec<String> {
    let mut command = Command::new(program("systemd-analyze", "systemd"));
    command.args(["verify", "--man=no", "ringpost.service", "ringpost.socket"]).current_dir(folder.path());
    let told = run(&mut command, "").all();
    let known = |line: &&str| version() < NOTIFY_RELOAD && line.ends_with("service type, ignoring: notify-reload");
    let of_ours = told.lines().filter(|line| line.contains("ringpost") && !known(line));
    of_ours.map(str::to_owned).collect()
}

const DROP_INS: [&[&str]; 6] = [
    &[],
    &["before-253.conf"],
    &["credentials.conf"],
    &["dynamic-user.conf"],
    &["nftables.conf"],
    &["socket-activation.conf"],
];

#[test]
fn systemd_finds_no_fault_in_the_units() {
    for drop_ins in DROP_INS {
        assert_eq!(faults(&units(drop_ins, |text| text)), [""; 0], "with {drop_ins:?}");
    }
    let shipped = fs::read_dir(Path::new(ROOT).join("systemd/drop-ins")).expect("a folder").count();
    assert_eq!(shipped, DROP_INS.concat().len(), "a drop-in is not looked at");
    // It would find one.
    let broken = units(&[], |text| text.replace("ProtectSystem=strict", "ProtectSystem=strictly"));
    assert_eq!(faults(&broken).len(), 1, "{:?}", faults(&broken));
}

/// What `systemd-analyze security` says of the service.
fn security(folder: &TempDir) -> String {
    let mut command = Command::new(program("systemd-analyze", "systemd"));
    command.args(["security", "--offline=true", "--no-pager", "./ringpost.service"]).current_dir(folder.path());
    run(command.env("SYSTEMD_COLORS", "0").env("LC_ALL", "C.UTF-8"), "").ok().out
}

/// The overall exposure, in tenths.
fn exposure(told: &str) -> u32 {
    let last = told.lines().find_map(|line| line.split_once("Overall exposure level for ringpost.service: "));
    let number = last.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_else(|| panic!("{told}"));
    number.replace('.', "").parse().unwrap_or_else(|_| panic!("{number} is no number"))
}

#[test]
fn the_unit_exposes_little() {
    let told = security(&units(&[], |text| text));
    assert!(exposure(&told) <= EXPOSURE_MAX, "{told}");
    let activated = security(&units(&["socket-activation.conf"], |text| text));
    assert!(exposure(&activated) < exposure(&told), "without a capability it is less\n{activated}");
    // An unhardened one is told apart.
    let open = security(&units(&[], |text| {
        text.lines().filter(|line| !line.contains("Protect")).map(|line| format!("{line}\n")).collect()
    }));
    assert!(exposure(&open) > EXPOSURE_MAX, "{open}");
    // What is kept of it in the repository is what the same systemd says.
    let kept = shipped("systemd/security.txt");
    let (header, kept) = kept.split_once("\n\n").expect("a header");
    if header.contains(&format!("systemd {} ", version())) {
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(kept.trim()), trimmed(told.trim()), "systemd/security.txt is of another unit");
    }
}

/// What the parser says of a profile, which need not be one that the kernel can load.
fn parse_profile(text: &str) -> Finished {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("profile");
    fs::write(&file, text).expect("written");
    let mut command = Command::new(program("apparmor_parser", "apparmor"));
    run(command.args(["--skip-kernel-load", "--skip-cache"]).arg(file), "")
}

#[test]
fn apparmor_takes_the_profile() {
    let text = shipped(APPARMOR);
    parse_profile(&text).ok();
    let broken = parse_profile(&text.replace("capability setuid,", "capability set_uid,"));
    assert!(!broken.status.success(), "it takes everything");
    for path in ["/usr/local/bin/ringpost mrix,", "/var/lib/{private/,}ringpost/", "/etc/ringpost/"] {
        assert!(text.contains(path), "{path} is what the unit has");
    }
}

/// Runs a program under the seccomp profile: `kill` ends it for what the profile denies.
fn under_seccomp(mode: &str) -> Vec<String> {
    let script = format!("{ROOT}/shards/daemon/tests/integration/support/under_seccomp.py");
    // The library of python3-seccomp is there for the system's own python alone.
    ["/usr/bin/python3", &script, &format!("{ROOT}/deploy/seccomp/ringpost.json"), mode].map(str::to_owned).to_vec()
}

#[test]
fn the_server_needs_nothing_that_the_seccomp_profile_denies() {
    let wrapper = under_seccomp("kill");
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let settings = Settings::default().cores(2).under(&words).set("server", "user = \"nobody\"");
    let home = Home::new(1);
    std::os::unix::fs::chown(home.path(), Some(65534), None).expect("given away");
    let mut server = Server::start_at(home, settings);
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("a status");
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["small@example.com"], &message("small", "body\r\n"));
    client.deliver("a@example.org", &["large@example.com"], &message("large", &lines(7, 3_000_000)));
    client.quit();
    let dialect = Dialect::trusting(&server.home.state_dir().join("tls/self-signed.crt"));
    let mut client = dialect.starttls(server.smtp(), "mx.example.com");
    client.deliver("a@example.org", &["sealed@example.com"], &message("sealed", "body\r\n"));
    for user in ["small", "large", "sealed"] {
        server.maildir(&format!("example.com/{user}")).only();
    }
    server.reconfigure(|settings| settings.set("limits", "hops = 7"));
    server.tell(&["reload"]).ok();
    server.tell(&["ban", "add", "192.0.2.7"]).ok();
    server.tell(&["status"]).ok();
    server.stop();
}

#[test]
fn the_seccomp_profile_denies_what_a_mail_server_never_does() {
    let check = |words: &[&str], wanted: &str| {
        let wrapper = under_seccomp("as-is");
        let told = run(Command::new(&wrapper[0]).args(&wrapper[1..]).args(words), "");
        assert!(told.all().contains(wanted), "{words:?}: {}", told.all());
    };
    check(&["/bin/echo", "it runs"], "it runs");
    check(&["unshare", "--mount", "true"], "Operation not permitted");
    check(&["unshare", "--user", "true"], "Operation not permitted");
    check(&["unshare", "--pid", "--fork", "true"], "Operation not permitted");
    let python = |call: &str| {
        let script = format!("import ctypes, os, socket\ncall = ctypes.CDLL(None, use_errno=True).syscall\n{call}");
        check(&["/usr/bin/python3", "-c", &script], "Operation not permitted");
    };
    // mount, ptrace, bpf, and clone with a namespace: numbers of x86-64.
    #[cfg(target_arch = "x86_64")]
    for call in ["165, 0, 0, 0, 0, 0", "101, 0, 0, 0, 0", "321, 0, 0, 0", "56, 0x10000011, 0, 0, 0, 0"] {
        python(&format!("print(call({call}), os.strerror(ctypes.get_errno()))"));
    }
    python("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)");
}
