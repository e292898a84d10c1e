//! Reading the few things in a certificate or an OCSP response that the TLS library does not tell: when a certificate
//! expires, whom it names, and what a response says.
//!
//! A reader of tags and lengths and nothing more. It is no judge of certificates: signatures and chains are verified by
//! the library alone, and what is read here is shown to people or compared with what the operator configured. That
//! is little enough to need no parser of everything that X.509 may hold.

use ringpost_base::Timestamp;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0A;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// The tag of a field that is told apart by its number, and holds other fields.
pub(super) const fn constructed(number: u8) -> u8 {
    0xA0 | number
}

/// The tag of a field that is told apart by its number, and holds a value.
pub(super) const fn primitive(number: u8) -> u8 {
    0x80 | number
}

/// What is left to be read of some fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The next field: its tag and what is in it. Nothing at the end, or where it is not DER.
    pub(super) fn field(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        // Tags of more than one byte come in nothing that is read here.
        if tag & 0x1F == 0x1F {
            return None;
        }
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(*first), rest),
            // Up to 16 MiB. Longer ones, and those left open, come in nothing that is read here.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x0F))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// What is in the next field, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.field().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The fields inside the next one, which must have this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Self)
    }

    /// What is in the next field if it has this tag; any other is left.
    pub(super) fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }
}

/// The fields of a certificate that come before its key.
pub(super) struct Fields<'a> {
    pub(super) serial: &'a [u8],
    pub(super) not_after: Timestamp,
    subject: Der<'a>,
    extensions: Option<Der<'a>>,
}

impl<'a> Fields<'a> {
    /// Reads a certificate.
    pub(super) fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut fields = Der(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
        fields.optional(constructed(0));
        let serial = fields.expect(INTEGER)?;
        let (_algorithm, _issuer) = (fields.expect(SEQUENCE)?, fields.expect(SEQUENCE)?);
        let mut validity = fields.enter(SEQUENCE)?;
        validity.field()?;
        let not_after = time(validity.field()?)?;
        let subject = fields.enter(SEQUENCE)?;
        fields.expect(SEQUENCE)?;
        fields.optional(constructed(1));
        fields.optional(constructed(2));
        let extensions = fields.optional(constructed(3)).and_then(|content| Der(content).enter(SEQUENCE));
        Some(Self { serial, not_after, subject, extensions })
    }

    /// Whom the certificate is for, as a person would say it: the first host or mail address among its alternative names,
    /// else its common name.
    pub(super) fn name(&self) -> Option<String> {
        self.alternative_name().or_else(|| self.common_name())
    }

    fn alternative_name(&self) -> Option<String> {
        const SUBJECT_ALTERNATIVE_NAME: [u8; 3] = [0x55, 0x1D, 0x11];
        let mut extensions = self.extensions?;
        loop {
            let mut extension = extensions.enter(SEQUENCE)?;
            if extension.expect(OBJECT_ID)? != SUBJECT_ALTERNATIVE_NAME {
                continue;
            }
            extension.optional(BOOLEAN);
            let mut names = extension.enter(OCTETS)?.enter(SEQUENCE)?;
            loop {
                // Mail address and host; there are other kinds.
                let (tag, name) = names.field()?;
                if tag == primitive(1) || tag == primitive(2) {
                    return Some(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
    }

    fn common_name(&self) -> Option<String> {
        const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
        const WIDE_TEXT: u8 = 0x1E;
        let mut sets = self.subject;
        loop {
            let mut attributes = sets.enter(SET)?;
            while let Some(mut attribute) = attributes.enter(SEQUENCE) {
                if attribute.expect(OBJECT_ID)? == COMMON_NAME {
                    let (tag, text) = attribute.field()?;
                    let wide = || text.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
                    return Some(match tag {
                        WIDE_TEXT => char::decode_utf16(wide()).map(|unit| unit.unwrap_or('\u{FFFD}')).collect(),
                        _ => String::from_utf8_lossy(text).into_owned(),
                    });
                }
            }
        }
    }
}

/// A time field: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
pub(super) fn time((tag, text): (u8, &[u8])) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            // Two digits stand for 1950 to 2049.
            let (year, rest) = digits.split_at(2);
            (if number(year) >= 50 { 1900 + number(year) } else { 2000 + number(year) }, rest)
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = std::array::from_fn(|at| number(&rest[2 * at..2 * at + 2]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = (days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second;
    // What was before 1970 was long ago.
    Some(Timestamp::from_unix_micros(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000)))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years are counted from March, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(0)),
            (GENERALIZED_TIME, "20240229120000Z", Some(1_709_208_000)),
            (GENERALIZED_TIME, "20240301000000Z", Some(1_709_251_200)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (GENERALIZED_TIME, "19000301000000Z", Some(0)),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000000+0100", None),
            (UTC_TIME, "701301000000Z", None),
            (GENERALIZED_TIME, "2024022912000aZ", None),
            (GENERALIZED_TIME, "", None),
            (INTEGER, "700101000000Z", None),
        ] {
            let found = time((tag, text.as_bytes())).map(Timestamp::unix_seconds);
            assert_eq!(found, seconds, "{tag:#x} {text}");
        }
    }

    #[test]
    fn fields_that_are_cut_short_or_strange_are_none() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x02, 0x00],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x82, 0x01],
            &[0x30, 0x84, 0x00, 0x00, 0x00, 0x00],
            &[0x1F, 0x01, 0x00],
        ] {
            assert!(Der(bytes).field().is_none(), "{bytes:x?}");
        }
        assert_eq!(Der(&[0x04, 0x81, 0x01, 0x07, 0x05]).field(), Some((0x04, &[0x07][..])));
    }

    #[test]
    fn a_certificate_cut_anywhere_is_read_or_not_but_never_wrong() {
        let pem = crate::certificates::self_signed("mx.example.org").expect("certificate");
        let der = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
            pem.certificate.as_bytes(),
        )
        .expect("PEM");
        let whole = Fields::read(&der).expect("certificate");
        assert_eq!(whole.name().as_deref(), Some("mx.example.org"));
        for cut in 0..der.len() {
            assert!(Fields::read(&der[..cut]).is_none(), "cut at {cut}");
        }
        for at in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[at] ^= 0xFF;
            // Anything but a panic.
            let _ = Fields::read(&damaged).map(|fields| fields.name());
        }
    }
}
