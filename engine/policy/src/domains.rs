//! The domains that mail is taken for, and where an address in one of them leads.

use crate::directory::{ALIAS_DEPTH_MAX, Directory, DirectoryFault, FAULTS_MAX, Found, Match, Target, cut, folded};
use crate::options::{Domain, Recipients};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Addresses that one alias may lead to: a RCPT command is not to become a mailing list.
pub const ALIAS_ADDRESSES_MAX: usize = 100;

/// Lookups for one alias: many more than addresses, since aliases may overlap.
const ALIAS_LOOKUPS_MAX: usize = 1_000;

const _: () = assert!(ALIAS_ADDRESSES_MAX < ALIAS_LOOKUPS_MAX);

/// Why the options make no policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyFault {
    /// The recipients file of a domain was not given.
    NoDirectory {
        /// The domain.
        domain: String,
        /// The file's path in the options.
        path: String,
    },
    /// An alias leads nowhere, or too far.
    Directory(DirectoryFault),
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory { domain, path } => write!(f, "{path}: the recipients of {domain} are not loaded"),
            Self::Directory(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for PolicyFault {}

/// One domain.
pub(crate) struct Home {
    name: Box<str>,
    /// Nothing: everybody exists.
    directory: Option<Arc<Directory>>,
    separator: Option<char>,
    pub(crate) tls_required: bool,
}

impl Home {
    fn new(domain: Domain, directories: &HashMap<String, Arc<Directory>>) -> Result<Self, PolicyFault> {
        let directory = match domain.recipients {
            Recipients::Any => None,
            Recipients::Listed(names) => Some(Arc::new(Directory::listed(names.iter().map(String::as_str)))),
            Recipients::File(path) => match directories.get(&path) {
                Some(directory) => Some(directory.clone()),
                None => return Err(PolicyFault::NoDirectory { domain: domain.name, path }),
            },
        };
        let name = domain.name.to_ascii_lowercase().into();
        Ok(Self { name, directory, separator: domain.subaddress, tls_required: domain.tls_required })
    }

    /// How a local part is served.
    pub(crate) fn find(&self, local: &str) -> Option<Found<'_>> {
        let mailbox = |how| Found { how, targets: &[] };
        let Some(directory) = &self.directory else { return Some(mailbox(Match::Any)) };
        // RFC 5321 section 4.5.1: postmaster exists in every domain that takes mail.
        let is_postmaster = || folded(local) == POSTMASTER;
        directory.find(local, self.separator).or_else(|| is_postmaster().then(|| mailbox(Match::Postmaster)))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn separator(&self) -> Option<char> {
        self.separator
    }
}

pub(crate) const POSTMASTER: &str = "postmaster";

/// All domains, in the order of the config file.
pub(crate) struct Domains {
    homes: Vec<Home>,
    by_name: HashMap<Box<str>, usize>,
}

impl Domains {
    pub(crate) fn new(
        domains: Vec<Domain>,
        directories: &HashMap<String, Arc<Directory>>,
    ) -> Result<Self, Vec<PolicyFault>> {
        let (mut homes, mut faults) = (Vec::new(), Vec::new());
        for domain in domains {
            match Home::new(domain, directories) {
                Ok(home) => homes.push(home),
                Err(fault) => faults.push(fault),
            }
        }
        let by_name = homes.iter().enumerate().map(|(at, home)| (home.name.clone(), at)).collect();
        let domains = Self { homes, by_name };
        // A domain that is missing here would make faults of all aliases that lead to it.
        if faults.is_empty() {
            let mut found = domains.check_aliases();
            found.sort();
            found.dedup();
            cut(&mut found);
            faults.extend(found.into_iter().map(PolicyFault::Directory));
        }
        if faults.is_empty() { Ok(domains) } else { Err(faults) }
    }

    /// The first: where mail to `<postmaster>` goes.
    pub(crate) fn first(&self) -> Option<&Home> {
        self.homes.first()
    }

    pub(crate) fn home(&self, domain: &str) -> Option<&Home> {
        self.homes.get(self.number(domain)?)
    }

    /// The addresses that an alias leads to, each once.
    pub(crate) fn expand(&self, home: &Home, targets: &[Target]) -> Vec<Box<str>> {
        let home = self.by_name.get(&home.name).copied().unwrap_or_default();
        let mut walk = Walk::new(self);
        // Each alias was walked when the domains were made, so that none ends badly now.
        let _ = walk.visit(home, targets);
        walk.addresses
    }

    fn number(&self, domain: &str) -> Option<usize> {
        match self.by_name.get(domain) {
            Some(number) => Some(*number),
            None => self.by_name.get(domain.to_ascii_lowercase().as_str()).copied(),
        }
    }

    fn check_aliases(&self) -> Vec<DirectoryFault> {
        let mut faults = Vec::new();
        for (number, home) in self.homes.iter().enumerate() {
            let Some(directory) = &home.directory else { continue };
            for (name, targets) in directory.aliases() {
                if faults.len() > FAULTS_MAX {
                    return faults;
                }
                let before = faults.len();
                for target in targets {
                    let nowhere = self.target(number, target).err();
                    faults.extend(nowhere.map(|reason| directory.fault_of_target(target, reason)));
                }
                if faults.len() == before {
                    let tangle = Walk::new(self).visit(number, targets).err();
                    let reason = tangle.and_then(|tangle| tangle.reason(number, targets));
                    faults.extend(reason.map(|reason| directory.fault_of_alias(name, reason)));
                }
            }
        }
        faults
    }

    /// The number of a target's domain and how it is served there, or why it isn't.
    fn target(&self, home: usize, target: &Target) -> Result<(usize, Found<'_>), String> {
        let number = match target.domain() {
            None => home,
            Some(domain) => self.number(domain).ok_or_else(|| {
                format!("mail is not taken for the domain {domain:?}, and an alias does not send mail elsewhere")
            })?,
        };
        let home = &self.homes[number];
        let found = home.find(target.local()).ok_or_else(|| {
            let nearest = home.directory.as_ref().and_then(|directory| directory.nearest(target.local()));
            let guess = nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
            format!("{:?} is nobody in {}{guess}", target.local(), home.name)
        })?;
        Ok((number, found))
    }
}

/// An alias, by its domain and its targets.
type Node = (usize, *const Target);

/// What stops a walk.
enum Tangle {
    Nowhere,
    Loop(Node),
    TooDeep,
    TooMany,
}

impl Tangle {
    /// What is wrong with the alias that the walk began at. What is wrong with one on the way is said of that one.
    fn reason(self, home: usize, targets: &[Target]) -> Option<String> {
        match self {
            Tangle::Nowhere => None,
            Tangle::Loop(node) if node != (home, targets.as_ptr()) => None,
            Tangle::Loop(_) => Some("this alias leads to itself, by way of other domains or of a detail".to_owned()),
            Tangle::TooDeep => {
                Some(format!("this alias leads to a mailbox by way of more than {ALIAS_DEPTH_MAX} aliases"))
            }
            Tangle::TooMany => Some(format!("this alias leads to more than {ALIAS_ADDRESSES_MAX} addresses")),
        }
    }
}

/// A walk from an alias to all mailboxes that it leads to.
struct Walk<'a> {
    domains: &'a Domains,
    way: Vec<Node>,
    visited: HashSet<Node>,
    lookups: usize,
    addresses: Vec<Box<str>>,
    seen: HashSet<String>,
}

impl<'a> Walk<'a> {
    fn new(domains: &'a Domains) -> Self {
        let (way, visited, seen) = (Vec::new(), HashSet::new(), HashSet::new());
        Self { domains, way, visited, lookups: 0, addresses: Vec::new(), seen }
    }

    fn visit(&mut self, home: usize, targets: &[Target]) -> Result<(), Tangle> {
        let node = (home, targets.as_ptr());
        if self.way.contains(&node) {
            return Err(Tangle::Loop(node));
        }
        if self.way.len() >= ALIAS_DEPTH_MAX {
            return Err(Tangle::TooDeep);
        }
        if !self.visited.insert(node) {
            return Ok(());
        }
        self.way.push(node);
        for target in targets {
            self.lookups += 1;
            if self.lookups > ALIAS_LOOKUPS_MAX {
                return Err(Tangle::TooMany);
            }
            let (number, found) = self.domains.target(home, target).map_err(|_| Tangle::Nowhere)?;
            match found.how {
                Match::Alias => self.visit(number, found.targets)?,
                _ => self.arrive(target.local(), number)?,
            }
        }
        self.way.pop();
        Ok(())
    }

    fn arrive(&mut self, local: &str, home: usize) -> Result<(), Tangle> {
        let domain = &self.domains.homes[home].name;
        if !self.seen.insert(format!("{}@{domain}", folded(local))) {
            return Ok(());
        }
        if self.addresses.len() >= ALIAS_ADDRESSES_MAX {
            return Err(Tangle::TooMany);
        }
        self.addresses.push(format!("{}@{domain}", plain(local)).into());
        Ok(())
    }
}

/// A local part with no more quoting than it needs (RFC 5321 section 4.1.2), so that each mailbox has one address.
pub(crate) fn plain(local: &str) -> String {
    let Some(quoted) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return local.to_owned() };
    let (mut bare, mut least, mut escaped) = (String::new(), String::from('"'), false);
    for c in quoted.chars() {
        escaped = c == '\\' && !escaped;
        if escaped {
            continue;
        }
        bare.push(c);
        if matches!(c, '\\' | '"') {
            least.push('\\');
        }
        least.push(c);
    }
    least.push('"');
    // What begins with quotes is not the name without them, however it goes on.
    let stands = !bare.starts_with('"')
        && ringpost_smtp::Mailbox::parse(&format!("{bare}@x")).is_ok_and(|it| it.local() == bare);
    if stands { bare } else { least }
}
