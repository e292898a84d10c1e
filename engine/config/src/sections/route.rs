//! `[[domain]]` and `[[target]]`: whom mail is accepted for, and where it goes.

use crate::{
    check,
    config::{Listener, MAILDIR_PATH, Target, TargetKind, domain_default},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Entry, Place, Reader, Setting, Table, Trouble, elements},
    sections::listener::distinct_names,
    suggest,
};
use ringpost_policy::{Domain, Recipients};
use ringpost_smtp::TlsUse;
use std::ops::Range;

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
        Key::required("target", Kind::Text("the name of a target"), "The `[[target]]` that its mail goes to."),
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

pub(crate) static TARGET: Section = Section {
    path: "target",
    header: "[[target]]",
    intro: "Where mail goes.",
    stand_in: Some("[[target]]\nname = \"local\"\nkind = \"maildir\"\npath = \"mail/{domain}/{local}\"\n"),
    keys: &[
        Key::required(
            "name",
            Kind::Text("a name"),
            "The name that domains call it by, different for every target: 1 to 64 letters, digits, `-`, `_` or `.`.",
        ),
        Key::required(
            "kind",
            Kind::Choice(names::<KindName>),
            "`maildir` writes each message into a Maildir, `discard` forgets it: for measurements only.",
        ),
        Key::new(
            "path",
            Kind::Text("a directory, with {domain}, {local} or {address} where these are to stand"),
            r#""mail/{domain}/{local}""#,
            "The Maildir, for `maildir` only; relative to `server.state_dir`. `{domain}` and `{local}` are the parts \
             of the recipient's address, `{address}` is all of it. Without `{local}` and `{address}` a domain has one \
             Maildir for everybody.",
        ),
    ],
};

const RECIPIENTS: &str = "\"any\", a list of local parts, such as [\"alice\", \"bob\"], or { file = \"PATH\" }";

/// What a local part may have without quotes that is neither a letter nor a digit (RFC 5321 section 4.1.2).
const SEPARATORS: &str = "!#$%&'*+-/=?^_`{|}~";

const PLACEHOLDERS: [&str; 3] = ["domain", "local", "address"];

/// The word of a target's kind, before the keys of the kind are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KindName {
    Maildir,
    Discard,
}

impl Choice for KindName {
    const ALL: &'static [(&'static str, Self)] = &[("maildir", Self::Maildir), ("discard", Self::Discard)];
    const LATER: &'static [&'static str] = &["lmtp", "smtp", "webhook", "mx"];
}

/// Reads every `[[domain]]` and `[[target]]`. Every domain's target is among the targets.
pub(crate) fn routes(root: &Table<'_>, listeners: &[Listener]) -> (Vec<Domain>, Vec<Target>) {
    let reader = root.reader;
    let domain_tables = root.tables("domain", &DOMAIN);
    let target_tables = root.tables("target", &TARGET);
    for (tables, what) in [(&domain_tables, "domain"), (&target_tables, "target")] {
        let empty = tables.value.as_ref().is_some_and(Vec::is_empty);
        reader.require(!empty, &[tables.spot()], || {
            format!("the list is empty; leave it out for the default, or give one {what} at least")
        });
    }

    let (targets, target_names, targets_sound) = targets(&target_tables);
    let Some(tables) = &domain_tables.value else {
        let default = domain_default();
        let missing = targets_sound && !targets.iter().any(|target| target.name == default.target);
        if missing && let Some(first) = target_tables.value.as_ref().and_then(|tables| tables.first()) {
            let reason = format!(
                "there is no [[domain]], and the default one goes to the target {:?}, which is not here",
                default.target
            );
            reader.fault("domain", first.place.clone(), reason);
        }
        return (vec![default], targets);
    };
    let mut domains = Vec::new();
    let mut domain_names = Vec::new();
    for table in tables {
        let name = table.text("name", "", check::domain).map(|name| name.to_lowercase());
        let target = table.text("target", "", |_| Ok(()));
        let tls_required = table.flag("tls_required", false);
        let reachable = listeners.iter().any(|listener| listener.tls != TlsUse::Off);
        reader.require(reachable || !tls_required.value, &[tls_required.spot()], || {
            "no listener has TLS, so that no mail could be taken for the domain".to_owned()
        });
        let known = target_names.contains(&target.value);
        if targets_sound && !known {
            no_such_target(reader, &target, &target_names);
        }
        domains.push(Domain {
            name: name.value.clone(),
            recipients: recipients(table),
            subaddress: subaddress(table),
            tls_required: tls_required.value,
            target: target.value,
        });
        domain_names.push(name);
    }
    reader.distinct(&domain_names, |name, earlier| format!("{name:?} is a domain already, {earlier}"));
    (domains, targets)
}

fn no_such_target(reader: &Reader<'_>, target: &Setting<String>, names: &[String]) {
    if let Place::Written(place) = &target.place {
        let nearest = suggest::nearest(&target.value, names.iter().map(String::as_str));
        let known = match &nearest {
            Some(_) => String::new(),
            None => format!("; the targets are {}", names.join(", ")),
        };
        let reason = format!("{:?} is not the name of a target{known}", target.value);
        reader.fault(&target.key, place.clone(), Trouble::from(reason).suggest(nearest));
    }
}

/// The targets, their names, and whether every name could be read.
fn targets(tables: &Setting<Option<Vec<Table<'_>>>>) -> (Vec<Target>, Vec<String>, bool) {
    let Some(list) = &tables.value else {
        let default = Target::default();
        let name = default.name.clone();
        return (vec![default], vec![name], tables.place != Place::Faulty);
    };
    let (targets, names): (Vec<_>, Vec<_>) = list.iter().map(target).unzip();
    distinct_names(list, &names, "target");
    let sound = !names.is_empty() && names.iter().all(Setting::is_written) && tables.is_written();
    (targets, names.into_iter().map(|name| name.value).collect(), sound)
}

fn target(table: &Table<'_>) -> (Target, Setting<String>) {
    let name = table.text("name", "", check::name);
    let kind = table.choice("kind", KindName::Maildir);
    let path = table.setting("path", MAILDIR_PATH.to_owned(), |entry, row| {
        let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
        check::path(text)?;
        placeholders(text, entry.raw).map(|()| text.to_owned())
    });
    table.reader.require(!path.is_written() || kind.value == KindName::Maildir, &[path.spot(), kind.spot()], || {
        "only a target of kind \"maildir\" has a path".to_owned()
    });
    let kind = match kind.value {
        KindName::Maildir => TargetKind::Maildir { path: path.value },
        KindName::Discard => TargetKind::Discard,
    };
    (Target { name: name.value.clone(), kind }, name)
}

/// Checks the placeholders of a path; `raw` is the path as written, to find the column of a wrong one in.
fn placeholders(path: &str, raw: &str) -> Result<(), Trouble> {
    let place = |part: &str| raw.find(part).map(|start| start..start + part.len());
    let mut rest = path;
    while let Some(start) = rest.find(['{', '}']) {
        let tail = &rest[start..];
        let Some(end) = tail.find('}').filter(|end| *end > 0 && !tail[1..*end].contains('{')) else {
            let brace = raw_brace(raw, path.len() - tail.len(), path);
            return Err(Trouble::from(format!("a {:?} without its other brace", &tail[..1])).at(brace));
        };
        let (whole, name) = (&tail[..=end], &tail[1..end]);
        if !PLACEHOLDERS.contains(&name) {
            let nearest = suggest::nearest(name, PLACEHOLDERS);
            let reason = format!("{whole:?} is not one of {{domain}}, {{local}}, {{address}}");
            return Err(Trouble::from(reason).suggest(nearest.map(|name| format!("{{{name}}}"))).at(place(whole)));
        }
        rest = &tail[end + 1..];
    }
    Ok(())
}

/// Where the brace at this byte of the path stands in the text as written: the same brace, counted.
fn raw_brace(raw: &str, at: usize, path: &str) -> Option<Range<usize>> {
    let is_brace = |(_, byte): &(usize, u8)| matches!(byte, b'{' | b'}');
    let nth = path.bytes().enumerate().filter(is_brace).position(|(n, _)| n == at)?;
    raw.bytes().enumerate().filter(is_brace).nth(nth).map(|(n, _)| n..n + 1)
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
        return Recipients::File(table.text("file", "", check::path).value);
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
                "f:1:1: domain[0].target: missing, wants the name of a target",
                "f:2:14: domain[0].recipients: \"all\" is not \"any\", a list of local parts, such as [\"alice\", \
             \"bob\"], or { file = \"PATH\" }",
                "f:4:8: domain[1].name: \"a..b\" is not a domain: it has an empty label",
                "f:5:14: domain[1].recipients: the list is empty, so that nobody would get mail; leave the [[domain]] \
             out instead",
                "f:6:10: domain[1].target: found an integer, wants the name of a target",
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

    #[test]
    fn faults_of_a_target() {
        check(
            "[[domain]]\nname = 'a.org'\ntarget = 'x'\n[[target]]\nkind = 'smtp'\n\
             [[target]]\nname = 'a b'\n[[target]]\nname = 'x'\nkind = 'discard'\npath = 'mail'\n\
             [[target]]\nname = 'x'\nkind = 'maildir'\npath = ''",
            &[
                "f:4:1: target[0].name: missing, wants a name",
                "f:5:8: target[0].kind: \"smtp\" is not available in this version, which has maildir, discard",
                "f:6:1: target[1].kind: missing, wants one of maildir, discard",
                "f:7:8: target[1].name: \"a b\" is not a name: 1 to 64 letters, digits, \"-\", \"_\" or \".\"",
                "f:11:8: target[2].path: only a target of kind \"maildir\" has a path",
                "f:13:8: target[3].name: \"x\" is the name of a target already, target[2].name",
                "f:15:8: target[3].path: the path is empty",
            ],
        );
        check(
            "[[target]]\nname = 'x'\nkind = 'discard'",
            &["f:1:1: domain: there is no [[domain]], and the default one goes to the target \
             \"local\", which is not here"],
        );
    }

    #[test]
    fn a_wrong_placeholder_is_pointed_at() {
        for (path, fault) in [
            ("'a/{local}/{user}'", "19: target[0].path: \"{user}\" is not one of {domain}, {local}, {address}"),
            (
                "\"é/{domian}\"",
                "11: target[0].path: \"{domian}\" is not one of {domain}, {local}, {address}; did you mean \
                 \"{domain}\"?",
            ),
            ("'a/{local'", "11: target[0].path: a \"{\" without its other brace"),
            ("'a/{local}}'", "18: target[0].path: a \"}\" without its other brace"),
            ("'{{local}}'", "9: target[0].path: a \"{\" without its other brace"),
            ("'{}'", "9: target[0].path: \"{}\" is not one of {domain}, {local}, {address}"),
        ] {
            let text = format!("[[target]]\nname = 'local'\nkind = 'maildir'\npath = {path}");
            check(&text, &[&format!("f:4:{fault}")]);
        }
    }
}
