//! `ringpost sessions`: who is connected now, and what each session is at.

use super::queue::silence;
use super::table::{Column, Side, draw};
use super::words::{in_short, plain, plain_within};
use super::{now, print, print_json};
use crate::cli::SessionsOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{SessionQuery, SessionView, Sessions};
use ringpost_base::Timestamp;
use std::time::Duration;

/// Characters of the name that a client gave: enough to know it by.
const HELO_CHARACTERS_MAX: usize = 40;

pub(crate) fn sessions(options: &SessionsOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    let query = SessionQuery { limit: Some(options.limit as usize), client: options.client };
    let path = format!("/api/v1/sessions?{}", query.text());
    if options.json {
        return print_json(&client, &path);
    }
    print(&list(&client.get(&path)?, now()))
}

fn list(sessions: &Sessions, now: Timestamp) -> String {
    let mut told = if sessions.sessions.is_empty() {
        "no sessions\n".to_owned()
    } else {
        let columns: [Column; 10] = [
            ("SESSION", Side::Left),
            ("SHARD", Side::Right),
            ("CLIENT", Side::Left),
            ("STATE", Side::Left),
            ("AGE", Side::Right),
            ("IDLE", Side::Right),
            ("MESSAGES", Side::Right),
            ("LISTENER", Side::Left),
            ("TLS", Side::Left),
            ("HELO", Side::Left),
        ];
        draw(&columns, &sessions.sessions.iter().map(|session| row(session, now)).collect::<Vec<_>>())
    };
    if sessions.more {
        let shown = sessions.sessions.len();
        told.push_str(&format!("{shown} of {}: see more with --limit, or fewer with --client\n", sessions.total));
    }
    told + &silence(&sessions.silent)
}

fn row(session: &SessionView, now: Timestamp) -> Vec<String> {
    vec![
        plain(&session.id),
        session.shard.to_string(),
        session.client.to_string(),
        plain(&session.state),
        in_short(now.since(session.since.0)),
        in_short(Duration::from_millis(session.idle_ms)),
        session.messages.to_string(),
        plain(&session.listener),
        session.tls.as_deref().map_or(String::new(), plain),
        session.helo.as_deref().map_or(String::new(), |helo| plain_within(helo, HELO_CHARACTERS_MAX)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

    fn session(id: &str, client: &str, state: &str, helo: Option<&str>, tls: Option<&str>) -> SessionView {
        SessionView {
            id: id.to_owned(),
            shard: 1,
            listener: "mx".to_owned(),
            client: client.parse().expect("an address"),
            helo: helo.map(str::to_owned),
            tls: tls.map(str::to_owned),
            since: Timestamp::from_unix_micros(1_795_179_505_000_000).into(),
            state: state.to_owned(),
            messages: 3,
            idle_ms: 4_200,
        }
    }

    fn check(sessions: &Sessions, expected: &str) {
        assert_eq!(list(sessions, NOW), expected);
    }

    #[test]
    fn sessions_as_a_table() {
        check(&Sessions::default(), "no sessions\n");
        let rows = vec![
            session("6P01GGM06A0FQ", "192.0.2.1", "body", Some("mx\u{1b}[2J"), Some("TLS1.3")),
            session("6P01GGM06A0FR", "2001:db8::1", "banner", None, None),
        ];
        let all = Sessions { sessions: rows, total: 1_234, more: true, silent: vec![3] };
        check(
            &all,
            "\
SESSION        SHARD  CLIENT       STATE   AGE  IDLE  MESSAGES  LISTENER  TLS     HELO
6P01GGM06A0FQ      1  192.0.2.1    body     1m    4s         3  mx        TLS1.3  mx\\u{1b}[2J
6P01GGM06A0FR      1  2001:db8::1  banner   1m    4s         3  mx
2 of 1234: see more with --limit, or fewer with --client
no answer in time from shard 3: what it has is not in here
",
        );
    }
}
