//! Which messages of the queue are meant: states, addresses, targets, ages.
//!
//! A filter is written alike in a query string and in an order's body: texts, each of which may be left out. A filter of
//! nothing fits every message; a key that is not known is refused and never passed over, since an order would otherwise
//! be carried out on more than was meant.

use super::{MessageId, text, text_or_nothing};
use ringpost_base::{Priority, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use std::fmt::{self, Display};
use std::str::FromStr;

/// Messages of a page when the query does not say.
pub const PAGE_DEFAULT: usize = 50;

/// Messages of a page at most: some hundred kilobytes of JSON.
pub const PAGE_MAX: usize = 1_000;

/// Bytes of an address in a filter: more than one can have.
const ADDRESS_BYTES_MAX: usize = 1_024;

/// What a message in the queue is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum QueueState {
    /// It is its turn as soon as there is room.
    Ready,
    /// It waits for a later attempt.
    Deferred,
    /// An attempt is under way.
    Active,
    /// An operator holds it: it is neither tried nor given up.
    Held,
    /// A dead letter: it could neither be delivered nor reported to its sender, and is kept for inspection.
    Dead,
}

impl QueueState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Deferred, Self::Active, Self::Held, Self::Dead];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Deferred => "deferred",
            Self::Active => "active",
            Self::Held => "held",
            Self::Dead => "dead",
        }
    }
}

impl Display for QueueState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Text that is none of the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseStateError;

impl Display for ParseStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a state: there are ready, deferred, active, held and dead")
    }
}

impl std::error::Error for ParseStateError {}

impl FromStr for QueueState {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(ParseStateError)
    }
}

impl Serialize for QueueState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for QueueState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

/// Which addresses a filter is for, without regard to the case of ASCII letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressFilter {
    /// The empty sender of reports: `<>`.
    Null,
    /// All of a domain: `@example.org`.
    Domain(String),
    /// One: `someone@example.org`.
    Address(String),
}

impl AddressFilter {
    /// Whether an address is meant. That of reports is the empty text.
    pub fn fits(&self, address: &str) -> bool {
        match self {
            Self::Null => address.is_empty(),
            Self::Domain(wanted) => {
                address.rsplit_once('@').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(wanted))
            }
            Self::Address(wanted) => address.eq_ignore_ascii_case(wanted),
        }
    }

    /// The domain of all addresses that are meant; empty for that of reports.
    pub fn domain(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Domain(domain) => domain,
            Self::Address(address) => address.rsplit_once('@').map_or("", |(_, domain)| domain),
        }
    }
}

impl Display for AddressFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Domain(domain) => write!(f, "@{domain}"),
            Self::Address(address) => f.write_str(address),
        }
    }
}

/// Text that is neither an address nor a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseAddressFilterError;

impl Display for ParseAddressFilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address: write someone@example.org, @example.org for all of a domain, or <> for reports")
    }
}

impl std::error::Error for ParseAddressFilterError {}

impl FromStr for AddressFilter {
    type Err = ParseAddressFilterError;

    fn from_str(text: &str) -> Result<Self, ParseAddressFilterError> {
        if text == "<>" {
            return Ok(Self::Null);
        }
        let bare = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
        if bare.len() > ADDRESS_BYTES_MAX || bare.chars().any(char::is_control) {
            return Err(ParseAddressFilterError);
        }
        match bare.rsplit_once('@') {
            Some(("", domain)) if !domain.is_empty() => Ok(Self::Domain(domain.to_owned())),
            Some((local, domain)) if !local.is_empty() && !domain.is_empty() => Ok(Self::Address(bare.to_owned())),
            // Postmaster may stand without a domain (RFC 5321 section 4.5.1).
            None if bare.eq_ignore_ascii_case("postmaster") => Ok(Self::Address(bare.to_owned())),
            _ => Err(ParseAddressFilterError),
        }
    }
}

/// Which messages are meant: those that fit everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueFilter {
    /// In one of these states; none: in any. In text: names, separated by commas.
    #[serde(default, with = "listed", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "String")]
    pub state: Vec<QueueState>,
    /// From this sender.
    #[serde(default, with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub from: Option<AddressFilter>,
    /// To this recipient, perhaps among others.
    #[serde(default, with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub to: Option<AddressFilter>,
    /// On its way to the target of this name, perhaps among others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Of this priority.
    #[serde(default, with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub priority: Option<Priority>,
    /// Accepted longer ago than this.
    #[serde(default, with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub older: Option<Span>,
    /// Accepted less long ago than this.
    #[serde(default, with = "text_or_nothing", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub newer: Option<Span>,
}

impl QueueFilter {
    /// Whether it fits every message.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// States as a text of their names.
mod listed {
    use super::*;

    pub(super) fn serialize<S: Serializer>(states: &[QueueState], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&states.iter().map(|state| state.name()).collect::<Vec<_>>().join(","))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<QueueState>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let state = |name: &str| {
            name.parse().map_err(|error: ParseStateError| de::Error::custom(format_args!("{name:?}: {error}")))
        };
        text.split(',').map(state).collect()
    }
}

/// `GET /api/v1/queue/messages?...`: the filter's keys, and these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueQuery {
    /// Which messages.
    pub filter: QueueFilter,
    /// How many at most; nothing: [`PAGE_DEFAULT`].
    pub limit: Option<usize>,
    /// Only messages whose id is greater than this one.
    pub after: Option<MessageId>,
}

impl QueueQuery {
    /// Reads the query string of a request.
    ///
    /// # Errors
    /// In words: a key that there is not or that comes twice, or a value that can't be meant.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut pairs = Map::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if pairs.insert(key.clone().into_owned(), Value::from(value)).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        let mut take = |key: &str| pairs.remove(key).and_then(|value| value.as_str().map(str::to_owned));
        let limit = take("limit").map(|text| match text.parse() {
            Ok(limit @ 1..=PAGE_MAX) => Ok(limit),
            _ => Err(format!("limit: {text:?} is not a number from 1 to {PAGE_MAX}")),
        });
        let after = take("after").map(|text| text.parse().map_err(|error| format!("after: {text:?}: {error}")));
        let (limit, after) = (limit.transpose()?, after.transpose()?);
        let filter = serde_json::from_value(Value::Object(pairs)).map_err(|error| error.to_string())?;
        Ok(Self { filter, limit, after })
    }

    /// The query string that says this.
    pub fn text(&self) -> String {
        let mut written = form_urlencoded::Serializer::new(String::new());
        let pairs = serde_json::to_value(&self.filter).unwrap_or_default();
        for (key, value) in pairs.as_object().into_iter().flatten() {
            written.append_pair(key, value.as_str().unwrap_or_default());
        }
        if let Some(limit) = self.limit {
            written.append_pair("limit", &limit.to_string());
        }
        if let Some(after) = self.after {
            written.append_pair("after", &after.to_string());
        }
        written.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_query(text: &str, expected: &QueueQuery) {
        assert_eq!(QueueQuery::parse(text).as_ref(), Ok(expected), "{text}");
        assert_eq!(QueueQuery::parse(&expected.text()).as_ref(), Ok(expected), "{}", expected.text());
    }

    #[test]
    fn queries_text_and_back() {
        check_query("", &QueueQuery::default());
        let id = "01JD4VXK2Q000000020000000A";
        let filter = QueueFilter {
            state: vec![QueueState::Deferred, QueueState::Dead],
            from: Some(AddressFilter::Null),
            to: Some(AddressFilter::Address("a+b&c=d%@żółw.example".to_owned())),
            target: Some("to the moon".to_owned()),
            priority: Some(Priority::Low),
            older: Some(Span::seconds(7_200)),
            newer: Some(Span::millis(1_500)),
        };
        let whole = QueueQuery { filter, limit: Some(1_000), after: id.parse().ok() };
        let text = format!(
            "state=deferred,dead&from=%3C%3E&to=a%2Bb%26c%3Dd%25%40%C5%BC%C3%B3%C5%82w.example&target=to+the+moon&\
             priority=low&older=2h&newer=1500ms&limit=1000&after={id}"
        );
        check_query(&text, &whole);
    }

    #[test]
    fn queries_that_cannot_be_meant_are_refused() {
        for (text, words) in [
            ("state=deffered", "\"deffered\": not a state"),
            ("state=", "not a state"),
            ("older=2hours", "not a duration"),
            ("from=example.org", "not an address"),
            ("to=%1b@example.org", "not an address"),
            ("priority=urgent", "\"urgent\""),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("after=1", "not an id"),
            ("form=a@example.org", "unknown field `form`"),
            ("target=a&target=b", "target is given twice"),
        ] {
            let error = QueueQuery::parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_that_a_filter_is_for() {
        for (filter, address, fits) in [
            ("<>", "", true),
            ("<>", "a@example.org", false),
            ("@Example.org", "a@eXample.ORG", true),
            ("@example.org", "a@sub.example.org", false),
            ("@example.org", "", false),
            ("A@example.org", "a@example.org", true),
            ("<a@example.org>", "a@example.org", true),
            ("a@example.org", "ba@example.org", false),
            ("\"a@b\"@example.org", "\"a@b\"@EXAMPLE.org", true),
            ("postmaster", "Postmaster", true),
            ("żółw@Example.org", "żółw@example.org", true),
        ] {
            let parsed: AddressFilter = filter.parse().unwrap_or_else(|error| panic!("{filter}: {error}"));
            assert_eq!(parsed.fits(address), fits, "{filter} and {address}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for text in ["", "@", "a@", "example.org", "a\nb@example.org", &format!("{}@b", "a".repeat(1_024))] {
            assert!(text.parse::<AddressFilter>().is_err(), "{text:?}");
        }
        let domain = |text: &str| text.parse::<AddressFilter>().expect("a filter").domain().to_owned();
        assert_eq!((domain("<>"), domain("@b.c"), domain("a@b.c")), (String::new(), "b.c".into(), "b.c".into()));
    }
}
