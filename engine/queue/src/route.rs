//! Which destinations an address has, and what its route promises.
//!
//! Routes with patterns are looked at first, in their order; then the routes of domains; then the default. All without
//! regard to ASCII case. They are asked at every attempt, so a changed configuration holds for what is queued too.

use ringpost_base::{Durability, Priority};
use std::collections::HashMap;
use std::rc::Rc;

/// Where mail goes: a target, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Its name.
    pub name: Rc<str>,
    /// In the hands of the server itself, so that it needs no lease.
    pub local: bool,
}

/// The route of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRoute {
    /// The domain.
    pub domain: String,
    /// Where its mail goes; to all of them.
    pub destinations: Vec<Destination>,
    /// What it promises.
    pub durability: Durability,
    /// How soon its mail gets its turn.
    pub priority: Priority,
}

/// A route of whatever fits a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRoute {
    /// Over the whole address, of which any may fit: `*` stands for any characters, also none, `?` for one.
    pub patterns: Vec<String>,
    /// Where its mail goes; to all of them.
    pub destinations: Vec<Destination>,
    /// What it promises.
    pub durability: Durability,
    /// How soon its mail gets its turn.
    pub priority: Priority,
}

/// The route of what has no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Where its mail goes; to all of them.
    pub destinations: Vec<Destination>,
    /// What it promises.
    pub durability: Durability,
    /// How soon its mail gets its turn.
    pub priority: Priority,
}

/// What routes are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutesSetup {
    /// Routes with patterns; the first that fits has the address.
    pub patterns: Vec<PatternRoute>,
    /// Routes of domains. Of two for one domain the later holds.
    pub domains: Vec<DomainRoute>,
    /// What has no other route.
    pub default: Option<DefaultRoute>,
}

/// Where an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// To all of these.
    pub destinations: &'a [Destination],
    /// What is promised.
    pub durability: Durability,
    /// How soon it gets its turn.
    pub priority: Priority,
}

/// The routes of all addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    patterns: Vec<PatternRoute>,
    by_domain: HashMap<Box<str>, DomainRoute>,
    default: Option<DefaultRoute>,
}

impl Routes {
    /// From what is configured.
    pub fn new(setup: RoutesSetup) -> Self {
        let RoutesSetup { patterns, domains, default } = setup;
        let by_domain = domains.into_iter().map(|route| (route.domain.to_ascii_lowercase().into(), route));
        Self { patterns, by_domain: by_domain.collect(), default }
    }

    /// The address's route; nothing if none takes it (any more).
    pub fn route(&self, address: &str) -> Option<Route<'_>> {
        let fitting = |route: &&PatternRoute| route.patterns.iter().any(|pattern| fits(pattern, address));
        if let Some(PatternRoute { destinations, durability, priority, .. }) = self.patterns.iter().find(fitting) {
            return Some(Route { destinations, durability: *durability, priority: *priority });
        }
        if let Some(DomainRoute { destinations, durability, priority, .. }) = self.of_domain(address) {
            return Some(Route { destinations, durability: *durability, priority: *priority });
        }
        let DefaultRoute { destinations, durability, priority } = self.default.as_ref()?;
        Some(Route { destinations, durability: *durability, priority: *priority })
    }

    /// What is promised of a message to all of these: what their routes promise where it is the same, and else the most.
    /// Whom no route takes is promised the most too.
    pub fn durability<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) -> Durability {
        let promised =
            addresses.into_iter().map(|address| self.route(address).map_or(Durability::Fsync, |to| to.durability));
        promised.reduce(Durability::joined).unwrap_or_default()
    }

    fn of_domain(&self, address: &str) -> Option<&DomainRoute> {
        let (_, domain) = address.rsplit_once('@')?;
        if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_domain.get(domain.to_ascii_lowercase().as_str());
        }
        self.by_domain.get(domain)
    }
}

/// Whether a pattern fits a text as a whole. Goes back only to the last `*`, so it takes at most the product of both
/// lengths, whatever they are.
fn fits(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // What is left of the pattern behind the last star, and of the text from where that star would end next.
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (pattern.next(), text.clone().next()) {
            (Some('*'), _) => {
                star = Some((pattern.clone(), text.clone()));
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted.eq_ignore_ascii_case(&found) => {
                text.next();
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((behind, from)) = &mut star else { return false };
        if from.next().is_none() {
            return false;
        }
        (pattern, text) = (behind.clone(), from.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(name: &str) -> Vec<Destination> {
        vec![Destination { name: name.into(), local: true }]
    }

    fn domain(domain: &str, name: &str) -> DomainRoute {
        let (durability, priority) = (Durability::Fsync, Priority::Normal);
        DomainRoute { domain: domain.into(), destinations: to(name), durability, priority }
    }

    fn pattern(patterns: &[&str], name: &str) -> PatternRoute {
        let patterns = patterns.iter().map(|pattern| (*pattern).into()).collect();
        PatternRoute { patterns, destinations: to(name), durability: Durability::Memory, priority: Priority::High }
    }

    fn check(setup: &RoutesSetup, cases: &[(&str, Option<&str>)]) {
        let routes = Routes::new(setup.clone());
        for (address, want) in cases {
            let name = routes.route(address).map(|route| &*route.destinations[0].name);
            assert_eq!(name, *want, "{address}");
        }
    }

    #[test]
    fn the_domain_decides() {
        let domains = vec![domain("a.example", "a"), domain("B.Example", "b")];
        let cases = [
            ("x@A.example", Some("a")),
            ("\"x@a.example\"@b.example", Some("b")),
            ("x@c.example", None),
            ("postmaster", None),
        ];
        check(&RoutesSetup { domains, ..RoutesSetup::default() }, &cases);
    }

    #[test]
    fn patterns_come_first_in_their_order_and_the_default_last() {
        let setup = RoutesSetup {
            patterns: vec![pattern(&["list-*@a.example", "postmaster"], "lists"), pattern(&["*-x@a.example"], "x")],
            domains: vec![domain("a.example", "a")],
            default: Some(DefaultRoute {
                destinations: to("rest"),
                durability: Durability::NextHop,
                priority: Priority::Low,
            }),
        };
        let cases = [
            ("LIST-x@a.Example", Some("lists")),
            ("Postmaster", Some("lists")),
            ("b-x@a.example", Some("x")),
            ("list@a.example", Some("a")),
            ("x@elsewhere.example", Some("rest")),
            ("nobody", Some("rest")),
        ];
        check(&setup, &cases);
        let routes = Routes::new(setup);
        let promised = |address| routes.route(address).map(|route| (route.durability, route.priority));
        assert_eq!(promised("list-x@a.example"), Some((Durability::Memory, Priority::High)));
        assert_eq!(promised("x@elsewhere.example"), Some((Durability::NextHop, Priority::Low)));
    }

    #[test]
    fn stars_and_question_marks() {
        let fitting = [("*", ""), ("*", "a@b"), ("a*c", "ac"), ("a*c", "abcbc"), ("?@b", "é@B"), ("**a**", "xay")];
        let others = [("?", ""), ("a*c", "acb"), ("?@b", "@b"), ("a", "ab"), ("ab", "a"), ("*a?", "a"), ("", "a")];
        for (pattern, text) in fitting {
            assert!(fits(pattern, text), "{pattern} fits {text}");
        }
        for (pattern, text) in others {
            assert!(!fits(pattern, text), "{pattern} does not fit {text}");
        }
    }

    /// As the meaning is written down, without regard to what it costs.
    fn fits_plainly(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| fits_plainly(rest, &text[skip..])),
            Some(('?', rest)) => !text.is_empty() && fits_plainly(rest, &text[1..]),
            Some((letter, rest)) => text.first() == Some(letter) && fits_plainly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_they_say(pattern in "[ab*?]{0,7}", text in "[abé]{0,9}") {
            let (letters, characters): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(fits(&pattern, &text), fits_plainly(&letters, &characters), "{} {}", pattern, text);
        }
    }
}
