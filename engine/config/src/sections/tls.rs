//! `[tls]`: certificates, versions, and who has to use TLS.

use crate::{
    config::{Certificate, ClientCertificates, Tls, TlsStrength, TlsVersion},
    keys::{Choice, Key, Kind, Section, names},
    reader::{Entry, Setting, Table, Trouble},
};
use ringpost_base::Span;

pub(crate) static TLS: Section = Section {
    path: "tls",
    header: "[tls]",
    intro: "Certificates, versions, and who has to use TLS, for all listeners. Key exchange is always ephemeral (ECDHE). \
            The files are read again with the config; sessions under way keep what they began with.",
    stand_in: None,
    keys: &[
        Key::new(
            "required",
            Kind::Flag,
            "false",
            "Whether every listener takes mail over TLS only: without it MAIL gets 530 5.7.0. Senders without TLS \
             can't reach the server then; `tls_required` of a `[[domain]]` asks for it where that is wanted.",
        ),
        Key::tables("certificates", "[[tls.certificates]]", ""),
        Key::new(
            "min_version",
            Kind::Choice(names::<TlsVersion>),
            r#""1.2""#,
            "The oldest version of TLS a client may speak. With `1.3`, senders that have only 1.2 fall back to plain \
             text, or give up.",
        ),
        Key::new(
            "min_strength",
            Kind::Text(STRENGTH),
            "128",
            "The weakest cipher, in bits of its key. `256` leaves AES-128 out, and with it the senders that have \
             nothing else.",
        ),
        Key::new(
            "post_quantum",
            Kind::Flag,
            "true",
            "Whether the hybrid key exchange X25519MLKEM768 is offered, which quantum computers don't break. It costs a \
             handshake some 20% more time and 2 KB more on the wire, with clients that know it.",
        ),
        Key::new(
            "client_certificates",
            Kind::Choice(names::<ClientCertificates>),
            r#""off""#,
            "`ask` asks clients for a certificate of theirs and logs what they show. Nobody is refused for it.",
        ),
        Key::new(
            "client_ca",
            Kind::Text(PEM),
            r#""""#,
            "The PEM file of the authorities that certificates of clients are verified against, with \
             `client_certificates = \"ask\"` only. Empty: they are logged as not verified.",
        ),
        Key::new(
            "expiry_warning",
            Kind::Time { min: Span::millis(0), max: EXPIRY_WARNING_MAX },
            r#""14d""#,
            "How long before the end of a certificate the server is degraded and says so: of one that it shows clients, or \
             that a target has it show. Renewal should come before that. 0: only once it has ended.",
        ),
    ],
};

pub(crate) static CERTIFICATES: Section = Section {
    path: "tls.certificates",
    header: "[[tls.certificates]]",
    intro: "A certificate. A client is shown the one for the name it asks for, else the first. With none, a \
            self-signed one is made in `server.state_dir`, which opportunistic senders accept.",
    stand_in: Some("[tls]\ncertificates = []\n"),
    keys: &[
        Key::required(
            "cert",
            Kind::Text("a PEM file"),
            "The PEM file of the certificate, followed by its intermediates.",
        ),
        Key::required(
            "key",
            Kind::Text("a PEM file"),
            "The PEM file of its private key, readable by the server's user alone.",
        ),
        Key::new(
            "ocsp",
            Kind::Text("a DER file, or \"\""),
            r#""""#,
            "The file of an OCSP response, in DER, to be stapled to the certificate; reload when it is renewed. Empty: \
             nothing is stapled.",
        ),
    ],
};

/// Longer than a certificate lasts that clients of the Web would take.
const EXPIRY_WARNING_MAX: Span = Span::seconds(398 * 86_400);

const STRENGTH: &str = "128 or 256";

const PEM: &str = "a PEM file, or \"\"";

impl Choice for TlsVersion {
    const ALL: &'static [(&'static str, Self)] = &[("1.2", Self::V12), ("1.3", Self::V13)];
}

impl Choice for ClientCertificates {
    const ALL: &'static [(&'static str, Self)] = &[("off", Self::Off), ("ask", Self::Ask)];
}

impl TlsStrength {
    /// Bits of the key.
    pub const fn bits(self) -> u16 {
        match self {
            Self::Bits128 => 128,
            Self::Bits256 => 256,
        }
    }
}

/// `[tls]`, and the setting of `required`, for the listeners to be compared with.
pub(crate) fn tls(root: &Table<'_>) -> (Tls, Setting<bool>) {
    let (table, default) = (root.table("tls", &TLS), Tls::default());
    let required = table.flag("required", default.required);
    let certificates = table.tables("certificates", &CERTIFICATES).value.unwrap_or_default();
    let certificate = |table: Table<'_>| Certificate {
        cert: table.file("cert").value,
        key: table.file("key").value,
        ocsp: table.optional_file("ocsp").value,
    };
    let asked = table.choice("client_certificates", default.client_certificates);
    let client_ca = table.optional_file("client_ca");
    let holds = client_ca.value.is_none() || asked.value == ClientCertificates::Ask;
    table.reader.require(holds, &[client_ca.spot(), asked.spot()], || {
        "no certificate is verified against it, since tls.client_certificates is \"off\"".to_owned()
    });
    let tls = Tls {
        required: required.value,
        certificates: certificates.into_iter().map(certificate).collect(),
        min_version: table.choice("min_version", default.min_version).value,
        min_strength: table.setting("min_strength", default.min_strength, |entry, _| strength(entry)).value,
        post_quantum: table.flag("post_quantum", default.post_quantum).value,
        client_certificates: asked.value,
        client_ca: client_ca.value,
        expiry_warning: table.time("expiry_warning", default.expiry_warning).value,
    };
    (tls, required)
}

fn strength(entry: &Entry<'_>) -> Result<TlsStrength, Trouble> {
    match entry.integer().ok_or_else(|| entry.wants(STRENGTH))? {
        128 => Ok(TlsStrength::Bits128),
        256 => Ok(TlsStrength::Bits256),
        other => Err(format!("{other} is not {STRENGTH}").into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{ClientCertificates, Config, TlsStrength, TlsVersion, tests::check};

    #[test]
    fn values() {
        let config = Config::parse(
            "f",
            "[tls]\nrequired = true\nmin_version = '1.3'\nmin_strength = 256\npost_quantum = false\n\
             client_certificates = 'ask'\nclient_ca = 'ca.pem'\n\
             certificates = [{ cert = 'c.pem', key = 'k.pem', ocsp = 'o.der' }, { cert = 'd', key = 'e', ocsp = '' }]",
        );
        let tls = config.expect("the text has no fault").tls;
        assert!(tls.required && !tls.post_quantum);
        assert_eq!((tls.min_version, tls.min_strength), (TlsVersion::V13, TlsStrength::Bits256));
        assert_eq!((tls.client_certificates, tls.client_ca.as_deref()), (ClientCertificates::Ask, Some("ca.pem")));
        assert_eq!((tls.certificates[0].cert.as_str(), tls.certificates[0].key.as_str()), ("c.pem", "k.pem"));
        let staples: Vec<_> = tls.certificates.iter().map(|certificate| certificate.ocsp.as_deref()).collect();
        assert_eq!(staples, [Some("o.der"), None]);
    }

    #[test]
    fn faults() {
        check(
            "[tls]\ncertificates = [{ cert = 'a' }, { key = '' }, 'x']\nmin_version = 1.3\nmin_strength = 192\n\
             post_quantum = 'yes'\nrequired = 1",
            &[
                "f:2:17: tls.certificates[0].key: missing, wants a PEM file",
                "f:2:33: tls.certificates[1].cert: missing, wants a PEM file",
                "f:2:41: tls.certificates[1].key: the path is empty",
                "f:2:47: tls.certificates[2]: found a string, wants a table",
                "f:3:15: tls.min_version: found a float, wants one of 1.2, 1.3",
                "f:4:16: tls.min_strength: 192 is not 128 or 256",
                "f:5:16: tls.post_quantum: found a string, wants true or false without quotes",
                "f:6:12: tls.required: found an integer, wants true or false",
            ],
        );
        check(
            "[[tls.certificates]]\ncert = 'a'\nkye = 'b'\n[tls]\nmin_version = '1.1'\nmin_strength = '128'\n\
             client_certificates = 'require'",
            &[
                "f:1:1: tls.certificates[0].key: missing, wants a PEM file",
                "f:3:1: tls.certificates[0].kye: unknown key; did you mean \"key\"?",
                "f:5:15: tls.min_version: \"1.1\" is not one of 1.2, 1.3; did you mean \"1.2\"?",
                "f:6:16: tls.min_strength: found a string, wants 128 or 256",
                "f:7:23: tls.client_certificates: \"require\" is not one of off, ask",
            ],
        );
    }

    #[test]
    fn authorities_need_certificates_to_verify() {
        check(
            "tls.client_ca = 'ca.pem'",
            &["f:1:17: tls.client_ca: no certificate is verified against it, since tls.client_certificates is \
             \"off\""],
        );
        check("tls.client_ca = ''", &[]);
        check("tls.client_ca = 'ca.pem'\ntls.client_certificates = 'ask'", &[]);
    }
}
