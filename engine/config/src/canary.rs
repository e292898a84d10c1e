//! What of a new config one core can try while the others go on by the one before.
//!
//! What cores decide for themselves can be tried: what a session allows, who exists, how hosts are judged, certificates, where
//! mail goes. What they decide together is held back, as it has to be one thing for all of them: an address is counted and a
//! greylist kept by the core that owns it, a target's rate and breaker likewise, and bans, log and traces are the process's.
//! What would break mail on one core is refused: a proxy can't know which core takes its connection.

use crate::config::Config;

/// A config for one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What the core serves by.
    pub config: Config,
    /// The paths of what it does not try, as in [`Config::differences`].
    pub held: Vec<String>,
}

impl Config {
    /// What one core can try of `next`, which is [reloaded](Self::reloaded) already, while the others serve by this config.
    ///
    /// # Errors
    /// Why it can't be tried on one core, a reason each.
    pub fn trial(&self, next: &Self) -> Result<Trial, Vec<String>> {
        let reasons = self.only_together(next);
        if !reasons.is_empty() {
            return Err(reasons);
        }
        let mut config = next.clone();
        config.server.stall_timeout = self.server.stall_timeout;
        config.tls.expiry_warning = self.tls.expiry_warning;
        config.policy.ledger = self.policy.ledger.clone();
        config.policy.bans = self.policy.bans.clone();
        config.policy.greylist = self.policy.greylist.clone();
        config.targets.clone_from(&self.targets);
        config.admin.clone_from(&self.admin);
        config.canary = self.canary;
        config.log.clone_from(&self.log);
        config.telemetry.clone_from(&self.telemetry);
        let held = config.differences(next);
        Ok(Trial { config, held })
    }

    /// What of `next` has to be in force on all cores at once.
    fn only_together(&self, next: &Self) -> Vec<String> {
        let mut reasons = Vec::new();
        for listener in &next.listeners {
            let Some(former) = self.listeners.iter().find(|former| former.name == listener.name) else { continue };
            let changed =
                [("proxy_from", former.proxy_from != listener.proxy_from), ("tls", former.tls != listener.tls)];
            for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
                let name = &listener.name;
                reasons.push(format!(
                    "listener[{name}].{key}: who connects can't know which core answers, so it has to be the same on all"
                ));
            }
        }
        for (route, target) in next.routing.named_targets() {
            if !self.targets.iter().any(|known| known.name == *target) {
                reasons.push(format!(
                    "{route} leads to the target {target:?}, which is new: the core that would keep its limits may be another. \
                     Add the target by a reload first"
                ));
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn parse(text: &str) -> Config {
        Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors:#}\n{text}"))
    }

    const BASE: &str = "[[target]]\nname = 'local'\nkind = 'maildir'\n[[domain]]\nname = 'a.org'\ntarget = 'local'\n";

    /// What of a change is tried, and what is held back.
    #[track_caller]
    fn check(change: &str, tried: &[&str], held: &[&str]) {
        let (former, next) = (parse(BASE), parse(&format!("{BASE}{change}")));
        let trial = former.trial(&next).unwrap_or_else(|reasons| panic!("{reasons:?}"));
        assert_eq!((former.differences(&trial.config), &trial.held[..]), (tried.map_owned(), &held.map_owned()[..]));
    }

    trait Owned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl Owned for &[&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }

    #[track_caller]
    fn check_refused(former: &str, next: &str, words: &[&str]) {
        let reasons = parse(former).trial(&parse(next)).expect_err("it can't be tried");
        assert_eq!(reasons.len(), words.len(), "{reasons:?}");
        for (reason, words) in reasons.iter().zip(words) {
            assert!(reason.starts_with(words), "{reason}");
        }
    }

    #[test]
    fn what_a_core_decides_alone_is_tried_and_what_all_decide_is_held_back() {
        check("", &[], &[]);
        check(
            "[limits]\nmessage_size = '1MiB'\nmessages_per_ip = 5\nrecipients = 300",
            &["limits.message_size", "limits.recipients"],
            &["limits.messages_per_ip"],
        );
        check("[[domain]]\nname = 'b.org'\ntarget = 'local'", &["domain[b.org]"], &[]);
        check("[[target]]\nname = 'new'\nkind = 'discard'", &[], &["target[new]"]);
        check(
            "[screen]\nweight_helo_malformed = 3\n[greylist]\nmode = 'all'",
            &["screen.weight_helo_malformed"],
            &["greylist.mode"],
        );
        check(
            "[bans]\nallow = ['10.0.0.1']\n[log]\nlevel = 'warn'\n[telemetry]\nsample = 1\n[canary]\nmessages_min = 1",
            &[],
            &["bans.allow", "canary.messages_min", "log.level", "telemetry.sample"],
        );
        check("[tls]\nexpiry_warning = '1d'\nmin_version = '1.3'", &["tls.min_version"], &["tls.expiry_warning"]);
        check("[queue]\nretry_first = '5s'\n[dns]\nattempts = 3", &["dns.attempts", "queue.retry_first"], &[]);
    }

    #[test]
    fn what_would_break_mail_on_one_core_is_refused() {
        let listener = |line: &str| format!("[[listener]]\nname = 'mx'\naddress = ['127.0.0.1:25']\n{line}\n");
        check_refused(
            &listener(""),
            &listener("proxy_from = ['10.0.0.1']\ntls = 'off'"),
            &["listener[mx].proxy_from: ", "listener[mx].tls: "],
        );
        let new = "[[target]]\nname = 'new'\nkind = 'discard'\n";
        check_refused(
            BASE,
            &format!(
                "{BASE}{new}[[domain]]\nname = 'b.org'\ntarget = 'new'\n[[route]]\nrecipient = 'x@*'\ntarget = 'new'"
            ),
            &["domain[b.org] leads to the target \"new\"", "a route leads to the target \"new\""],
        );
        check_refused(BASE, &format!("{BASE}{new}[queue]\ndefault_target = 'new'"), &["queue.default_target leads"]);
    }
}
