//! A message that is to be sent, what it needs of the server, and the commands that announce it.

use super::answer::EnhancedStatus;
use super::extensions::Extensions;
use super::fault::Unsendable;
use crate::address::Mailbox;
use crate::dsn::{Notify, Ret, is_envid, is_orcpt};
use std::fmt::Write;

/// A message that is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The sender, without brackets; empty: the null sender.
    pub from: &'a str,
    /// To whom it goes.
    pub recipients: &'a [OutgoingRecipient<'a>],
    /// The octets of the message, exactly as they will be given to `body`.
    pub size: u64,
    /// It has octets beyond ASCII.
    pub eight_bit: bool,
    /// It is not made of lines (RFC 3030 section 3).
    pub binary: bool,
    /// Its header section has characters beyond ASCII, or its sender asked for SMTPUTF8. Addresses are looked at.
    pub utf8: bool,
    /// It must not travel without TLS (RFC 8689 section 4.2.1). That the server is who it should be is for the caller to see.
    pub require_tls: bool,
    /// How much of it a report returns.
    pub ret: Option<Ret>,
    /// ENVID, in xtext.
    pub envid: Option<&'a str>,
}

/// A recipient of such a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutgoingRecipient<'a> {
    /// The address, without brackets.
    pub address: &'a str,
    /// NOTIFY, as the words of RFC 3461 section 4.1.
    pub notify: Option<&'a str>,
    /// ORCPT, as it stands in a command.
    pub orcpt: Option<&'a str>,
}

impl Outgoing<'_> {
    /// RFC 6531 section 3.2: the extension is for messages that need it.
    fn needs_utf8(&self) -> bool {
        self.utf8 || self.has_utf8_address()
    }

    fn has_utf8_address(&self) -> bool {
        !self.from.is_ascii() || self.recipients.iter().any(|recipient| !recipient.address.is_ascii())
    }
}

/// Whether the server has what the message needs.
pub(super) fn check(outgoing: &Outgoing<'_>, extensions: &Extensions, secure: bool) -> Result<(), Unsendable> {
    let unsendable = |status: EnhancedStatus, text: &str| Err(Unsendable::new(status, text));
    if !outgoing.from.is_empty() && !is_safe(outgoing.from) {
        return unsendable((5, 1, 7), "the address of the sender is malformed");
    }
    // RFC 8689 section 4.2.1.
    if outgoing.require_tls && !(secure && extensions.require_tls) {
        return unsendable((5, 7, 30), "the message requires TLS on its whole way, and the server does not offer that");
    }
    // RFC 1870 section 6.2: what is larger than the server takes need not be sent.
    if let Some(max) = extensions.size_max.filter(|max| outgoing.size > *max) {
        let text = format!("the message has {} octets, and the server takes at most {max}", outgoing.size);
        return unsendable((5, 3, 4), &text);
    }
    if outgoing.binary && !(extensions.binary_mime && extensions.chunking) {
        return unsendable((5, 6, 1), "the message is binary, and the server does not take such messages");
    }
    // RFC 6152 section 3: without the extension there is only conversion, which breaks signatures, or this.
    if outgoing.eight_bit && !outgoing.binary && !extensions.eight_bit_mime {
        return unsendable((5, 6, 3), "the message is not 7-bit, and the server takes no other messages");
    }
    // RFC 6531 section 4.2 has a status for either.
    if outgoing.has_utf8_address() && !extensions.smtp_utf8 {
        return unsendable((5, 6, 7), "an address is not in ASCII, and the server takes no such addresses");
    }
    if outgoing.utf8 && !extensions.smtp_utf8 {
        return unsendable((5, 6, 9), "the header is not in ASCII, and the server takes no such header");
    }
    Ok(())
}

/// Appends MAIL with what the server understands.
pub(super) fn say_mail(outgoing: &Outgoing<'_>, extensions: &Extensions, out: &mut String) {
    let _ = write!(out, "MAIL FROM:<{}>", outgoing.from);
    if extensions.size {
        let _ = write!(out, " SIZE={}", outgoing.size);
    }
    if outgoing.binary {
        out.push_str(" BODY=BINARYMIME");
    } else if outgoing.eight_bit {
        out.push_str(" BODY=8BITMIME");
    }
    if outgoing.needs_utf8() {
        out.push_str(" SMTPUTF8");
    }
    if outgoing.require_tls {
        out.push_str(" REQUIRETLS");
    }
    // RFC 3461 section 5.2.1: where the server has the extension, what was asked for is passed on as it came.
    if extensions.dsn {
        match outgoing.ret {
            Some(Ret::Full) => out.push_str(" RET=FULL"),
            Some(Ret::Headers) => out.push_str(" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = outgoing.envid.filter(|envid| is_envid(envid)) {
            let _ = write!(out, " ENVID={envid}");
        }
    }
    out.push_str("\r\n");
}

/// Appends RCPT. A parameter that is not what it should be is left out.
pub(super) fn say_rcpt(
    outgoing: &Outgoing<'_>,
    recipient: &OutgoingRecipient<'_>,
    extensions: &Extensions,
    out: &mut String,
) {
    let _ = write!(out, "RCPT TO:<{}>", recipient.address);
    if extensions.dsn {
        if let Some(notify) = recipient.notify.filter(|notify| Notify::parse(notify).is_some()) {
            let _ = write!(out, " NOTIFY={notify}");
        }
        if let Some(orcpt) = recipient.orcpt.filter(|orcpt| is_orcpt(orcpt, outgoing.needs_utf8())) {
            let _ = write!(out, " ORCPT={orcpt}");
        }
    }
    out.push_str("\r\n");
}

/// Whether an address can stand in a command: one with a domain, or a name alone, as LMTP servers may know their users.
pub(super) fn is_safe(address: &str) -> bool {
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    Mailbox::parse(address).is_ok() || (!address.is_empty() && address.bytes().all(is_atom))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_could_be_commands() {
        for (address, want) in [
            ("bob@example.com", true),
            ("\"b > o\"@example.com", true),
            ("bób@example.com", true),
            ("bob", true),
            ("", false),
            ("bob@example.com> NOTIFY=NEVER", false),
            ("bob\r\nDATA", false),
            ("bob@example.com\r\nDATA", false),
            ("\"bob\n\"@example.com", false),
            ("bob smith", false),
            ("<bob>", false),
        ] {
            assert_eq!(is_safe(address), want, "{address:?}");
        }
    }
}
