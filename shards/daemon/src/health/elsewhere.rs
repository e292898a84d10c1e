//! What the server depends on besides itself: targets, DNS lists, the DNS.

use super::memory::{Finding, Trouble};
use super::survey::Survey;
use ringpost_config::{Config, HopPlace, Target, TargetKind, shown_name};
use ringpost_deliver::TargetState;
use ringpost_dns::{Health as ListHealth, ListState};
use std::net::{IpAddr, SocketAddr};

/// Failures in a row from which a target is told: one may be chance.
const FAILURES_MIN: u32 = 3;

/// What a shard knows of targets and lists.
#[derive(Default)]
pub(crate) struct ShardReport {
    pub(crate) targets: Vec<TargetState>,
    pub(crate) lists: Vec<ListState>,
}

/// Every target of the config.
pub(super) fn targets<'a>(
    config: &'a Config,
    reports: &'a [ShardReport],
    survey: &'a Survey,
) -> impl Iterator<Item = Finding> + use<'a> {
    config.targets.iter().map(move |target| {
        let states = reports.iter().flat_map(|report| &report.targets).filter(|state| state.name == target.name);
        let worst = states.max_by_key(|state| (state.is_left_alone, state.failures));
        let failing = worst.and_then(|state| failing(target, state));
        Finding::new(format!("target:{}", target.name), survey.place(&target.name).or(failing))
    })
}

fn failing(target: &Target, state: &TargetState) -> Option<Trouble> {
    let failures = state.failures;
    let reason = match &state.reason {
        _ if failures < FAILURES_MIN && !state.is_left_alone => return None,
        Some(reason) => format!("{failures} messages in a row could not be delivered: {reason}"),
        None if state.is_left_alone => {
            format!("left alone for a while after {failures} failures in a row, and tried again")
        }
        None => format!("{failures} failures in a row"),
    };
    Some(Trouble::new(reason, target_hint(target)))
}

/// Where to look for what is wrong with a target.
pub(super) fn target_hint(target: &Target) -> String {
    if target.kind.is_local() {
        format!("ringpost queue list --target {}", target.name)
    } else {
        "docs/runbooks/hung-next-hop.md".to_owned()
    }
}

/// Every DNS list of the config. One shard that skips it is enough: the others have had less to ask.
pub(super) fn lists<'a>(config: &'a Config, reports: &'a [ShardReport]) -> impl Iterator<Item = Finding> + use<'a> {
    config.policy.screen.lists.iter().map(move |list| {
        let zone = shown_name(&list.zone);
        let states = reports.iter().flat_map(|report| &report.lists).filter(|state| *state.zone == *list.zone);
        let skipped = states.filter(|state| state.health != ListHealth::Working).max_by_key(|state| state.failures);
        let trouble = skipped.map(|state| {
            let why = state.last.map_or(String::new(), |last| format!(": {last}"));
            let reason = format!("skipped, and tried now and then, after {} failures in a row{why}", state.failures);
            Trouble::new(reason, format!("dig 2.0.0.127.{zone}, which a list that works has an answer for"))
        });
        Finding::new(format!("list:{zone}"), trouble)
    })
}

/// The DNS, where anything needs it.
pub(super) fn dns(config: &Config, survey: &Survey) -> Option<Finding> {
    needs_dns(config).then(|| Finding::new("dns", survey.dns()))
}

/// Whether anything of this config is looked up in the DNS.
pub(super) fn needs_dns(config: &Config) -> bool {
    let screen = &config.policy.screen;
    let screened = !screen.lists.is_empty() || screen.wants_reverse() || screen.wants_helo_address();
    (screened && !screen.is_idle()) || config.targets.iter().any(is_by_name)
}

/// Whether a target is reached by a name.
fn is_by_name(target: &Target) -> bool {
    match &target.kind {
        TargetKind::Lmtp(hop) | TargetKind::Smtp(hop) => hop.hosts.iter().any(|host| match &host.place {
            HopPlace::Tcp { host, .. } => host.parse::<IpAddr>().is_err(),
            HopPlace::Unix(_) => false,
        }),
        TargetKind::Webhook(hook) => {
            let (_, rest) = hook.url.split_once("://").unwrap_or(("", &hook.url));
            let authority = rest.split(['/', '?']).next().unwrap_or(rest);
            let host = authority.trim_start_matches('[').trim_end_matches(']');
            authority.parse::<SocketAddr>().is_err()
                && host.parse::<IpAddr>().is_err()
                && host.rsplit_once(':').is_none_or(|(host, _)| host.parse::<IpAddr>().is_err())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn target(kind: &str) -> Config {
        config(&format!("[[target]]\nname = 'local'\n{kind}\n"))
    }

    #[test]
    fn the_dns_is_watched_where_something_is_looked_up() {
        for (text, want) in [
            ("kind = 'maildir'", false),
            ("kind = 'smtp'\nhosts = ['192.0.2.1', '[2001:db8::1]:2525']", false),
            ("kind = 'smtp'\nhosts = ['192.0.2.1', 'mx.example.org']", true),
            ("kind = 'lmtp'\nhosts = ['unix:/run/lmtp']", false),
            ("kind = 'webhook'\nurl = 'http://127.0.0.1:9/a:b'", false),
            ("kind = 'webhook'\nurl = 'http://[::1]/'", false),
            ("kind = 'webhook'\nurl = 'http://192.0.2.1?x'", false),
            ("kind = 'webhook'\nurl = 'https://hook.example:8443/'", true),
        ] {
            assert_eq!(needs_dns(&target(text)), want, "{text}");
        }
        assert!(!needs_dns(&config("screen.weight_rdns_missing = 3")), "nothing follows from what is found");
        assert!(needs_dns(&config("screen.weight_rdns_missing = 3\nscreen.score_reject = 3")));
        assert!(!needs_dns(&Config::default()));
    }

    #[test]
    fn targets_that_fail_are_told() {
        let state = |failures, is_left_alone, reason: Option<&str>| TargetState {
            name: "local".to_owned(),
            failures,
            is_left_alone,
            open_for: None,
            reason: reason.map(str::to_owned),
        };
        let config = target("kind = 'smtp'\nhosts = ['192.0.2.1']");
        for (states, want) in [
            (vec![], ""),
            (vec![state(2, false, None)], ""),
            (vec![state(0, false, None), state(3, false, None)], "3 failures in a row"),
            (vec![state(3, false, None), state(1, true, None)], "left alone for a while after 1 failures"),
            (vec![state(4, false, Some("no room"))], "4 messages in a row could not be delivered: no room"),
        ] {
            let reports: Vec<ShardReport> =
                states.into_iter().map(|state| ShardReport { targets: vec![state], lists: Vec::new() }).collect();
            let finding = targets(&config, &reports, &Survey::default()).next().expect("a target");
            assert_eq!((finding.name.as_str(), finding.serves), ("target:local", true));
            let reason = finding.trouble.map_or(String::new(), |trouble| trouble.reason);
            assert!(reason.starts_with(want) && reason.is_empty() == want.is_empty(), "{reason}");
        }
    }

    #[test]
    fn a_list_that_one_shard_skips_is_told_without_its_key() {
        let key = "0123456789abcdefghij";
        let zone = format!("{key}.zen.example");
        let config = config(&format!("[[screen.list]]\nzone = '{zone}'\nweight = 5"));
        let state = |health| ListState { zone: zone.as_str().into(), health, failures: 5, last: None };
        for (health, failing) in [(ListHealth::Working, false), (ListHealth::Trying, true)] {
            let report = |health| ShardReport { targets: Vec::new(), lists: vec![state(health)] };
            let reports = [report(ListHealth::Working), report(health)];
            let finding = lists(&config, &reports).next().expect("a list");
            assert_eq!((finding.name.as_str(), finding.trouble.is_some()), ("list:***.zen.example", failing));
            assert!(!format!("{finding:?}").contains(key));
        }
    }
}
