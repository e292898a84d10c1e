//! The recipients file: any text is answered, with a directory or with faults that have a place in it. What is found
//! doesn't depend on how a name is written, simple files mean what a plain reading says, and no alias leads too far.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_policy::{ALIAS_ADDRESSES_MAX, Directory, Domain, Match, Options, Policy, Recipients};
use ringpost_smtp::{Mailbox, Path, Rcpt};
use std::collections::HashMap;
use std::sync::Arc;

/// What separates a detail from a local part.
const SEPARATOR: char = '+';

fuzz_target!(|text: &str| match Directory::parse("file", text) {
    Err(faults) => {
        let lines = text.lines().count().max(1) as u32;
        assert!(!faults.is_empty());
        for fault in faults {
            assert!((1..=lines).contains(&fault.line) && fault.column > 0, "{fault}");
            // Nothing of the file reaches a terminal as a control sequence.
            assert_eq!(fault.to_string().chars().find(|c| c.is_control()), None, "{:?}", fault.to_string());
        }
    }
    Ok(directory) => {
        for name in names(text) {
            one_name(&directory, &name);
        }
        if let Some(plain) = Plain::of(text) {
            for name in names(text) {
                let found = directory.find(&name, Some(SEPARATOR)).map(|found| found.how);
                assert_eq!(found, plain.find(&name), "{name:?}");
            }
        }
        in_policy(directory, text);
    }
});

/// Names to be looked up: all words of the file, with and without a detail.
fn names(text: &str) -> Vec<String> {
    let words =
        text.split([' ', '\t', ',', ':', '\n', '\r', '*', '@']).filter(|word| !word.is_empty() && word.len() < 64);
    let words: Vec<&str> = words.take(40).chain(["nobody"]).collect();
    words.iter().flat_map(|word| [(*word).to_owned(), format!("{word}+x"), format!("x{word}")]).collect()
}

/// Case and needless quotes mean nothing.
fn one_name(directory: &Directory, name: &str) {
    let found = directory.find(name, Some(SEPARATOR));
    let swapped: String = name
        .chars()
        .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    assert_eq!(directory.find(&swapped, Some(SEPARATOR)), found, "{name:?}");
    if !name.contains(['"', '\\']) {
        assert_eq!(directory.find(&format!("\"{name}\""), Some(SEPARATOR)), found, "{name:?}");
    }
    for target in found.iter().flat_map(|found| found.targets) {
        let domain = target.domain().unwrap_or("example.com");
        let address = format!("{}@{domain}", target.local());
        assert!(Mailbox::parse(&address).is_ok(), "{address:?}");
        assert!(!domain.bytes().any(|byte| byte.is_ascii_uppercase()), "{address:?}");
    }
}

/// Whatever policy makes of the file: what it takes, it can serve.
fn in_policy(directory: Directory, text: &str) {
    let domain = |name: &str, recipients| Domain { name: name.into(), recipients, ..Domain::default() };
    let listed = domain("example.com", Recipients::File("path".into()));
    let open = domain("b.example", Recipients::Any);
    let options = Options { domains: vec![listed, open], ..Options::default() };
    let policy = match Policy::new(options, &HashMap::from([("path".to_owned(), Arc::new(directory))])) {
        Ok(policy) => policy,
        Err(faults) => return assert!(!faults.is_empty()),
    };
    for name in names(text) {
        let Ok(mailbox) = Mailbox::parse(&format!("{name}@example.com")) else { continue };
        let Ok(served) = policy.recipient(&Rcpt::new(Path::Mailbox(mailbox)), false) else { continue };
        assert!((1..=ALIAS_ADDRESSES_MAX).contains(&served.addresses.len()), "{name:?}: {served:?}");
        for address in &served.addresses {
            let address = Mailbox::parse(address).unwrap_or_else(|error| panic!("{address}: {error}"));
            // An alias leads to mailboxes, never to another alias that nobody follows.
            let again = policy.recipient(&Rcpt::new(Path::Mailbox(address)), false);
            assert!(again.is_ok_and(|served| served.how != Match::Alias), "{name:?}: {served:?}");
        }
    }
}

/// A file of simple lines, read with nothing but splits: names of letters, digits and few signs, aliases, and patterns.
#[derive(Default)]
struct Plain {
    names: Vec<String>,
    aliases: Vec<String>,
    patterns: Vec<String>,
}

impl Plain {
    fn of(text: &str) -> Option<Self> {
        let is_simple = |c: char| c.is_ascii_alphanumeric() || ".-_+* ,:@\n".contains(c);
        if !text.chars().all(is_simple) {
            return None;
        }
        let mut plain = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let line = line.to_ascii_lowercase();
            match line.split_once(':') {
                Some((alias, _)) => plain.aliases.push(alias.trim().to_owned()),
                None if line.contains('*') => plain.patterns.push(line),
                None => plain.names.push(line),
            }
        }
        Some(plain)
    }

    fn find(&self, name: &str) -> Option<Match> {
        let name = name.to_ascii_lowercase();
        let (has, leads) = (|name: &String| self.names.contains(name), |name: &String| self.aliases.contains(name));
        let user = name.split(SEPARATOR).next().filter(|user| !user.is_empty() && *user != name).map(str::to_owned);
        if has(&name) {
            Some(Match::Exact)
        } else if leads(&name) {
            Some(Match::Alias)
        } else if user.as_ref().is_some_and(has) {
            Some(Match::Subaddress)
        } else if user.as_ref().is_some_and(leads) {
            Some(Match::Alias)
        } else if self.patterns.iter().any(|pattern| pattern != "*" && fits(pattern.as_bytes(), name.as_bytes())) {
            Some(Match::Pattern)
        } else {
            self.patterns.iter().any(|pattern| pattern == "*").then_some(Match::Everybody)
        }
    }
}

/// Whether a pattern fits, by what each star could stand for.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Row by row: which beginnings of the text the pattern so far can stand for.
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for byte in pattern {
        let before = ends.clone();
        for at in 0..ends.len() {
            ends[at] = match byte {
                b'*' => before[..=at].contains(&true),
                _ => at > 0 && before[at - 1] && text[at - 1] == *byte,
            };
        }
    }
    ends[text.len()]
}
