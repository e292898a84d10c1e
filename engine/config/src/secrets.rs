//! What of a value is not shown, since it may be a secret.
//!
//! Most secrets are in files of their own, whose paths are none. What is left says in its key's row in which way it may hold
//! one. That errs on the side of hiding.

/// What stands in the place of what may be a secret.
pub(crate) const HIDDEN: &str = "***";

/// Characters from which on a part of a name is taken for a key: what people choose is rarely that long, and what machines
/// make rarely shorter.
const KEY_CHARACTERS_MIN: usize = 16;

/// In which way a value may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    /// It doesn't.
    None,
    /// All of it may be one.
    Whole,
    /// A URL: what is behind a question mark may be, parts of the path that look like keys, and a user, which none should have.
    Url,
    /// A DNS name: labels that look like keys, which providers of lists give to each of their customers.
    Name,
}

impl Secret {
    /// The value as it may be shown.
    pub(crate) fn hide(self, value: &str) -> String {
        match self {
            Self::None => value.to_owned(),
            Self::Whole => HIDDEN.to_owned(),
            Self::Url => url(value),
            Self::Name => parts(value, '.'),
        }
    }

    /// What the reference says of it.
    pub(crate) const fn told(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Whole => " Where the config is shown, its values are not.",
            Self::Url => " Where the config is shown, what is behind a `?` is not, nor what looks like a key.",
            Self::Name => " Where the config is shown, a label that looks like a key is not.",
        }
    }
}

/// A DNS name as it may be shown: without labels that look like the keys which providers of lists give to their customers.
pub fn shown_name(name: &str) -> String {
    Secret::Name.hide(name)
}

/// A URL as it may be shown: without a user, what is behind a `?`, and parts of the path that look like keys.
pub fn shown_url(url: &str) -> String {
    Secret::Url.hide(url)
}

fn url(value: &str) -> String {
    let (bare, query) = value.split_once('?').map_or((value, ""), |(bare, _)| (bare, "?***"));
    let authority = bare.find("://").map_or(0, |at| at + 3);
    let path = bare[authority..].find('/').map_or(bare.len(), |at| authority + at);
    let (scheme, host) = bare[..path].split_at(authority);
    let (user, host) = host.rsplit_once('@').map_or(("", host), |(_, host)| ("***@", host));
    format!("{scheme}{user}{host}{}{query}", parts(&bare[path..], '/'))
}

fn parts(value: &str, separator: char) -> String {
    let shown = |part| if looks_like_key(part) { HIDDEN } else { part };
    value.split(separator).map(shown).collect::<Vec<_>>().join(&separator.to_string())
}

fn looks_like_key(part: &str) -> bool {
    part.chars().count() >= KEY_CHARACTERS_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden() {
        let key = "abcdefghijklmnopqrstuvwxyz";
        for (secret, value, shown) in [
            (Secret::None, key, key),
            (Secret::Whole, "x", "***"),
            (Secret::Name, "zen.spamhaus.org", "zen.spamhaus.org"),
            (Secret::Name, &format!("{key}.zen.dq.spamhaus.net"), "***.zen.dq.spamhaus.net"),
            (Secret::Url, "https://a.example:8443/mail", "https://a.example:8443/mail"),
            (Secret::Url, "https://a.example/?token=5", "https://a.example/?***"),
            (Secret::Url, "https://a.example?token=5", "https://a.example?***"),
            (
                Secret::Url,
                &format!("https://hooks.example/services/T1/{key}/in"),
                "https://hooks.example/services/T1/***/in",
            ),
            (Secret::Url, &format!("http://{key}.example/x"), &format!("http://{key}.example/x")),
            (Secret::Url, "ftp://u:p@a.example/x", "ftp://***@a.example/x"),
            (Secret::Url, "", ""),
        ] {
            assert_eq!(secret.hide(value), shown, "{value}");
        }
    }
}
