//! Who the server is once its sockets are bound, and what each of its threads may still do, as the kernel tells it.

use crate::nftables::{FOR_GOOD, RULES, in_own_network, nft, wait_for};
use crate::support::programs::{program, run};
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

/// The user nobody and its group, on Debian.
const NOBODY: u32 = 65534;

const NO_CAPABILITY: &str = "0000000000000000";

/// `CAP_DAC_OVERRIDE`, `CAP_NET_ADMIN` and `CAP_IPC_LOCK`.
const OF_ROOT: &str = "0000000000005002";

/// `CAP_NET_ADMIN`.
const NET_ADMIN: &str = "0000000000001000";

/// Starts what follows as nobody with some capabilities, as `User=` and `AmbientCapabilities=` of a unit do.
pub(crate) fn as_nobody(capabilities: &[&str]) -> Vec<String> {
    let setpriv = program("setpriv", "util-linux").display().to_string();
    let sets: Vec<String> = capabilities.iter().map(|name| format!("+{name}")).collect();
    let user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"].map(str::to_owned);
    let mut words = vec![setpriv];
    words.extend(user);
    if !sets.is_empty() {
        words.push(format!("--inh-caps={}", sets.join(",")));
        words.push(format!("--ambient-caps={}", sets.join(",")));
    }
    words
}

pub(crate) fn words(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

/// A home that is nobody's, with a listener on port 25.
pub(crate) fn home_of_nobody() -> Home {
    let mut home = Home::new(1);
    home.smtp[0].set_port(25);
    chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    home
}

/// A field of /proc/PID/status of every thread.
#[track_caller]
fn check_threads(server: &Server, field: &str, wanted: &str) {
    let threads = fs::read_dir(format!("/proc/{}/task", server.id())).expect("threads").flatten();
    let mut count = 0;
    for thread in threads {
        // One that has just ended has nothing to say.
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
        let value = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        let value = value.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(value, wanted, "{field} of {}", status.lines().next().unwrap_or_default());
        count += 1;
    }
    assert!(count > 5, "the server has more threads than {count}");
}

#[track_caller]
fn check_capabilities(server: &Server, kept: &str, ambient: &str) {
    check_threads(server, "CapPrm", kept);
    check_threads(server, "CapEff", kept);
    check_threads(server, "CapInh", ambient);
    check_threads(server, "CapAmb", ambient);
    check_threads(server, "NoNewPrivs", "1");
}

#[track_caller]
fn check_user(server: &Server, user: u32) {
    let all = format!("{user} {user} {user} {user}");
    check_threads(server, "Uid", &all);
    check_threads(server, "Gid", &all);
}

#[track_caller]
fn check_mail(server: &Server) {
    let mut client = Client::hello(server.smtp());
    client.deliver("a@example.org", &["alice@example.com"], &message("mail", "body\r\n"));
    client.quit();
    server.maildir("example.com/alice").only();
}

/// As the unit starts it: port 25 is bound, and what that took is gone.
#[test]
fn a_user_with_the_capability_for_port_25_has_none_afterwards() {
    let wrapper = as_nobody(&["net_bind_service"]);
    let mut server = Server::start_at(home_of_nobody(), Settings::default().cores(2).under(&words(&wrapper)));
    assert_eq!(server.smtp().port(), 25);
    check_user(&server, NOBODY);
    check_capabilities(&server, NO_CAPABILITY, NO_CAPABILITY);
    check_mail(&server);
    server.stop();
}

#[test]
fn root_becomes_the_user_of_the_config_once_port_25_is_bound() {
    let settings = Settings::default().cores(2).set("server", "user = \"nobody\"").set("server", "group = \"nogroup\"");
    let mut server = Server::start_at(home_of_nobody(), settings);
    check_user(&server, NOBODY);
    check_threads(&server, "Groups", &NOBODY.to_string());
    check_capabilities(&server, NO_CAPABILITY, NO_CAPABILITY);
    check_threads(&server, "CapBnd", NO_CAPABILITY);
    check_mail(&server);
    for path in [server.home.state_dir(), server.maildir("example.com/alice").only().path] {
        assert_eq!(fs::metadata(&path).expect("there").uid(), NOBODY, "{}", path.display());
    }
    let line = server.wait_for_line("privileges settled", |_| true);
    assert_eq!((&line["name"], &line["capabilities"]), (&"nobody".into(), &"none".into()));
    // Reloads need nothing that is gone; a restart finds its files.
    server.reconfigure(|settings| settings.set("limits", "hops = 7"));
    server.tell(&["reload"]).ok();
    server.stop();
    server.start_again();
    server.stop();
}

#[test]
fn root_keeps_what_it_needs_and_nothing_else() {
    let mut home = Home::new(1);
    home.smtp[0].set_port(25);
    // A state directory of somebody else is no hindrance.
    fs::create_dir(home.state_dir()).expect("made");
    chown(home.state_dir(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let mut server = Server::start_at(home, Settings::default().cores(2));
    check_user(&server, 0);
    check_capabilities(&server, OF_ROOT, NO_CAPABILITY);
    check_threads(&server, "CapBnd", OF_ROOT);
    check_mail(&server);
    server.stop();
}

/// nft runs as the same user, with the one capability that goes on to it.
#[test]
fn bans_are_mirrored_into_nftables_by_a_user_that_is_not_root() {
    in_own_network(|| {
        nft(RULES);
        let settings = Settings::default()
            .set("bans", "nftables = \"inet filter banned4 banned6\"")
            .set("server", "user = \"nobody\"");
        let server = Server::start_at(home_of_nobody(), settings);
        check_capabilities(&server, NET_ADMIN, NET_ADMIN);
        check_threads(&server, "CapBnd", NET_ADMIN);
        server.tell(&["ban", "add", "192.0.2.7"]).ok();
        wait_for("banned4", &[("192.0.2.7", FOR_GOOD)]);
    });
}

/// The server does not start, and says each of `wanted`.
#[track_caller]
fn check_fault(home: &Home, settings: &Settings, wanted: &[&str]) {
    let config = home.configure(settings);
    let mut command = settings.command(crate::support::server::BINARY);
    let told = run(command.arg("serve").arg("--config").arg(config).current_dir(home.path()), "");
    assert!(!told.status.success(), "it starts");
    for wanted in wanted {
        assert!(told.all().contains(wanted), "{wanted:?} is not in {}", told.all());
    }
}

#[test]
fn a_user_that_can_not_be_is_told() {
    let (mine, others) = (Home::new(1), home_of_nobody());
    let user = |name: &str| Settings::default().set("server", &format!("user = \"{name}\""));
    check_fault(&mine, &user("no-such-user"), &["no user \"no-such-user\"", "useradd --system no-such-user"]);
    check_fault(&mine, &user("43210"), &["server.group"]);
    let group = user("nobody").set("server", "group = \"no-such-group\"");
    check_fault(&mine, &group, &["no group \"no-such-group\""]);
    let nobody = as_nobody(&["net_bind_service"]);
    check_fault(&others, &user("mail").under(&words(&nobody)), &["only root can become another user", "as mail"]);
}

/// A state directory in which root has served before, and one that can't be made.
#[test]
fn a_state_directory_of_another_user_is_told() {
    let settings = Settings::default().set("server", "user = \"nobody\"");
    let mut server = Server::start_at(home_of_nobody(), Settings::default());
    server.stop();
    let state_dir = server.home.state_dir().display().to_string();
    let advice = format!("chown -R nobody:{NOBODY} {state_dir}");
    check_fault(&server.home, &settings, &[&state_dir, "server.user", &advice]);
    run(std::process::Command::new("chown").args(["-R", "nobody:nogroup"]).arg(server.home.path()), "").ok();
    server.change(|before| before.set("server", "user = \"nobody\""));
    server.start_again();
    server.stop();
    let home = Home::new(1);
    check_fault(&home, &settings, &["install -d -m 0700 -o nobody"]);
}
