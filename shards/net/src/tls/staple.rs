//! OCSP responses that are stapled to a handshake.

use super::der::{Der, ENUMERATED, Fields, GENERALIZED_TIME, INTEGER, OBJECT_ID, OCTETS, SEQUENCE, constructed, time};
use ringpost_base::Timestamp;

/// A response for one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staple {
    pub(super) response: Vec<u8>,
    /// From when it is too old to be shown.
    pub(super) stale: Option<Timestamp>,
}

/// What a file holds that was given as a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A response that says the certificate is good.
    Good(Staple),
    /// A response that is of no use for this certificate now, and why.
    Useless(&'static str),
    /// No response, and why.
    Malformed(&'static str),
}

/// What the responder says of one certificate.
struct Single {
    good: bool,
    stale: Option<Timestamp>,
}

/// Looks whether the bytes are a response for the certificate. Its signature is for the client to verify.
pub(super) fn read(response: Vec<u8>, certificate: &[u8], now: Timestamp) -> Read {
    if response.is_empty() {
        return Read::Malformed("is empty");
    }
    let Some((status, basic)) = outer(&response) else {
        return Read::Malformed("is not an OCSP response in DER form (is it PEM, or a request?)");
    };
    if status != [0] {
        return Read::Malformed("says that the responder could not answer: fetch it anew");
    }
    let Some(basic) = basic else { return Read::Malformed("says that there is an answer and holds none") };
    let Some(serial) = Fields::read(certificate).map(|fields| fields.serial) else {
        return Read::Useless("the certificate's serial number can't be read");
    };
    match single(basic, serial) {
        None => Read::Useless("it is for another certificate"),
        Some(Single { good: false, .. }) => Read::Useless("it says that the certificate is revoked or unknown"),
        Some(Single { stale: Some(stale), .. }) if stale <= now => Read::Useless("it is out of date"),
        Some(Single { stale, .. }) => Read::Good(Staple { response, stale }),
    }
}

/// The status, and the answer's bytes if there is one of the basic kind, the only kind there is.
fn outer(response: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    const BASIC: [u8; 9] = [0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
    let mut whole = Der(response);
    let mut fields = whole.enter(SEQUENCE)?;
    // Nothing may follow.
    if !whole.0.is_empty() {
        return None;
    }
    let status = fields.expect(ENUMERATED)?;
    let basic = fields.optional(constructed(0)).and_then(|content| {
        let mut content = Der(content).enter(SEQUENCE)?;
        (content.expect(OBJECT_ID)? == BASIC).then_some(())?;
        content.expect(OCTETS)
    });
    Some((status, basic))
}

/// What is said of the certificate with this serial number.
fn single(basic: &[u8], serial: &[u8]) -> Option<Single> {
    let mut data = Der(basic).enter(SEQUENCE)?.enter(SEQUENCE)?;
    data.optional(constructed(0));
    // The responder's name or key, and when the answer was made.
    data.field()?;
    data.expect(GENERALIZED_TIME)?;
    let mut responses = data.enter(SEQUENCE)?;
    loop {
        let mut response = responses.enter(SEQUENCE)?;
        let mut id = response.enter(SEQUENCE)?;
        let (_algorithm, _name, _key) = (id.expect(SEQUENCE)?, id.expect(OCTETS)?, id.expect(OCTETS)?);
        if id.expect(INTEGER)? != serial {
            continue;
        }
        let (status, _) = response.field()?;
        response.expect(GENERALIZED_TIME)?;
        let next = response.optional(constructed(0)).and_then(|content| time(Der(content).field()?));
        return Some(Single { good: status == super::der::primitive(0), stale: next });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tls::der::{SEQUENCE, primitive};

    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![tag, 0x82, (content.len() >> 8) as u8, content.len() as u8];
        field.extend_from_slice(content);
        field
    }

    /// A response in the form that responders give, for a serial number; its signature is noise.
    pub(in crate::tls) fn response(serial: &[u8], status: u8, next: Option<&str>) -> Vec<u8> {
        let id = [field(SEQUENCE, &[]), field(OCTETS, &[1; 20]), field(OCTETS, &[2; 20]), field(INTEGER, serial)];
        let mut single = [field(SEQUENCE, &id.concat()), field(primitive(status), &[])].concat();
        single.extend(field(GENERALIZED_TIME, b"20260101000000Z"));
        if let Some(next) = next {
            single.extend(field(constructed(0), &field(GENERALIZED_TIME, next.as_bytes())));
        }
        let responses = field(SEQUENCE, &field(SEQUENCE, &single));
        let data =
            [field(constructed(2), &field(OCTETS, &[3; 20])), field(GENERALIZED_TIME, b"20260101000000Z"), responses];
        let basic = [field(SEQUENCE, &data.concat()), field(SEQUENCE, &[]), field(0x03, &[0; 65])].concat();
        let oid = field(OBJECT_ID, &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01]);
        let bytes = [oid, field(OCTETS, &field(SEQUENCE, &basic))].concat();
        let outer = [field(ENUMERATED, &[0]), field(constructed(0), &field(SEQUENCE, &bytes))].concat();
        field(SEQUENCE, &outer)
    }

    #[track_caller]
    fn check(response: Vec<u8>, certificate: &[u8], expected: &str) {
        let now = Timestamp::from_unix_micros(1_775_000_000_000_000);
        let said = match read(response, certificate, now) {
            Read::Good(staple) => format!("good until {:?}", staple.stale.map(Timestamp::unix_seconds)),
            Read::Useless(why) => format!("useless: {why}"),
            Read::Malformed(why) => format!("malformed: {why}"),
        };
        assert!(said.starts_with(expected), "{said}, not {expected}");
    }

    #[test]
    fn responses() {
        let pem = crate::certificates::self_signed("mx.example.org").expect("certificate");
        let der = <rustls::pki_types::CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_slice(
            pem.certificate.as_bytes(),
        )
        .expect("PEM");
        let serial = Fields::read(&der).expect("certificate").serial;
        check(response(serial, 0, None), &der, "good until None");
        check(response(serial, 0, Some("20990101000000Z")), &der, "good until Some(4070908800)");
        check(response(serial, 0, Some("20260201000000Z")), &der, "useless: it is out of date");
        check(response(serial, 1, None), &der, "useless: it says that the certificate is revoked");
        check(response(&[9, 9], 0, None), &der, "useless: it is for another certificate");
        check(Vec::new(), &der, "malformed: is empty");
        check(pem.certificate.into_bytes(), &der, "malformed: is not an OCSP response");
        check(der.to_vec(), &der, "malformed: is not an OCSP response");
        check(vec![0x30, 0x03, 0x0A, 0x01, 0x06], &der, "malformed: says that the responder could not answer");
        check(vec![0x30, 0x03, 0x0A, 0x01, 0x00], &der, "malformed: says that there is an answer and holds none");
        let whole = response(serial, 0, None);
        check([&whole[..], b"x"].concat(), &der, "malformed: is not an OCSP response");
        for cut in 1..whole.len() {
            check(whole[..cut].to_vec(), &der, "malformed: is not an OCSP response");
        }
    }
}
