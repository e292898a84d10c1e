//! What a server offers in its answer to EHLO or LHLO.

/// The extensions that the sender makes use of, as the last EHLO was answered (RFC 5321 section 2.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING.
    pub pipelining: bool,
    /// SIZE.
    pub size: bool,
    /// The largest message in octets, if SIZE names one.
    pub size_max: Option<u64>,
    /// 8BITMIME.
    pub eight_bit_mime: bool,
    /// BINARYMIME.
    pub binary_mime: bool,
    /// CHUNKING.
    pub chunking: bool,
    /// SMTPUTF8.
    pub smtp_utf8: bool,
    /// STARTTLS.
    pub starttls: bool,
    /// DSN.
    pub dsn: bool,
    /// REQUIRETLS.
    pub require_tls: bool,
    /// ENHANCEDSTATUSCODES. They are read wherever they stand.
    pub enhanced_status_codes: bool,
    /// Most recipients of a message: RCPTMAX of LIMITS.
    pub recipients_max: Option<u32>,
    /// Most messages of a session: MAILMAX of LIMITS.
    pub mails_max: Option<u32>,
}

impl Extensions {
    /// Takes a line of the answer behind its first. What isn't known is not for us.
    pub(super) fn take(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            // RFC 1870 section 4: none, or 0, means that no largest size is known.
            "SIZE" => {
                self.size = true;
                self.size_max = words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
            }
            "8BITMIME" => self.eight_bit_mime = true,
            "BINARYMIME" => self.binary_mime = true,
            "CHUNKING" => self.chunking = true,
            "SMTPUTF8" => self.smtp_utf8 = true,
            "STARTTLS" => self.starttls = true,
            "DSN" => self.dsn = true,
            "REQUIRETLS" => self.require_tls = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "LIMITS" => words.for_each(|limit| self.limit(limit)),
            _ => {}
        }
    }

    /// RFC 9422 section 3.7: a limit that can't be read, or is unknown, is as if it were not there.
    fn limit(&mut self, limit: &str) {
        let Some((name, value)) = limit.split_once('=') else { return };
        // RFC 9422 section 4.1, RFC 9422 section 4.2: six digits, the first of which is not a zero.
        let written = value.len() <= 6 && value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
        let Some(value) = value.parse().ok().filter(|_| written) else { return };
        match name.to_ascii_uppercase().as_str() {
            "RCPTMAX" => self.recipients_max = Some(value),
            "MAILMAX" => self.mails_max = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], want: &Extensions) {
        let mut extensions = Extensions::default();
        lines.iter().for_each(|line| extensions.take(line.as_bytes()));
        assert_eq!(extensions, *want, "{lines:?}");
    }

    #[test]
    fn offers() {
        let all = Extensions {
            pipelining: true,
            size: true,
            size_max: Some(1000),
            eight_bit_mime: true,
            binary_mime: true,
            chunking: true,
            smtp_utf8: true,
            starttls: true,
            dsn: true,
            require_tls: true,
            enhanced_status_codes: true,
            recipients_max: Some(100),
            mails_max: Some(999_999),
        };
        let lines = [
            "PIPELINING",
            "size 1000",
            "8BITMIME",
            "BINARYMIME",
            "CHUNKING",
            "SMTPUTF8",
            "STARTTLS",
            "DSN",
            "REQUIRETLS",
            "EnhancedStatusCodes",
            "LIMITS RCPTMAX=100 MAILMAX=999999 RCPTDOMAINMAX=1",
        ];
        check(&lines, &all);
        check(&["", " ", "X-PIPELINING", "PIPELINING8", "AUTH PLAIN", "HELP"], &Extensions::default());
    }

    #[test]
    fn sizes_and_limits() {
        let sized = |size_max| Extensions { size: true, size_max, ..Extensions::default() };
        for (line, size_max) in [
            ("SIZE", None),
            ("SIZE 0", None),
            ("SIZE 7", Some(7)),
            ("SIZE x", None),
            ("SIZE -1", None),
            ("SIZE 99999999999999999999", None),
        ] {
            check(&[line], &sized(size_max));
        }
        for (line, recipients_max) in [
            ("LIMITS RCPTMAX=1", Some(1)),
            ("LIMITS RCPTMAX=0", None),
            ("LIMITS RCPTMAX=+5", None),
            ("LIMITS RCPTMAX=1000000", None),
            ("LIMITS RCPTMAX= X MAILMAX rcptmax=12", Some(12)),
            ("LIMITS", None),
        ] {
            check(&[line], &Extensions { recipients_max, ..Extensions::default() });
        }
    }
}
