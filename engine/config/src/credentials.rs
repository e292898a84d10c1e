//! Files that a service manager hands over: a value `credential:NAME` of a key that names a file.
//!
//! A key or secret that only root may read reaches a server that is not root by `LoadCredential=NAME:FILE` in its unit: systemd puts a copy
//! into a directory that only the service can read, and says where by `$CREDENTIALS_DIRECTORY`. The path changes with
//! the unit's name, so the config file has the credential's name in its place.

use crate::{check, reader::Trouble};

/// What a value begins with that names a credential.
const PREFIX: &str = "credential:";

/// Longest name of a credential: it is that of a file.
const NAME_MAX: usize = 255;

/// Where the credentials that a config names are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It does not matter here: `credential:NAME` stays what it is. For those who read no such file.
    #[default]
    Unresolved,
    /// Nobody handed any over: to name one is an error.
    Absent,
    /// In this directory.
    In(String),
}

impl Credentials {
    /// By the value of `$CREDENTIALS_DIRECTORY`.
    pub fn from_environment(directory: Option<String>) -> Self {
        match directory {
            Some(directory) if !directory.is_empty() => Self::In(directory),
            _ => Self::Absent,
        }
    }

    /// The path that the value of a key means.
    pub(crate) fn resolve(&self, value: &str) -> Result<String, Trouble> {
        check::path(value)?;
        let Some(name) = value.strip_prefix(PREFIX) else { return Ok(value.to_owned()) };
        if name.is_empty() || name.len() > NAME_MAX || name.contains('/') || name == "." || name == ".." {
            return Err(format!("{name:?} is not the name of a credential: it has to be that of a file").into());
        }
        match self {
            Self::Unresolved => Ok(value.to_owned()),
            Self::In(directory) => Ok(format!("{}/{name}", directory.trim_end_matches('/'))),
            Self::Absent => Err(format!(
                "there are no credentials, since $CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit with \
                 LoadCredential={name}:FILE"
            )
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Credentials;
    use crate::Config;

    const TEXT: &str = "tls.certificates = [{ cert = '/etc/mx.crt', key = 'credential:mx.key' }]\n\
                        tls.client_certificates = 'ask'\ntls.client_ca = 'credential:ca'\n";

    /// The key and the authority that `TEXT` has with these credentials, or the errors.
    fn check(text: &str, credentials: &Credentials, wanted: Result<[&str; 2], &[&str]>) {
        let found = Config::parse_with("f", text, credentials)
            .map(|config| [config.tls.certificates[0].key.clone(), config.tls.client_ca.unwrap_or_default()]);
        let found = found.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>());
        let wanted = wanted.map(|paths| paths.map(str::to_owned));
        assert_eq!(found, wanted.map_err(|errors| errors.iter().map(|error| (*error).to_owned()).collect()));
    }

    #[test]
    fn credentials_are_files_of_their_directory() {
        let handed = Credentials::from_environment(Some("/run/credentials/ringpost.service".to_owned()));
        let paths = ["/run/credentials/ringpost.service/mx.key", "/run/credentials/ringpost.service/ca"];
        check(TEXT, &handed, Ok(paths));
        check(TEXT, &Credentials::In("/run/x/".to_owned()), Ok(["/run/x/mx.key", "/run/x/ca"]));
        check(TEXT, &Credentials::Unresolved, Ok(["credential:mx.key", "credential:ca"]));
        for absent in [None, Some(String::new())] {
            check(
                TEXT,
                &Credentials::from_environment(absent),
                Err(&[
                    "f:1:51: tls.certificates[0].key: there are no credentials, since $CREDENTIALS_DIRECTORY is not \
                     set: systemd sets it for a unit with LoadCredential=mx.key:FILE",
                    "f:3:17: tls.client_ca: there are no credentials, since $CREDENTIALS_DIRECTORY is not set: \
                     systemd sets it for a unit with LoadCredential=ca:FILE",
                ]),
            );
        }
    }

    #[test]
    fn a_credential_can_not_name_a_file_elsewhere() {
        for (name, shown) in [("../passwd", "\"../passwd\""), ("..", "\"..\""), ("a/b", "\"a/b\""), ("", "\"\"")] {
            let text = TEXT.replace("credential:mx.key", &format!("credential:{name}"));
            let error = format!(
                "f:1:51: tls.certificates[0].key: {shown} is not the name of a credential: it has to be that of a file"
            );
            check(&text, &Credentials::In("/run/x".to_owned()), Err(&[&error]));
        }
    }

    /// Every key that a file of a credential can be for.
    #[test]
    fn all_keys_of_files_take_one() {
        let text = "[[tls.certificates]]\ncert = 'credential:a'\nkey = 'credential:b'\nocsp = 'credential:c'\n\
                    [[domain]]\nname = 'example.org'\ntarget = 'local'\nrecipients = { file = 'credential:d' }\n\
                    [[target]]\nname = 'local'\nkind = 'webhook'\nurl = 'https://a'\nca = 'credential:e'\n\
                    cert = 'credential:f'\nkey = 'credential:g'\nsecret_file = 'credential:h'\n\
                    [[target]]\nname = 'hop'\nkind = 'smtp'\nhosts = ['a.example:25']\ntls = 'verified'\n\
                    tls_ca = 'credential:i'\ntls_cert = 'credential:j'\ntls_key = 'credential:k'\n";
        let config = Config::parse_with("f", text, &Credentials::In("/c".to_owned())).expect("the text has no fault");
        let rendered = config.render();
        let missing = ('a'..='k').filter(|name| !rendered.contains(&format!("\"/c/{name}\""))).collect::<String>();
        assert_eq!(missing, "", "{rendered}");
        assert!(!rendered.contains("credential:"), "{rendered}");
    }
}
