//! What an operator can choose about who may send what to whom.

/// Who exists in a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Recipients {
    /// Every local part.
    #[default]
    Any,
    /// These local parts, compared without regard to ASCII case.
    Listed(Vec<String>),
}

/// A domain that mail is accepted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The domain in lower case, in its A-label or U-label form as written in addresses.
    pub name: String,
    /// Who exists in it.
    pub recipients: Recipients,
    /// The name of the target that its mail goes to.
    pub target: String,
}

/// Options of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The domains mail is accepted for; for all others RCPT gets 550 5.7.1.
    pub domains: Vec<Domain>,
    /// Received header fields in a message above which it is refused as looping (RFC 5321 section 6.3).
    pub hops_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { domains: Vec::new(), hops_max: 100 }
    }
}
