//! What the admin socket is set up with: who may use it, and where changes are written down.

use crate::state::StateDir;
use anyhow::{Context, Result, anyhow};
use ringpost_admin::{Access, Audit, Principal};
use ringpost_config::Admin;

/// Who may use the socket besides the server's own user and root.
pub(crate) fn access(admin: &Admin) -> Result<Access> {
    Ok(Access {
        operators: principals("admin.operators", &admin.operators)?,
        readers: principals("admin.readers", &admin.readers)?,
    })
}

fn principals(key: &str, names: &[String]) -> Result<Vec<Principal>> {
    let found = names.iter().map(|name| Principal::find(name).map_err(|error| anyhow!("{key}: {error}")));
    found.collect()
}

/// Where changes are written down.
pub(crate) fn audit(admin: &Admin, state: &StateDir) -> Result<Audit> {
    let Some(path) = &admin.audit else { return Ok(Audit::off()) };
    let path = state.path().join(path);
    Audit::start(path.clone()).with_context(|| {
        format!(
            "{}: the audit log can't be opened; set another path in admin.audit, \"\" for none, or give this user the right \
             to write there",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_that_are_not_there_are_named_with_their_key() {
        let admin = |operators: &[&str], readers: &[&str]| Admin {
            operators: operators.iter().map(|name| (*name).to_owned()).collect(),
            readers: readers.iter().map(|name| (*name).to_owned()).collect(),
            ..Admin::default()
        };
        let found = access(&admin(&["root"], &["@root", "4711"])).expect("both are there");
        assert_eq!(found.operators, [Principal::User(0)]);
        assert_eq!(found.readers, [Principal::Group(0), Principal::User(4711)]);
        for (operators, readers, words) in [
            (&["no-such-user"][..], &[][..], "admin.operators: this machine has no user \"no-such-user\""),
            (&[], &["@no-such-group"], "admin.readers: this machine has no group \"no-such-group\""),
        ] {
            let error = access(&admin(operators, readers)).expect_err("not there");
            assert_eq!(error.to_string(), words);
        }
    }
}
