//! What the fields of an event hold, by their names: the one table that redaction goes by.
//!
//! Invariants: every field of the workspace whose name speaks of an address is in [`TABLE`], which a test holds the
//! sources to. What is not in it is free text, and searched for addresses like any other. A name that speaks of a
//! secret needs no row.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What nobody may read.
    Secret,
    /// An address of mail.
    Mailbox,
    /// The address of a client, perhaps with its port.
    Client,
    /// The name that a client has, or gives itself.
    Name,
    /// The address or name of a server, or a network.
    Host,
    /// Anything, in which addresses of both kinds may stand.
    Text,
    /// What is shown as it is, by any rule.
    Plain,
}

/// Words that make a field one of a secret, as a part of its name between underscores.
const SECRET_WORDS: [&str; 9] =
    ["password", "passphrase", "secret", "token", "authorization", "credential", "credentials", "cookie", "key"];

/// The fields that speak of addresses, and those that are spared the search for one.
const TABLE: &[(&str, Kind)] = &[
    ("address", Kind::Host),
    ("client", Kind::Client),
    ("client_address", Kind::Client),
    ("client_name", Kind::Name),
    ("from", Kind::Mailbox),
    ("helo", Kind::Name),
    ("hop", Kind::Client),
    ("host", Kind::Host),
    // The server's own.
    ("hostname", Kind::Plain),
    ("id", Kind::Plain),
    ("ip", Kind::Client),
    ("listener", Kind::Plain),
    ("mailbox", Kind::Mailbox),
    // Not an address, though it looks like one: what the logs of other servers are searched by.
    ("message_id", Kind::Plain),
    ("name", Kind::Name),
    ("network", Kind::Host),
    ("origin", Kind::Client),
    ("peer", Kind::Client),
    ("postmaster", Kind::Mailbox),
    ("rcpt", Kind::Mailbox),
    ("recipient", Kind::Mailbox),
    ("remote", Kind::Host),
    ("reply_to", Kind::Mailbox),
    ("sender", Kind::Mailbox),
    ("session", Kind::Plain),
    ("to", Kind::Mailbox),
    // Of the system; searched all the same.
    ("user", Kind::Text),
];

/// What a field of this name holds.
pub(super) fn kind(name: &str) -> Kind {
    if name.split('_').any(|word| SECRET_WORDS.contains(&word)) {
        return Kind::Secret;
    }
    TABLE.iter().find(|(known, _)| *known == name).map_or(Kind::Text, |(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proc_macro2::{Delimiter, TokenStream, TokenTree};
    use std::path::{Path, PathBuf};

    /// Words of names that speak of an address.
    const ADDRESS_WORDS: [&str; 30] = [
        "addr",
        "address",
        "client",
        "domain",
        "ehlo",
        "email",
        "from",
        "helo",
        "hop",
        "host",
        "hostname",
        "ip",
        "listener",
        "local",
        "mail",
        "mailbox",
        "network",
        "origin",
        "peer",
        "postmaster",
        "ptr",
        "rcpt",
        "rdns",
        "recipient",
        "relay",
        "remote",
        "sender",
        "source",
        "to",
        "user",
    ];

    /// The macros that make an event.
    const MACROS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "event"];

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder of the workspace").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "tests" && name != "target" {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests.rs" {
                found.push(path);
            }
        }
    }

    /// The names of the fields of every event that is made in these tokens.
    fn fields(tokens: TokenStream, found: &mut Vec<String>) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (n, token) in tokens.iter().enumerate() {
            let TokenTree::Group(group) = token else { continue };
            let is_event = n > 1
                && matches!(&tokens[n - 1], TokenTree::Punct(mark) if mark.as_char() == '!')
                && matches!(&tokens[n - 2], TokenTree::Ident(name) if MACROS.iter().any(|one| name == one));
            if is_event {
                let arguments: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
                found.extend(arguments.split(is_comma).filter_map(field));
            }
            fields(group.stream(), found);
        }
    }

    /// The name of the field that an argument is: `name = value`, `%value`, `?a.value` or `value`.
    fn field(argument: &[TokenTree]) -> Option<String> {
        let mut names = Vec::new();
        for token in argument {
            match token {
                TokenTree::Ident(name) => names.push(name.to_string()),
                TokenTree::Punct(mark) if matches!(mark.as_char(), '%' | '?' | '.') => {}
                TokenTree::Punct(mark) if mark.as_char() == '=' => break,
                // The message, `target: ..`, or a value within a call.
                TokenTree::Group(group) if group.delimiter() == Delimiter::None => {}
                _ => return None,
            }
        }
        names.last().cloned()
    }

    #[test]
    fn every_field_that_speaks_of_an_address_is_in_the_table() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = Vec::new();
        ["engine", "shards"].iter().for_each(|folder| sources(&root.join(folder), &mut files));
        let (mut count, mut missing) = (0, Vec::new());
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            let tokens = text.parse::<TokenStream>().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let mut found = Vec::new();
            fields(tokens, &mut found);
            count += found.len();
            for name in found {
                let speaks = name.split('_').any(|word| ADDRESS_WORDS.contains(&word));
                let is_listed = TABLE.iter().any(|(known, _)| *known == name) || kind(&name) == Kind::Secret;
                if speaks && !is_listed {
                    missing.push(format!("{}: {name}", file.display()));
                }
            }
        }
        assert!(count > 200, "only {count} fields are found: the search is broken");
        assert!(missing.is_empty(), "fields that speak of addresses need a row in the table:\n{}", missing.join("\n"));
    }

    #[test]
    fn the_search_finds_each_form_of_a_field() {
        let text = r#"fn f() { tracing::warn!(target: "t", peer = %a.b(), %address, ?self.helo, from, "to {recipient}");
            if let Some(x) = y { info!(uid = c(sender), "m"); } }"#;
        let mut found = Vec::new();
        fields(text.parse().expect("tokens"), &mut found);
        assert_eq!(found, ["peer", "address", "helo", "from", "uid"]);
    }

    #[test]
    fn names_tell_what_fields_hold() {
        for (name, expected) in [
            ("peer", Kind::Client),
            ("from", Kind::Mailbox),
            ("reason", Kind::Text),
            ("password", Kind::Secret),
            ("api_token", Kind::Secret),
            ("key", Kind::Secret),
            ("keyboard", Kind::Text),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
        assert!(TABLE.is_sorted_by_key(|(name, _)| *name), "rows are found by eye");
    }
}
