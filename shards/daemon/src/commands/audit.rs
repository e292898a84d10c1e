//! `ringpost audit`: who had what changed, and from what to what.

use super::table::{Column, Side, draw};
use super::words::{plain, plain_within};
use super::{print, print_json};
use crate::cli::AuditOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{AuditEntry, AuditWho};
use serde_json::Value;

/// Characters of what something was like before, and of what it is like since: what a line can show. All of it is in the
/// JSON.
const VALUE_CHARACTERS_MAX: usize = 80;

pub(crate) fn audit(options: &AuditOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    let path = format!("/api/v1/audit?limit={}", options.limit);
    if options.json {
        return print_json(&client, &path);
    }
    print(&list(&client.get::<Vec<AuditEntry>>(&path)?))
}

fn list(entries: &[AuditEntry]) -> String {
    if entries.is_empty() {
        return "nothing was changed\n".to_owned();
    }
    let columns: [Column; 7] =
        ["AT", "WHO", "WHAT", "SUBJECT", "OUTCOME", "BEFORE", "AFTER"].map(|name| (name, Side::Left));
    let row = |entry: &AuditEntry| {
        vec![
            format!("{:.0}", entry.at),
            who(&entry.who),
            plain(&entry.what),
            plain_within(&entry.subject, VALUE_CHARACTERS_MAX),
            plain(&entry.outcome),
            value(&entry.before),
            value(&entry.after),
        ]
    };
    draw(&columns, &entries.iter().map(row).collect::<Vec<_>>())
}

/// The user by name, or by number; how it came, where nobody is known.
fn who(who: &AuditWho) -> String {
    match (&who.user, who.uid) {
        (Some(user), _) => plain(user),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => plain(&who.via),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain_within(text, VALUE_CHARACTERS_MAX),
        other => plain_within(&other.to_string(), VALUE_CHARACTERS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::Timestamp;
    use serde_json::json;

    fn entry(via: &str, user: Option<(u32, Option<&str>)>, what: &str, before: Value, after: Value) -> AuditEntry {
        AuditEntry {
            at: Timestamp::from_unix_micros(1_795_179_600_000_000).into(),
            who: AuditWho {
                via: via.to_owned(),
                uid: user.map(|(uid, _)| uid),
                gid: None,
                pid: Some(7),
                user: user.and_then(|(_, name)| name).map(str::to_owned),
            },
            what: what.to_owned(),
            subject: String::new(),
            before,
            after,
            outcome: "done".to_owned(),
        }
    }

    fn check(entries: &[AuditEntry], expected: &str) {
        assert_eq!(list(entries), expected);
    }

    #[test]
    fn changes_as_a_table() {
        check(&[], "nothing was changed\n");
        let ban = AuditEntry {
            subject: "192.0.2.0/24".to_owned(),
            ..entry("socket", Some((0, Some("root"))), "ban", Value::Null, json!("for good"))
        };
        let refused = AuditEntry {
            outcome: "refused: no".to_owned(),
            ..entry("socket", Some((1_000, None)), "log levels", json!({"level": "info"}), Value::Null)
        };
        check(
            &[ban, refused, entry("signal", None, "reload", json!(1), json!(2))],
            "\
AT                    WHO       WHAT        SUBJECT       OUTCOME      BEFORE            AFTER
2026-11-20T13:00:00Z  root      ban         192.0.2.0/24  done                           for good
2026-11-20T13:00:00Z  uid 1000  log levels                refused: no  {\"level\":\"info\"}
2026-11-20T13:00:00Z  signal    reload                    done         1                 2
",
        );
    }

    #[test]
    fn what_is_long_is_cut() {
        let told = list(&[entry("socket", None, "reload", json!("x".repeat(1_000)), json!(["\u{1b}"]))]);
        assert!(told.lines().all(|line| line.chars().count() < 200) && told.contains("x…"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told}");
    }
}
