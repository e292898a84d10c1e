//! Bans mirrored into nftables, in a network of the test's own: the kernel's sets, as `nft` shows them.

use crate::support::net::connect_from;
use crate::support::presented::{XCLIENT, by_xclient};
use crate::support::programs::{program, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use crate::support::wait_until;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

/// A ruleset with sets as `docs/config.md` asks for them. What is banned is reset, so that no test waits for silence.
pub(crate) const RULES: &str = "
table inet filter {
    set banned4 { type ipv4_addr; flags interval, timeout; }
    set banned6 { type ipv6_addr; flags interval, timeout; }
    chain input {
        type filter hook input priority 0;
        ip saddr @banned4 meta l4proto tcp reject with tcp reset
        ip6 saddr @banned6 meta l4proto tcp reject with tcp reset
    }
}
";

/// Seconds of an element that stands for a ban without an end.
pub(crate) const FOR_GOOD: u64 = 30 * 86_400;

/// Runs a test in a thread with a network of its own. What it starts has the same network.
pub(crate) fn in_own_network(test: impl FnOnce() + Send) {
    assert!(rustix::process::geteuid().is_root(), "only root can make a network: run this test as root");
    let inside = || {
        // SAFETY: the call takes flags and no memory, and concerns this thread alone, which ends with the test.
        let made = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(made, 0, "a network can't be made: {}", std::io::Error::last_os_error());
        run(Command::new(program("ip", "iproute2")).args(["link", "set", "lo", "up"]), "").ok();
        test();
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn_scoped(scope, inside);
        if let Err(panic) = thread.expect("a thread").join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(crate) fn nft(script: &str) {
    run(Command::new(program("nft", "nftables")).args(["-f", "-"]), script).ok();
}

/// The elements of a set, with the seconds they were given and those that are left.
fn elements(set: &str) -> BTreeMap<String, (u64, u64)> {
    let mut command = Command::new(program("nft", "nftables"));
    let printed = run(command.args(["-j", "list", "set", "inet", "filter", set]), "").ok().out;
    let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let listed = printed["nftables"].as_array().expect("a list").iter().find_map(|part| part.get("set"));
    let Some(listed) = listed.expect("a set")["elem"].as_array() else { return BTreeMap::new() };
    let element = |element: &serde_json::Value| {
        let element = &element["elem"];
        let (value, prefix) = (&element["val"], &element["val"]["prefix"]);
        let network = match (value.as_str(), prefix["addr"].as_str()) {
            (Some(address), _) => address.to_owned(),
            (None, Some(address)) => format!("{address}/{}", prefix["len"]),
            // In the middle of a change nft may see where an interval begins and not where it ends.
            (None, None) => value.to_string(),
        };
        let seconds = |key: &str| element[key].as_u64().expect("seconds");
        (network, (seconds("timeout"), seconds("expires")))
    };
    listed.iter().map(element).collect()
}

/// Waits until a set has exactly these networks, each with the seconds it was given.
#[track_caller]
pub(crate) fn wait_for(set: &str, wanted: &[(&str, u64)]) {
    let wanted: BTreeMap<String, u64> = wanted.iter().map(|(name, given)| ((*name).to_owned(), *given)).collect();
    let given = || elements(set).into_iter().map(|(name, (given, _))| (name, given)).collect::<BTreeMap<_, _>>();
    wait_until(&format!("{wanted:?} in {set}, which has {:?}", given()), || given() == wanted);
}

fn settings() -> Settings {
    Settings::default().set("bans", "nftables = \"inet filter banned4 banned6\"")
}

#[test]
fn bans_are_in_the_kernel_for_as_long_as_they_last() {
    in_own_network(|| {
        nft(RULES);
        let server = Server::start(settings());
        server.tell(&["ban", "add", "192.0.2.7", "--ttl", "1h"]).ok();
        server.tell(&["ban", "add", "198.51.100.0/24"]).ok();
        server.tell(&["ban", "add", "2001:db8::/32", "--ttl", "10m"]).ok();
        wait_for("banned4", &[("192.0.2.7", 3600), ("198.51.100.0/24", FOR_GOOD)]);
        wait_for("banned6", &[("2001:db8::/32", 600)]);
        // A ban that is made anew has its new end.
        server.tell(&["ban", "add", "192.0.2.7", "--ttl", "2h"]).ok();
        wait_for("banned4", &[("192.0.2.7", 7200), ("198.51.100.0/24", FOR_GOOD)]);
        server.tell(&["ban", "rm", "198.51.100.0/24"]).ok();
        server.tell(&["ban", "rm", "2001:db8::/32"]).ok();
        wait_for("banned4", &[("192.0.2.7", 7200)]);
        wait_for("banned6", &[]);
        // One that ends by itself is gone from both.
        server.tell(&["ban", "add", "192.0.2.8", "--ttl", "1s"]).ok();
        wait_until("the ban has ended", || !server.tell(&["ban", "list"]).ok().out.contains("192.0.2.8"));
        wait_for("banned4", &[("192.0.2.7", 7200)]);
    });
}

#[test]
fn the_kernel_turns_away_who_is_banned() {
    in_own_network(|| {
        nft(RULES);
        let server = Server::start(settings());
        let client: IpAddr = "127.9.9.9".parse().expect("an address");
        let connects = || connect_from(client, server.smtp()).is_ok();
        assert!(connects());
        server.tell(&["ban", "add", "127.9.9.9"]).ok();
        wait_until("no connection is made any more", || !connects());
        // It never came to the server, which has others to serve.
        let refused = server.metrics().total("ringpost_bans_refused_total");
        assert!(!connects());
        assert_eq!(server.metrics().total("ringpost_bans_refused_total"), refused);
        Client::hello(server.smtp()).quit();
        server.tell(&["ban", "rm", "127.9.9.9"]).ok();
        wait_until("connections are made again", connects);
    });
}

#[test]
fn a_rule_bans_in_the_kernel() {
    in_own_network(|| {
        nft(RULES);
        let rule = ["offence = \"error\"", "count = 3", "window = \"1h\"", "duration = \"30m\""];
        let server = Server::start(settings().listener_line(XCLIENT).entry("bans.rule", &rule));
        let mut client = by_xclient(&server, "192.0.2.66", "mail.example.org").client;
        for _ in 0..3 {
            client.say("NONSENSE", 500);
        }
        wait_for("banned4", &[("192.0.2.66", 1800)]);
    });
}

/// The sets are the kernel's, and empty after it or the packet filter was started anew.
#[test]
fn bans_are_in_the_kernel_again_after_a_restart() {
    in_own_network(|| {
        nft(RULES);
        let mut server = Server::start(settings());
        server.tell(&["ban", "add", "192.0.2.7", "--ttl", "1h"]).ok();
        server.tell(&["ban", "add", "2001:db8::/32"]).ok();
        wait_for("banned6", &[("2001:db8::/32", FOR_GOOD)]);
        server.stop();
        // What an earlier run left behind is not what is banned now.
        nft("flush set inet filter banned4\nadd element inet filter banned4 { 203.0.113.1 timeout 1h }\n");
        server.start_again();
        wait_until("the sets are made anew", || elements("banned4").contains_key("192.0.2.7"));
        let (kept, other) = (elements("banned4"), elements("banned6"));
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["192.0.2.7"]);
        assert_eq!(other.keys().collect::<Vec<_>>(), ["2001:db8::/32"]);
        assert!(kept["192.0.2.7"].0 <= 3600, "it would last longer than it was given: {kept:?}");
        // A reload mirrors them again too.
        nft("flush set inet filter banned4\n");
        server.tell(&["reload"]).ok();
        wait_until("the sets are made anew", || elements("banned4").contains_key("192.0.2.7"));
    });
}

/// A set of intervals takes no two elements that overlap; bans may.
#[test]
fn bans_within_each_other_are_in_the_kernel_as_one() {
    in_own_network(|| {
        nft(RULES);
        let mut server = Server::start(settings());
        server.tell(&["ban", "add", "192.0.2.7", "--ttl", "1h"]).ok();
        wait_for("banned4", &[("192.0.2.7", 3600)]);
        server.tell(&["ban", "add", "192.0.2.0/24", "--ttl", "10m"]).ok();
        server.tell(&["ban", "add", "192.0.2.8", "--ttl", "2h"]).ok();
        server.tell(&["ban", "add", "198.51.100.1"]).ok();
        wait_for("banned4", &[("192.0.2.0/24", 600), ("198.51.100.1", FOR_GOOD)]);
        server.stop();
        nft("flush set inet filter banned4\n");
        server.start_again();
        wait_until("the sets are filled again", || elements("banned4").len() == 2);
        // When the widest is gone, those within it are there.
        server.tell(&["ban", "rm", "192.0.2.0/24"]).ok();
        let wanted = ["192.0.2.7", "192.0.2.8", "198.51.100.1"];
        wait_until("those within it", || elements("banned4").into_keys().eq(wanted));
        let problems = server.log().into_iter().filter(|line| line["target"] == "ringpost::nftables");
        assert_eq!(problems.map(|line| line.to_string()).collect::<Vec<_>>(), [""; 0]);
    });
}

/// Somebody else's element in the set, or an emptied one, is not for long.
#[test]
fn what_others_put_into_the_sets_is_mended() {
    in_own_network(|| {
        nft(RULES);
        let server = Server::start(settings());
        server.tell(&["ban", "add", "192.0.2.7"]).ok();
        wait_for("banned4", &[("192.0.2.7", FOR_GOOD)]);
        nft("add element inet filter banned4 { 198.51.100.0/24 timeout 1h }\n");
        // The next change would overlap with it.
        server.tell(&["ban", "add", "198.51.100.1", "--ttl", "1h"]).ok();
        wait_for("banned4", &[("192.0.2.7", FOR_GOOD), ("198.51.100.1", 3600)]);
    });
}

/// Nobody of the allow list may be kept out, not even as one of a banned network.
#[test]
fn networks_with_somebody_allowed_are_not_mirrored() {
    in_own_network(|| {
        nft(RULES);
        let server = Server::start(settings().set("bans", "allow = [\"192.0.2.1\"]"));
        server.tell(&["ban", "add", "192.0.2.0/24"]).ok();
        server.tell(&["ban", "add", "198.51.100.1"]).ok();
        wait_for("banned4", &[("198.51.100.1", FOR_GOOD)]);
        assert!(server.tell(&["ban", "list"]).ok().out.contains("192.0.2.0/24"));
    });
}

#[test]
fn a_set_that_is_not_there_is_told_and_mail_goes_on() {
    in_own_network(|| {
        let server = Server::start(settings().listener_line(XCLIENT));
        let told = "bans can't be mirrored into nftables; they are in force here all the same";
        let line = server.wait_for_line(told, |line| line["level"] == "error");
        assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("No such file")), "{line}");
        server.tell(&["ban", "add", "192.0.2.7"]).ok();
        let mut client = Client::connect(server.smtp());
        client.expect(220);
        client.say("EHLO proxy.example.net", 250);
        client.say("XCLIENT ADDR=192.0.2.7", 554);
        let mut client = by_xclient(&server, "192.0.2.8", "mail.example.org").client;
        client.deliver("a@example.org", &["alice@example.com"], &message("no", "sets\r\n"));
        server.maildir("example.com/alice").only();
        // Once the sets are there, they get what is banned.
        nft(RULES);
        wait_for("banned4", &[("192.0.2.7", FOR_GOOD)]);
        server.wait_for_line("bans are mirrored into nftables again", |_| true);
        let log = server.log();
        assert_eq!(log.iter().filter(|line| line["message"] == told).count(), 1, "it is said once");
    });
}

/// As many as the kernel would not take a change of in one message, from the file and as they come.
#[test]
fn thousands_of_bans_are_in_the_kernel() {
    const BANS: u32 = 20_000;
    in_own_network(|| {
        nft(RULES);
        let mut server = Server::start(settings());
        server.stop();
        let address = |number: u32| IpAddr::from((0x0a00_0000 + 2 * number).to_be_bytes());
        let line = |number| format!("{}\t0\t-\toperator\t\n", address(number));
        let lines: String = (0..BANS).map(line).collect();
        std::fs::write(server.home.state_dir().join("bans"), format!("ringpost bans 1\n{lines}")).expect("written");
        server.start_again();
        let count = || elements("banned4").len();
        wait_until("all are in the kernel", || count() == BANS as usize);
        // A change of few leaves the others as they are.
        server.tell(&["ban", "rm", "10.0.0.2"]).ok();
        server.tell(&["ban", "add", "10.0.0.3"]).ok();
        server.tell(&["ban", "add", "11.0.0.0/8"]).ok();
        wait_until("the changes are in the kernel", || {
            let elements = elements("banned4");
            elements.len() == BANS as usize + 1
                && !elements.contains_key("10.0.0.2")
                && elements.contains_key("10.0.0.3")
                && elements.contains_key("11.0.0.0/8")
        });
        // One ban for nearly all of them, and back.
        server.tell(&["ban", "add", "10.0.0.0/9"]).ok();
        wait_for("banned4", &[("10.0.0.0/9", FOR_GOOD), ("11.0.0.0/8", FOR_GOOD)]);
        server.tell(&["ban", "rm", "10.0.0.0/9"]).ok();
        wait_until("all are in the kernel again", || count() == BANS as usize + 1);
        let problems = server.log().into_iter().filter(|line| line["target"] == "ringpost::nftables");
        assert_eq!(problems.map(|line| line.to_string()).collect::<Vec<_>>(), [""; 0]);
    });
}

/// The wider ban ends by itself, and the one within it has no end.
#[test]
fn a_ban_comes_into_the_kernel_when_the_one_around_it_ends() {
    in_own_network(|| {
        nft(RULES);
        let server = Server::start(settings());
        server.tell(&["ban", "add", "192.0.2.0/24", "--ttl", "3s"]).ok();
        server.tell(&["ban", "add", "192.0.2.7"]).ok();
        wait_until("the wider one", || elements("banned4").contains_key("192.0.2.0/24"));
        assert_eq!(elements("banned4").len(), 1);
        wait_for("banned4", &[("192.0.2.7", FOR_GOOD)]);
        let problems = server.log().into_iter().filter(|line| line["target"] == "ringpost::nftables");
        assert_eq!(problems.map(|line| line.to_string()).collect::<Vec<_>>(), [""; 0]);
    });
}

#[test]
fn a_reload_changes_what_is_mirrored_and_where() {
    in_own_network(|| {
        nft(RULES);
        nft("add set inet filter others4 { type ipv4_addr; flags interval, timeout; }");
        let mut server = Server::start(settings());
        server.tell(&["ban", "add", "192.0.2.0/24"]).ok();
        server.tell(&["ban", "add", "198.51.100.1"]).ok();
        wait_for("banned4", &[("192.0.2.0/24", FOR_GOOD), ("198.51.100.1", FOR_GOOD)]);
        // Somebody of it is allowed now.
        server.reconfigure(|settings| settings.set("bans", "allow = [\"192.0.2.1\"]"));
        server.tell(&["reload"]).ok();
        wait_for("banned4", &[("198.51.100.1", FOR_GOOD)]);
        // What nobody mirrors stays as it was.
        server.reconfigure(|settings| settings.set("bans", "nftables = \"\""));
        server.tell(&["reload"]).ok();
        server.tell(&["ban", "rm", "198.51.100.1"]).ok();
        server.tell(&["ban", "add", "203.0.113.1"]).ok();
        server.reconfigure(|settings| settings.set("bans", "nftables = \"inet filter others4 banned6\""));
        server.tell(&["reload"]).ok();
        wait_for("others4", &[("203.0.113.1", FOR_GOOD)]);
        wait_for("banned4", &[("198.51.100.1", FOR_GOOD)]);
        server.reconfigure(|settings| settings.set("bans", "nftables = \"inet filter banned4 banned6\""));
        server.tell(&["reload"]).ok();
        wait_for("banned4", &[("203.0.113.1", FOR_GOOD)]);
    });
}
