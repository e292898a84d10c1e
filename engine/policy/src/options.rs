//! What an operator can choose about who may send what to whom, how much of it, and from where.

use crate::bans::BanOptions;
use crate::greylist::GreylistOptions;
use crate::ledger::LedgerOptions;
use crate::screen::ScreenOptions;
use ringpost_base::Span;

/// Who exists in a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Recipients {
    /// Every local part.
    #[default]
    Any,
    /// These local parts, compared without regard to ASCII case.
    Listed(Vec<String>),
    /// What the file at this path lists: a [`Directory`](crate::Directory).
    File(String),
}

/// A domain that mail is accepted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The domain in lower case, in its A-label or U-label form as written in addresses.
    pub name: String,
    /// Who exists in it.
    pub recipients: Recipients,
    /// The character that separates a local part from its detail, as `+` in `user+detail`; nothing: there is none.
    pub subaddress: Option<char>,
    /// Whether mail for it is taken over TLS only.
    pub tls_required: bool,
}

impl Default for Domain {
    fn default() -> Self {
        Self { name: String::new(), recipients: Recipients::Any, subaddress: Some('+'), tls_required: false }
    }
}

/// Options of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The domains mail is accepted for; for all others RCPT gets 550 5.7.1.
    pub domains: Vec<Domain>,
    /// Received header fields in a message above which it is refused as looping (RFC 5321 section 6.3).
    pub hops_max: usize,
    /// The share of a core's connections, in percent, from which banners are delayed. 100: never.
    pub connections_soft_percent: u8,
    /// How long they are.
    pub banner_delay: Span,
    /// What one address or network may do.
    pub ledger: LedgerOptions,
    /// Who is shut out, and who never is.
    pub bans: BanOptions,
    /// How a sending host is looked at before its mail is.
    pub screen: ScreenOptions,
    /// Whether strangers are asked to come back.
    pub greylist: GreylistOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            hops_max: 100,
            connections_soft_percent: 80,
            banner_delay: Span::millis(100),
            ledger: LedgerOptions::default(),
            bans: BanOptions::default(),
            screen: ScreenOptions::default(),
            greylist: GreylistOptions::default(),
        }
    }
}
