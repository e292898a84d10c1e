//! The sessions that are open: what each shard tells of its own, and one list of all.

use ringpost_admin::api::{Moment, SessionView, Sessions};
use ringpost_base::{Network, Now, ShardId};
use ringpost_serve::{Mx, OpenSession};
use std::time::Duration;

/// Which sessions a shard is to show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionsWanted {
    pub(crate) limit: usize,
    pub(crate) client: Option<Network>,
}

/// What a shard shows: its oldest sessions that fit, and how many fit.
#[derive(Debug, Default)]
pub(crate) struct ShardSessions {
    sessions: Vec<SessionView>,
    total: u64,
}

impl ShardSessions {
    pub(crate) fn of(mx: &Mx, shard: ShardId, wanted: SessionsWanted, now: Now) -> Self {
        let (open, total) = mx.sessions(wanted.limit, wanted.client);
        Self { sessions: open.into_iter().map(|session| view(session, shard, now)).collect(), total: total as u64 }
    }
}

fn view(session: OpenSession, shard: ShardId, now: Now) -> SessionView {
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    let since = now.wall.unix_micros().saturating_sub(micros(now.tick.since(session.since)));
    SessionView {
        id: session.id.to_string(),
        shard: shard.0,
        listener: session.listener.to_string(),
        client: session.client,
        helo: session.helo,
        tls: session.tls.map(str::to_owned),
        since: Moment(ringpost_base::Timestamp::from_unix_micros(since)),
        state: session.state.to_owned(),
        messages: session.messages,
        idle_ms: micros(session.idle) / 1_000,
    }
}

/// One list of those of the shards.
pub(super) fn merged(shards: Vec<(u16, Option<ShardSessions>)>, limit: usize) -> Sessions {
    let mut whole = Sessions::default();
    for (shard, told) in shards {
        match told {
            Some(told) => {
                whole.total += told.total;
                whole.sessions.extend(told.sessions);
            }
            None => whole.silent.push(shard),
        }
    }
    whole.sessions.sort_by_key(|session| session.since);
    whole.sessions.truncate(limit);
    whole.more = whole.total > whole.sessions.len() as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::{Tick, Timestamp};

    fn session(since_ms: u64) -> SessionView {
        SessionView {
            id: since_ms.to_string(),
            shard: 0,
            listener: "mx".to_owned(),
            client: [192, 0, 2, 1].into(),
            helo: None,
            tls: None,
            since: Moment(Timestamp::from_unix_micros(since_ms * 1_000)),
            state: "command".to_owned(),
            messages: 0,
            idle_ms: 0,
        }
    }

    /// What a shard tells: when its sessions began, and how many there are; nothing if it is silent.
    type Told<'a> = (u16, Option<(&'a [u64], u64)>);

    /// Checks which sessions are listed, and what is said of the others.
    fn check(shards: &[Told<'_>], limit: usize, expected: (&[&str], u64, bool, &[u16])) {
        let told = |(sessions, total): (&[u64], u64)| ShardSessions {
            sessions: sessions.iter().copied().map(session).collect(),
            total,
        };
        let whole = merged(shards.iter().map(|(shard, of)| (*shard, of.map(told))).collect(), limit);
        let ids: Vec<&str> = whole.sessions.iter().map(|session| session.id.as_str()).collect();
        assert_eq!((&ids[..], whole.total, whole.more, &whole.silent[..]), expected);
    }

    #[test]
    fn the_oldest_of_all_shards_come_first() {
        check(&[(0, Some((&[1, 4], 2))), (1, Some((&[2, 3], 2)))], 3, (&["1", "2", "3"], 4, true, &[]));
        check(&[(0, Some((&[1], 1))), (1, Some((&[2], 1)))], 3, (&["1", "2"], 2, false, &[]));
        // Each shard was asked for two and has more.
        check(&[(0, Some((&[1, 3], 70))), (1, Some((&[2, 4], 30)))], 2, (&["1", "2"], 100, true, &[]));
        check(&[(0, None), (1, Some((&[2], 1)))], 3, (&["2"], 1, false, &[0]));
        check(&[], 3, (&[], 0, false, &[]));
    }

    #[test]
    fn a_session_has_the_moment_that_its_tick_was_at() {
        let now = Now { wall: Timestamp::from_unix_micros(10_000_000), tick: Tick::from_nanos(7_000_000_000) };
        let open = OpenSession {
            id: "6P01GGM06A0FQ".parse().expect("an id"),
            listener: "mx".into(),
            client: [192, 0, 2, 1].into(),
            helo: Some("a.example".to_owned()),
            tls: Some("1.3"),
            since: Tick::from_nanos(5_500_000_000),
            state: "body",
            messages: 3,
            idle: Duration::from_micros(2_999),
        };
        let shown = view(open, ShardId(4), now);
        assert_eq!(shown.since, Moment(Timestamp::from_unix_micros(8_500_000)));
        assert_eq!((shown.idle_ms, shown.shard, shown.messages, shown.state.as_str()), (2, 4, 3, "body"));
    }
}
