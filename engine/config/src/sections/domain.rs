//! `[[domain]]`: whom mail is accepted for.

use crate::{
    check,
    config::{Listener, domain_default},
    keys::{Key, Kind, Section},
    reader::{Entry, Reader, Setting, Table, Trouble, elements},
    routing::DomainRoute,
    sections::{
        route::{self, Lead},
        target::Targets,
    },
};
use ringpost_policy::{Domain, Recipients};
use ringpost_smtp::TlsUse;

pub(crate) static DOMAIN: Section = Section {
    path: "domain",
    header: "[[domain]]",
    intro: "A domain that mail is accepted for. For all others RCPT gets 550 5.7.1.",
    stand_in: Some("[[domain]]\nname = \"example.com\"\ntarget = \"local\"\n"),
    keys: &[
        Key::required(
            "name",
            Kind::Text("a domain name"),
            "The domain, without regard to case. Subdomains are domains of their own.",
        ),
        Key::new(
            "recipients",
            Kind::Text(RECIPIENTS),
            r#""any""#,
            "Who exists in it: `\"any\"`, every local part; a list of local parts, compared without regard to ASCII \
             case; or `{ file = \"PATH\" }`, see `[domain.recipients]`. Say who exists where you can: mail for others \
             is then refused, instead of being accepted for nobody.",
        ),
        Key::new(
            "subaddress",
            Kind::Text("one character, or \"\""),
            r#""+""#,
            "What separates a local part from a detail of it, as in `alice+lists`, which exists where `alice` does. \
             Empty: nothing does.",
        ),
        Key::new(
            "tls_required",
            Kind::Flag,
            "false",
            "Whether its mail is taken over TLS only: without it RCPT gets 530 5.7.0.",
        ),
        Key::required(
            "target",
            Kind::Text(route::TARGETS),
            "The `[[target]]` that its mail goes to, or a list of 1 to 8, each of which gets it.",
        ),
        route::DURABILITY,
        route::PRIORITY,
    ],
};

pub(crate) static RECIPIENTS_FILE: Section = Section {
    path: "domain.recipients",
    header: "[domain.recipients]",
    intro: "Who exists in a domain, as a file, usually written as `recipients = { file = \"PATH\" }`. A line is a local \
            part, a pattern with `*`, or an alias, `info: alice, bob@example.org`; `#` begins a comment. The file is \
            read again with the config.",
    stand_in: None,
    keys: &[Key::required(
        "file",
        Kind::Text("a file"),
        "The file, relative to the working directory. A fault in it is an error of the start, or of the reload.",
    )],
};

const RECIPIENTS: &str = "\"any\", a list of local parts, such as [\"alice\", \"bob\"], or { file = \"PATH\" }";

/// What a local part may have without quotes that is neither a letter nor a digit (RFC 5321 section 4.1.2).
const SEPARATORS: &str = "!#$%&'*+-/=?^_`{|}~";

/// Reads every `[[domain]]`: the domain, and the way of its mail.
pub(crate) fn domains(root: &Table<'_>, listeners: &[Listener], targets: &Targets) -> (Vec<Domain>, Vec<DomainRoute>) {
    let reader = root.reader;
    let tables = root.tables("domain", &DOMAIN);
    route::require_some(reader, &tables, "domain");
    let Some(tables) = &tables.value else {
        let default = DomainRoute { domain: domain_default().name, ..DomainRoute::default() };
        targets.require_for_default(reader, &default);
        return (vec![domain_default()], vec![default]);
    };
    let (mut domains, mut routes, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables {
        let name = table.text("name", "", check::domain).map(|name| name.to_lowercase());
        let Lead { targets, durability, priority } = route::lead(table, targets);
        routes.push(DomainRoute { domain: name.value.clone(), targets, durability, priority });
        domains.push(Domain {
            name: name.value.clone(),
            recipients: recipients(table),
            subaddress: subaddress(table),
            tls_required: tls_required(table, listeners),
        });
        names.push(name);
    }
    reader.distinct(&names, |name, earlier| format!("{name:?} is a domain already, {earlier}"));
    (domains, routes)
}

fn tls_required(table: &Table<'_>, listeners: &[Listener]) -> bool {
    let setting = table.flag("tls_required", false);
    let reachable = listeners.iter().any(|listener| listener.tls != TlsUse::Off);
    table.reader.require(reachable || !setting.value, &[setting.spot()], || {
        "no listener has TLS, so that no mail could be taken for the domain".to_owned()
    });
    setting.value
}

fn subaddress(table: &Table<'_>) -> Option<char> {
    let default = Domain::default().subaddress;
    let setting = table.setting("subaddress", default, |entry, row| {
        let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (None, _) => Ok(None),
            (Some(only), None) if SEPARATORS.contains(only) => Ok(Some(only)),
            (Some(_), None) => Err(format!("{text:?} does not separate; what does is one of {SEPARATORS}").into()),
            _ => Err(format!("{text:?} is more than one character").into()),
        }
    });
    setting.value
}

fn recipients(table: &Table<'_>) -> Recipients {
    if table.has_table("recipients") {
        let table = table.table("recipients", &RECIPIENTS_FILE);
        return Recipients::File(table.file("file").value);
    }
    table.setting("recipients", Recipients::Any, |entry, _| recipients_here(table.reader, entry)).value
}

fn recipients_here<'r>(reader: &'r Reader<'r>, entry: &Entry<'r>) -> Result<Recipients, Trouble> {
    if let Some(text) = entry.text() {
        return match text {
            "any" => Ok(Recipients::Any),
            _ => Err(format!("{text:?} is not {RECIPIENTS}").into()),
        };
    }
    let local_part = |element: &Entry<'_>| {
        let text = element.text().ok_or_else(|| element.wants("a local part, such as \"alice\""))?;
        check::local_part(text).map(|()| text.to_owned())
    };
    let list = elements(reader, entry, local_part).ok_or_else(|| entry.wants(RECIPIENTS))?;
    if list.is_empty() {
        return Err("the list is empty, so that nobody would get mail; leave the [[domain]] out instead".into());
    }
    let list: Vec<Setting<String>> = list.into_iter().flatten().collect();
    let folded: Vec<_> = list.iter().cloned().map(|name| name.map(|name| name.to_ascii_lowercase())).collect();
    reader.distinct(&folded, |name, earlier| format!("{name:?} is in the list already, as {earlier}"));
    Ok(Recipients::Listed(list.into_iter().map(|name| name.value).collect()))
}

#[cfg(test)]
mod tests {
    use crate::{Config, TargetKind, tests::check};
    use ringpost_policy::Recipients;

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[[domain]]\nname = 'Bücher.Example'\ntarget = 'b'\n\
             [[domain]]\nname = 'Example.ORG'\nrecipients = ['Alice', 'bob']\ntarget = 'a'\nsubaddress = ''\n\
             [[domain]]\nname = 'c.org'\nrecipients = { file = 'c.txt' }\ntarget = 'a'\nsubaddress = '-'\n\
             [[domain]]\nname = 'd.org'\nrecipients.file = '/d'\ntarget = 'a'\ntls_required = true\n\
             [[domain]]\nname = 'e.org'\ntarget = 'a'\n[domain.recipients]\nfile = 'e'\n\
             [[target]]\nname = 'a'\nkind = 'maildir'\npath = '/srv/{address}/Mail'\n\
             [[target]]\nname = 'b'\nkind = 'discard'\n[[target]]\nname = 'c'\nkind = 'maildir'",
        );
        let config = config.expect("the text has no fault");
        assert_eq!(config.policy.domains[0].name, "bücher.example");
        assert_eq!(config.policy.domains[0].recipients, Recipients::Any);
        assert_eq!(config.policy.domains[1].name, "example.org");
        assert_eq!(config.policy.domains[1].recipients, Recipients::Listed(vec!["Alice".into(), "bob".into()]));
        let file = |path: &str| Recipients::File(path.into());
        let files: Vec<_> = config.policy.domains[2..].iter().map(|domain| domain.recipients.clone()).collect();
        assert_eq!(files, [file("c.txt"), file("/d"), file("e")]);
        let separators: Vec<_> = config.policy.domains.iter().map(|domain| domain.subaddress).collect();
        assert_eq!(separators, [Some('+'), None, Some('-'), Some('+'), Some('+')]);
        assert_eq!(config.policy.domains.iter().filter(|domain| domain.tls_required).count(), 1);
        assert_eq!(config.targets[0].kind, TargetKind::Maildir { path: "/srv/{address}/Mail".into() });
        assert_eq!(config.targets[1].kind, TargetKind::Discard);
        assert_eq!(config.targets[2].kind, TargetKind::Maildir { path: "mail/{domain}/{local}".into() });
    }

    #[test]
    fn faults_of_a_domain() {
        check(
            "[[domain]]\nrecipients = 'all'\n[[domain]]\nname = 'a..b'\nrecipients = []\ntarget = 5",
            &[
                "f:1:1: domain[0].name: missing, wants a domain name",
                "f:1:1: domain[0].target: missing, wants the name of a target, or a list of names",
                "f:2:14: domain[0].recipients: \"all\" is not \"any\", a list of local parts, such as [\"alice\", \
             \"bob\"], or { file = \"PATH\" }",
                "f:4:8: domain[1].name: \"a..b\" is not a domain: it has an empty label",
                "f:5:14: domain[1].recipients: the list is empty, so that nobody would get mail; leave the [[domain]] \
             out instead",
                "f:6:10: domain[1].target: found an integer, wants the name of a target, or a list of names",
            ],
        );
        check(
            "[[domain]]\nname = 'a.org'\nrecipients = ['x@a.org', 'b', 1, 'B']\ntarget = 'lokal'\n\
             [[domain]]\nname = 'A.ORG'\ntarget = 'elsewhere'",
            &[
                "f:3:15: domain[0].recipients[0]: \"x@a.org\" is not a local part: it has an \"@\"; only what stands \
                 before it belongs here; did you mean \"x\"?",
                "f:3:31: domain[0].recipients[2]: found an integer, wants a local part, such as \"alice\"",
                "f:3:34: domain[0].recipients[3]: \"b\" is in the list already, as domain[0].recipients[1]",
                "f:4:10: domain[0].target: \"lokal\" is not the name of a target; did you mean \"local\"?",
                "f:6:8: domain[1].name: \"a.org\" is a domain already, domain[0].name",
                "f:7:10: domain[1].target: \"elsewhere\" is not the name of a target; the targets are local",
            ],
        );
        check(
            "domain = []\ntarget = []",
            &[
                "f:1:10: domain: the list is empty; leave it out for the default, or give one domain at least",
                "f:2:10: target: the list is empty; leave it out for the default, or give one target at least",
            ],
        );
    }

    #[test]
    fn faults_of_what_a_domain_asks_for() {
        check(
            "[[domain]]\nname = 'a.org'\ntarget = 'local'\nsubaddress = '+-'\ntls_required = 'true'\n\
             recipients = { fil = 'x' }\n\
             [[domain]]\nname = 'b.org'\ntarget = 'local'\nsubaddress = 'x'\nrecipients = { file = '' }",
            &[
                "f:4:14: domain[0].subaddress: \"+-\" is more than one character",
                "f:5:16: domain[0].tls_required: found a string, wants true or false without quotes",
                "f:6:14: domain[0].recipients.file: missing, wants a file",
                "f:6:16: domain[0].recipients.fil: unknown key; did you mean \"file\"?",
                "f:10:14: domain[1].subaddress: \"x\" does not separate; what does is one of !#$%&'*+-/=?^_`{|}~",
                "f:11:23: domain[1].recipients.file: the path is empty",
            ],
        );
        check(
            "listener = [{ address = ['127.0.0.1:25'], tls = 'off' }]\n[[domain]]\nname = 'a.org'\ntarget = 'local'\n\
             tls_required = true",
            &["f:5:16: domain[0].tls_required: no listener has TLS, so that no mail could be taken for the domain"],
        );
    }
}
