//! The banner, and the answers to EHLO, HELO and LHLO.

use crate::client::{CLIENT_ATTRIBUTES, FORWARD_ATTRIBUTES};
use crate::machine::Core;
use crate::options::Protocol;
use crate::reply::{Class, Line};
use crate::session::Step;
use std::fmt::Write;

/// The banner (RFC 5321 section 4.2), which says what is spoken, and of which version nothing (RFC 5321 section 7.5).
pub(crate) fn banner(core: &mut Core, out: &mut Vec<u8>) {
    core.tally.count(Class::Positive);
    let protocol = match core.setup.protocol {
        Protocol::Smtp => "ESMTP",
        Protocol::Lmtp => "LMTP",
    };
    let _ = write!(Line(out), "220 {} {protocol} ringpost {}\r\n", core.setup.options.hostname, core.setup.id);
}

/// RFC 5321 section 4.1.1.1 and RFC 5321 section 3.2; LHLO means the same (RFC 2033 section 4.1).
pub(crate) fn ehlo(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    hello(core, arguments, true, out)
}

pub(crate) fn helo(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    hello(core, arguments, false, out)
}

fn hello(core: &mut Core, arguments: &str, extended: bool, out: &mut Vec<u8>) -> Option<Step> {
    let (reset, again) = (core.reset(), core.helo.is_some());
    core.greeted(arguments.split(' ').next().unwrap_or_default(), extended);
    core.tally.count(Class::Positive);
    let (separator, tag) = (if extended { '-' } else { ' ' }, core.tag());
    let _ = write!(Line(out), "250{separator}{}{tag}\r\n", core.setup.options.hostname);
    if extended {
        extensions(core, &mut Line(out));
    }
    let closed = if again { core.no_progress(out) } else { None };
    closed.or(reset)
}

/// The greatest value of a limit that can be announced (RFC 9422 section 4.1, RFC 9422 section 4.2): six digits.
const ANNOUNCED_MAX: usize = 999_999;

/// The keywords of the extensions that this session has (RFC 5321 section 2.2.2).
fn extensions(core: &Core, line: &mut Line<'_>) {
    let (options, trust) = (&core.setup.options, core.setup.trust);
    // RFC 2920 section 2, RFC 1870 section 4 and RFC 3461 section 2 have a keyword each. RFC 6531 section 3.1: SMTPUTF8
    // comes with 8BITMIME. RFC 2033 section 5: LMTP comes with the first and the last.
    let _ = write!(
        line,
        "250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250-DSN\r\n",
        options.message_size_max.0
    );
    // RFC 3207 section 2 and RFC 3207 section 3.
    if core.offers_tls() {
        let _ = line.write_str("250-STARTTLS\r\n");
    }
    // RFC 8689 section 2: offered where TLS is on already.
    if core.setup.secure {
        let _ = line.write_str("250-REQUIRETLS\r\n");
    }
    // RFC 9422 section 3: what is announced here is what RCPT and MAIL are held to, RFC 9422 section 3.1.
    let _ = write!(line, "250-LIMITS RCPTMAX={}", options.recipients_max.clamp(1, ANNOUNCED_MAX));
    if options.messages_per_session > 0 {
        let _ = write!(line, " MAILMAX={}", options.messages_per_session.min(ANNOUNCED_MAX as u32));
    }
    let _ = line.write_str("\r\n");
    if trust.xclient {
        let _ = write!(line, "250-XCLIENT {CLIENT_ATTRIBUTES}\r\n");
    }
    if trust.xforward {
        let _ = write!(line, "250-XFORWARD {FORWARD_ATTRIBUTES}\r\n");
    }
    let _ = line.write_str("250 ENHANCEDSTATUSCODES\r\n");
}
