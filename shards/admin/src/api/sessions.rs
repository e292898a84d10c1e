//! The sessions that are open.

use super::Moment;
use ringpost_base::Network;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Sessions of an answer when the query does not say.
pub const SESSIONS_DEFAULT: usize = 100;

/// Sessions of an answer at most: some megabytes of JSON.
pub const SESSIONS_MAX: usize = 10_000;

/// The query of `GET /api/v1/sessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Sessions at most: 1 to [`SESSIONS_MAX`]; else [`SESSIONS_DEFAULT`].
    pub limit: Option<usize>,
    /// Only those whose client is in this network.
    pub client: Option<Network>,
}

impl SessionQuery {
    /// Reads a query string.
    ///
    /// # Errors
    /// A key that there is not, or a value that is none, in words.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "limit" => read.limit = Some(super::limit(&value, SESSIONS_MAX)?),
                "client" => read.client = Some(value.parse().map_err(|error| format!("client={value}: {error}"))?),
                other => return Err(format!("there is no key {other:?}; there are limit and client")),
            }
        }
        Ok(read)
    }

    /// The query string; empty if nothing is asked for.
    pub fn text(&self) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        if let Some(limit) = self.limit {
            text.append_pair("limit", &limit.to_string());
        }
        if let Some(client) = self.client {
            text.append_pair("client", &client.to_string());
        }
        text.finish()
    }
}

/// `GET /api/v1/sessions`: sessions that are open, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sessions {
    /// As many as were asked for.
    pub sessions: Vec<SessionView>,
    /// How many are open that fit.
    pub total: u64,
    /// Whether there are more than are shown.
    pub more: bool,
    /// Shards that did not answer in time: what they have is not in here.
    #[serde(default)]
    pub silent: Vec<u16>,
}

/// A session that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// Its id, as in the banner.
    pub id: String,
    /// The shard that has it.
    pub shard: u16,
    /// The name of the listener that it came in at.
    pub listener: String,
    /// The client's address: the presented one, where a proxy presents it.
    pub client: IpAddr,
    /// The name that the client gave.
    pub helo: Option<String>,
    /// The version of TLS; nothing without.
    pub tls: Option<String>,
    /// When it began.
    pub since: Moment,
    /// What it is at: `banner`, `command`, `body`, `committing`, `closing`, ...
    pub state: String,
    /// Messages accepted in it.
    pub messages: u64,
    /// Milliseconds since the client said anything.
    pub idle_ms: u64,
}
