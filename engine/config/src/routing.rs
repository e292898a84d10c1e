//! Routing: which target a recipient's mail goes to, and what is promised for it.

use crate::targets::Target;
use ringpost_base::{Durability, Priority, Span};

/// Which targets the mail of a recipient goes to.
///
/// The first pattern that fits decides, then the recipient's domain, then the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// The route of each domain, in the order of [`ringpost_policy::Options::domains`].
    pub domains: Vec<DomainRoute>,
    /// The routes of recipients, in the order of the file. They stand before those of the domains.
    pub patterns: Vec<PatternRoute>,
    /// The target of whom no other route takes: senders elsewhere, who are to get a report.
    pub default_target: Option<String>,
    /// How long a session waits for the next hop where a route's durability is [`Durability::NextHop`].
    pub next_hop_timeout: Span,
}

impl Routing {
    /// Every target that mail is led to, with what leads there, in words.
    pub(crate) fn named_targets(&self) -> impl Iterator<Item = (String, &String)> {
        let domains = self.domains.iter().map(|route| (format!("domain[{}]", route.domain), &route.targets));
        let patterns = self.patterns.iter().map(|route| ("a route".to_owned(), &route.targets));
        let named = domains.chain(patterns).flat_map(|(who, names)| names.iter().map(move |name| (who.clone(), name)));
        named.chain(self.default_target.iter().map(|name| ("queue.default_target".to_owned(), name)))
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            domains: vec![DomainRoute { domain: DOMAIN_NAME.into(), ..DomainRoute::default() }],
            patterns: Vec::new(),
            default_target: None,
            next_hop_timeout: Span::seconds(60),
        }
    }
}

/// The domain of a server that nobody has configured: one reserved for examples, so that no real mail is taken.
pub(crate) const DOMAIN_NAME: &str = "example.com";

/// The route of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRoute {
    /// The domain, in lower case.
    pub domain: String,
    /// The names of its targets, each of which gets the mail. Never empty.
    pub targets: Vec<String>,
    /// What has become of a message when it is answered 250.
    pub durability: Durability,
    /// How soon a message gets its turn.
    pub priority: Priority,
}

impl Default for DomainRoute {
    fn default() -> Self {
        Self {
            domain: String::new(),
            targets: vec![Target::default().name],
            durability: Durability::default(),
            priority: Priority::default(),
        }
    }
}

/// The route of recipients whose addresses fit a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRoute {
    /// The patterns, in which `*` is any text and `?` any one character, compared with the whole address without regard
    /// to ASCII case. Never empty.
    pub recipients: Vec<String>,
    /// The names of its targets, each of which gets the mail. Never empty.
    pub targets: Vec<String>,
    /// What has become of a message when it is answered 250.
    pub durability: Durability,
    /// How soon a message gets its turn.
    pub priority: Priority,
}
