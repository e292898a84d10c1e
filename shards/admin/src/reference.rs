//! The reference page of the API, as Markdown: from the rows of the routes, and from the types that go in and out.
//!
//! What it says of a route is what the server goes by; what it says of a type is what its comments say.

mod schema;

use crate::access::Role;
use crate::api::{self, AUDIT_MAX, DAMAGED_MAX, IDS_MAX, PAGE_DEFAULT, PAGE_MAX, REASON_BYTES_MAX, SESSIONS_MAX};
use crate::orders::{BODY_BYTES_MAX, PATIENCE, UNDER_WAY_MAX};
use crate::route::{Gives, Route, Takes};
use crate::routes;
use schema::Types;
use std::fmt::Write;

/// Constants that comments name.
const CONSTANTS: [(&str, usize); 6] = [
    ("AUDIT_MAX", AUDIT_MAX),
    ("DAMAGED_MAX", DAMAGED_MAX),
    ("IDS_MAX", IDS_MAX),
    ("PAGE_DEFAULT", PAGE_DEFAULT),
    ("REASON_BYTES_MAX", REASON_BYTES_MAX),
    ("SESSIONS_MAX", SESSIONS_MAX),
];

const _: () =
    assert!(PAGE_MAX == 1_000 && SESSIONS_MAX == 10_000 && AUDIT_MAX == 1_000, "as the rows of the routes say");

/// The text of `docs/api.md`.
pub fn markdown() -> String {
    let mut types = Types::default();
    let mut page = head();
    for (title, rows) in [
        ("Health and metrics", routes::watching()),
        ("The server", routes::about_the_server()),
        ("Clients", routes::about_clients()),
        ("The queue", routes::about_the_queue()),
    ] {
        let _ = writeln!(page, "\n## {title}");
        rows.iter().for_each(|row| route(&mut page, row, &mut types));
    }
    page.push_str("\n## Types\n");
    types.describe(&mut page);
    page
}

fn head() -> String {
    let (version, header) = (api::VERSION, api::VERSION_HEADER);
    let patience = PATIENCE.as_secs();
    format!(
        "\
# The API

Generated from `shards/admin` by `cargo xtask docs`. It is what `ringpost status`, `ban`, `queue` and the other commands talk
to, and what scripts may.

It is HTTP/1.1 on a unix socket, `ringpost.sock` in the state directory unless `admin.socket` says otherwise:

```sh
curl --unix-socket ringpost-state/ringpost.sock http://ringpost/api/v{version}/status
```

Health and metrics are answered on the TCP address `admin.listen` too, without authentication; nothing else is.

**Who may.** The kernel says who is at the other end. The server's own user and root may do everything; so may those that
`admin.operators` names, but for naming the program of an upgrade. Those that `admin.readers` names may use the routes of a *reader*. Everybody else is turned away
without an answer. Who may not use a route is answered 403.

**Form.** What goes in and out is JSON, unless said otherwise. Moments are RFC 3339 text in UTC, networks and durations the
text that the config file has (`192.0.2.0/24`, `90s`). In a path, a slash within a value is written `%2F`. A body has at most
{BODY_BYTES_MAX} bytes.

**Refusals** are `{{\"error\": \"...\"}}` with a reason in words: 400 (what was asked is wrong in itself, or the config file
is), 403 (who asks may not), 404 (there is no such thing), 409 (it contradicts something that is in force), 413 (the body is too
large), 503 (not at this moment). {UNDER_WAY_MAX} orders are carried out at a time. One that takes longer than {patience} s is answered 503
and carried through all the same, and so is one whose client has gone.

**Versions.** Every answer has the header `{header}: {version}`. Within a version fields are added, and none is renamed, retyped or taken
away; who reads ignores fields that it does not know. Whatever breaks that is another version, at other paths.

**The audit log.** Every request that would change something leaves an entry, done or refused, in the file `admin.audit`: one
[AuditEntry](#auditentry) a line.
"
    )
}

fn route(page: &mut String, row: &Route, types: &mut Types) {
    let Route { method, path, purpose, changes, who, query, takes, gives, .. } = row;
    let _ = writeln!(page, "\n### `{method} {path}`\n\n{}.\n", capitalised(purpose));
    let is_open = routes::watching().iter().any(|open| open.path == *path);
    let who = match who {
        _ if is_open => "everybody, over TCP too",
        Role::Reader => "readers and operators",
        Role::Operator => "operators",
    };
    let _ = writeln!(page, "- who may: {who}");
    if let Some(changes) = changes {
        let _ = writeln!(page, "- in the audit log: `{changes}`");
    }
    for (key, meaning) in *query {
        let _ = writeln!(page, "- `?{key}=` {meaning}");
    }
    if let Some((takes, describe)) = takes {
        let optional = if *takes == Takes::IfAny { ", or nothing" } else { "" };
        let _ = writeln!(page, "- takes: {}{optional}", types.taken(*describe));
    }
    match gives {
        Gives::Json(describe) => {
            let _ = writeln!(page, "- gives: {}", types.given(*describe));
        }
        Gives::Text(media_type) => {
            let _ = writeln!(page, "- gives: {media_type}");
        }
        Gives::Unsaid => {}
    }
}

fn capitalised(words: &str) -> String {
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/api.md");

    #[test]
    fn the_page_is_up_to_date() {
        assert!(PAGE == markdown(), "docs/api.md is not what the example `api_reference` prints");
    }

    #[test]
    fn every_route_is_described() {
        for row in routes::watching().into_iter().chain(routes::acting()) {
            let name = format!("{} {}", row.method, row.path);
            assert!(PAGE.contains(&format!("### `{name}`\n")), "{name} is not on the page");
            assert!(!row.purpose.is_empty() && !row.purpose.ends_with('.'), "{name}: {}", row.purpose);
            assert!(!matches!(row.gives, Gives::Unsaid), "{name} does not say what it gives");
            assert_eq!(row.changes.is_some(), row.method != "GET", "{name}");
            assert!(row.method == "GET" || row.who == Role::Operator, "{name}: a reader changes nothing");
            for (key, meaning) in row.query {
                assert!(!meaning.is_empty() && !meaning.ends_with('.'), "{name}: {key}");
            }
        }
    }

    #[test]
    fn nothing_on_the_page_is_left_to_be_resolved() {
        let page = markdown();
        for (at, line) in page.lines().enumerate() {
            assert!(!line.contains("[`") && !line.contains("](crate"), "line {}: {line}", at + 1);
            for link in line.split("](#").skip(1) {
                let name = link.split(')').next().unwrap_or_default();
                assert!(page.to_lowercase().contains(&format!("### {name}\n")), "line {}: {name}", at + 1);
            }
        }
    }
}
