//! The Maildir target: which Maildir an address has, and what a message is called in it.

use ringpost_base::{SpoolId, Timestamp};
use std::path::PathBuf;

/// A path with `{domain}`, `{local}` and `{address}` in it. Case of ASCII letters does not count in what is put in, and
/// what could leave its place in the path (`/`, a leading `.`, control characters, `%`) is written as `%XX`.
#[derive(Clone, Debug)]
pub(crate) struct PathTemplate(String);

impl PathTemplate {
    /// A template; the config has checked its placeholders.
    pub(crate) fn new(template: &str) -> Self {
        Self(template.to_owned())
    }

    /// The Maildir of an address.
    pub(crate) fn path(&self, address: &str) -> PathBuf {
        let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        let mut path = self.0.clone();
        for (name, value) in [("{domain}", domain), ("{local}", local), ("{address}", address)] {
            if path.contains(name) {
                path = path.replace(name, &component(value));
            }
        }
        path.into()
    }
}

/// Text as one component of a path.
fn component(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        let plain = c.is_alphanumeric() || "_+=@-!#$&'*?^`{|}~".contains(c) || (c == '.' && at > 0);
        if plain {
            out.push(c.to_ascii_lowercase());
        } else {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        }
    }
    // Braces would be taken for a placeholder of what is replaced after them.
    if out.is_empty() { "%".into() } else { out.replace('{', "%7B") }
}

/// The file name: from the message alone, so that every attempt makes the same.
pub(crate) fn file_name(id: SpoolId, arrived: Timestamp) -> String {
    format!("{}.R{id}.ringpost", arrived.unix_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, address: &str, want: &str) {
        assert_eq!(PathTemplate::new(template).path(address), PathBuf::from(want), "{template} {address}");
    }

    #[test]
    fn addresses_become_paths() {
        check("/m/{domain}/{local}", "Bob.B+x@Example.COM", "/m/example.com/bob.b+x");
        check("/m/{address}", "żółw@d.example", "/m/żółw@d.example");
        check("/m/one", "a@b", "/m/one");
    }

    #[test]
    fn an_address_cannot_leave_its_directory() {
        check("/m/{local}", "\"../../etc\"@d", "/m/%22..%2F..%2Fetc%22");
        check("/m/{local}", "..@d", "/m/%2E.");
        check("/m/{local}", ".@d", "/m/%2E");
        check("/m/{local}/x", "@d", "/m/%/x");
        check("/m/{local}/{address}", "{address}@d", "/m/%7Baddress}/%7Baddress}@d");
        check("/m/{local}", "a%2e@d", "/m/a%252e");
    }
}
