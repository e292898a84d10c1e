//! Addresses: what is taken and what is refused is what a plain reading of the grammar says, and what is taken comes out
//! as it went in, also through MAIL and RCPT.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_fuzz::play::answers_to;
use ringpost_smtp::{Mailbox, Path, Step};

/// Longest path, brackets included (RFC 5321 section 4.5.3.1.3).
const PATH_MAX: usize = 256;
/// Longest local part of a recipient (RFC 5321 section 4.5.3.1.1).
const LOCAL_MAX: usize = 64;

fuzz_target!(|text: &str| {
    let parsed = Mailbox::parse(text);
    assert_eq!(parsed.is_ok(), is_mailbox(text), "{text:?}: {parsed:?}");
    if let Ok(mailbox) = &parsed {
        assert_eq!(mailbox.as_str(), text);
        assert_eq!(format!("{}@{}", mailbox.local(), mailbox.domain()), text);
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(mailbox.is_international(), !text.is_ascii());
    }
    in_commands(text, parsed.ok().as_ref());
});

/// The same address in MAIL and RCPT.
fn in_commands(text: &str, mailbox: Option<&Mailbox>) {
    if text.contains(['\r', '\n']) || text.len() > PATH_MAX {
        return;
    }
    let steps = answers_to(&[&format!("MAIL FROM:<{text}> SMTPUTF8")]);
    let sender = steps.iter().find_map(|step| match step {
        Step::Mail(mail) => Some(&mail.from),
        _ => None,
    });
    let steps = answers_to(&["MAIL FROM:<> SMTPUTF8", &format!("RCPT TO:<{text}>")]);
    let recipient = steps.iter().find_map(|step| match step {
        Step::Rcpt(rcpt) => Some(&rcpt.to),
        _ => None,
    });
    for path in sender.into_iter().chain(recipient) {
        match path {
            // A source route is left out.
            Path::Mailbox(taken) => {
                assert_eq!(Mailbox::parse(taken.as_str()).as_ref(), Ok(taken));
                assert!(text.ends_with(taken.as_str()) || text.contains(&format!("{taken}>")), "{text:?}: {taken}");
            }
            Path::Null => assert!(text.is_empty() || text.starts_with('>'), "{text:?}"),
            Path::Postmaster => assert_eq!(text[..10].to_ascii_lowercase(), "postmaster"),
        }
    }
    let Some(mailbox) = mailbox else { return };
    let path = Path::Mailbox(mailbox.clone());
    let fits = text.len() + 2 <= PATH_MAX;
    assert_eq!(sender, fits.then_some(&path), "{text:?}");
    let is_served = fits && mailbox.local().len() <= LOCAL_MAX;
    assert_eq!(recipient, is_served.then_some(&path), "{text:?}");
}

/// `local@domain`: the domain has no `@`, so the last one stands between them.
fn is_mailbox(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(local, domain)| is_local(local) && is_domain(domain))
}

fn is_local(local: &str) -> bool {
    let is_text = |c: char| !c.is_control();
    if let Some(inner) = local.strip_prefix('"') {
        // What is escaped is taken out; then no quote and no backslash is left but the closing quote.
        let Some(inner) = inner.strip_suffix('"') else { return false };
        let plain = inner.replace("\\\\", "").replace("\\\"", "");
        let chars: Vec<char> = plain.chars().collect();
        let escapes_something = chars.iter().enumerate().all(|(at, c)| *c != '\\' || at + 1 < chars.len());
        return escapes_something && !plain.contains('"') && inner.chars().all(is_text);
    }
    let is_atom = |c: char| match c {
        '"' | '(' | ')' | ',' | ':' | ';' | '<' | '>' | '@' | '[' | '\\' | ']' | ' ' => false,
        _ => is_text(c),
    };
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom))
}

fn is_domain(domain: &str) -> bool {
    if domain.len() > 255 {
        return false;
    }
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let is_v4 = literal.parse::<std::net::Ipv4Addr>().is_ok();
        let tag = literal.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        return is_v4 || (tag && literal[5..].parse::<std::net::Ipv6Addr>().is_ok());
    }
    let is_letter = |c: char| match c {
        _ if c.is_ascii() => c.is_ascii_alphanumeric() || c == '-' || c == '_',
        _ => !c.is_control(),
    };
    let is_label = |label: &str| {
        let whole = (1..=63).contains(&label.len()) && label.chars().all(is_letter);
        whole && !label.starts_with('-') && !label.ends_with('-')
    };
    domain.split('.').all(is_label)
}
