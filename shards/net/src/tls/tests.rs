//! Handshakes between an acceptor and clients of every kind, in memory.

use super::der::Fields;
use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, ResolvesClientCert};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedCipherSuite};
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;

/// An issuer of certificates.
struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Self { certificate, pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for names, of which those with an @ are mail addresses, and its key.
    fn issue(&self, names: &[&str], key: KeyPair) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "common");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let name = |name: &&str| match name.contains('@') {
            true => SanType::Rfc822Name((*name).try_into().expect("address")),
            false => SanType::DnsName((*name).try_into().expect("name")),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        (params.signed_by(&key, &self.issuer).expect("certificate"), key)
    }
}

fn ecdsa() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key")
}

fn rsa() -> KeyPair {
    KeyPair::generate_for(&PKCS_RSA_SHA256).expect("key")
}

/// Files of certificates.
struct Files {
    directory: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        Self { directory: TempDir::new().expect("directory"), authority: Authority::new("test authority") }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    fn issue(&self, names: &[&str], key: KeyPair) -> CertificateFiles {
        let (certificate, key) = self.authority.issue(names, key);
        let name = format!("{}-{}", names[0].replace('*', "any"), key.algorithm() == &PKCS_RSA_SHA256);
        CertificateFiles {
            cert: self.write(&format!("{name}.crt"), certificate.pem() + &self.authority.pem),
            key: self.write(&format!("{name}.key"), key.serialize_pem()),
            ocsp: None,
        }
    }

    fn options(&self) -> TlsOptions {
        TlsOptions { certificates: vec![self.issue(&["mx.example.org"], ecdsa())], ..TlsOptions::default() }
    }
}

fn acceptor(options: &TlsOptions) -> Acceptor {
    acceptor_with(options, &Ticketing::new().expect("key"))
}

fn acceptor_with(options: &TlsOptions, ticketing: &Ticketing) -> Acceptor {
    Acceptor::all(options, ticketing, 1).expect("acceptor").remove(0)
}

fn refusal(options: &TlsOptions) -> String {
    let refused = Acceptor::all(options, &Ticketing::new().expect("key"), 1);
    refused.err().expect("an error").to_string()
}

/// Takes any server, and remembers what was stapled.
#[derive(Debug)]
struct Trusting {
    stapled: Mutex<Vec<u8>>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.stapled.lock().expect("lock") = ocsp.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Shows a certificate with a key, whether they go together or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a client is like.
struct Client {
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: fn(&SupportedCipherSuite) -> bool,
    groups: Vec<&'static dyn SupportedKxGroup>,
    schemes: Vec<SignatureScheme>,
    shows: Option<Arc<CertifiedKey>>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            versions: vec![&version::TLS13, &version::TLS12],
            suites: |_| true,
            groups: aws_lc_rs::default_provider().kx_groups,
            schemes: aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes(),
            shows: None,
        }
    }
}

impl Client {
    fn v12() -> Self {
        Self { versions: vec![&version::TLS12], ..Self::default() }
    }

    fn showing(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = aws_lc_rs::sign::any_supported_type(&key).expect("key");
        Self { shows: Some(Arc::new(CertifiedKey::new(chain, key))), ..Self::default() }
    }

    fn config(self) -> (Arc<ClientConfig>, Arc<Trusting>) {
        let default = aws_lc_rs::default_provider();
        let suites = default.cipher_suites.iter().copied().filter(self.suites).collect();
        let provider = CryptoProvider { cipher_suites: suites, kx_groups: self.groups, ..default };
        let trusting = Arc::new(Trusting { stapled: Mutex::default(), schemes: self.schemes });
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(trusting.clone());
        let config = match self.shows {
            Some(shows) => config.with_client_cert_resolver(Arc::new(Shows(shows))),
            None => config.with_no_client_auth(),
        };
        (Arc::new(config), trusting)
    }
}

/// Shakes hands; gives what the server has to say of it, and the certificate that the client got.
fn shake(acceptor: &Acceptor, config: &Arc<ClientConfig>, name: &str) -> Result<(Handshake, String), String> {
    let name = ServerName::try_from(name.to_owned()).expect("name");
    let mut client = ClientConnection::new(config.clone(), name).expect("client");
    let mut server = acceptor.connection().expect("server");
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            server.read_tls(&mut unread).expect("memory");
            server.process_new_packets().map_err(|error| error.to_string())?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).expect("memory");
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    let got = client.peer_certificates().and_then(|chain| Fields::read(&chain[0])?.name());
    Ok((acceptor.describe(&server, ringpost_runtime::now().wall), got.unwrap_or_default()))
}

#[track_caller]
fn check_policy(options: &TlsOptions, client: Client, expected: &str) {
    let came = match shake(&acceptor(options), &client.config().0, "mx.example.org") {
        Ok((Handshake { version, cipher, group, .. }, _)) => format!("{version} {cipher} {group}"),
        Err(error) => error,
    };
    assert!(came.contains(expected), "{came}, not {expected}");
}

#[test]
fn versions_strengths_and_groups() {
    let files = Files::new();
    let options = files.options();
    let strong = TlsOptions { min_strength: Strength::Bits256, ..options.clone() };
    let only_13 = TlsOptions { min_version: TlsMin::V13, ..options.clone() };
    let classical = TlsOptions { post_quantum: false, ..options.clone() };
    let short = || Client { suites: |suite| format!("{:?}", suite.suite()).contains("AES_128"), ..Client::default() };
    let fond_of_short = Client { suites: |suite| !format!("{suite:?}").contains("AES_256"), ..Client::default() };
    let x25519 = || Client { groups: vec![kx_group::X25519], ..Client::default() };
    check_policy(&options, Client::default(), "TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519MLKEM768");
    check_policy(&options, Client::v12(), "TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 X25519");
    check_policy(&options, short(), "TLSv1.3 TLS13_AES_128_GCM_SHA256 X25519MLKEM768");
    check_policy(&options, x25519(), "TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519");
    check_policy(&strong, Client::default(), "TLSv1.3 TLS13_AES_256_GCM_SHA384");
    check_policy(&strong, fond_of_short, "TLSv1.3 TLS13_CHACHA20_POLY1305_SHA256");
    check_policy(&strong, short(), "NoCipherSuitesInCommon");
    check_policy(&only_13, Client::default(), "TLSv1.3 ");
    check_policy(&only_13, Client::v12(), "Tls12NotOfferedOrEnabled");
    check_policy(&classical, Client::default(), "TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519");
    let hybrid_alone =
        Client { groups: vec![kx_group::X25519MLKEM768], versions: vec![&version::TLS13], ..Client::default() };
    check_policy(&classical, hybrid_alone, "NoKxGroupsInCommon");
}

#[test]
fn the_certificate_goes_by_name_and_by_what_the_client_can_check() {
    let files = Files::new();
    let certificates = vec![
        files.issue(&["mx.example.org", "mail.example.org"], rsa()),
        files.issue(&["mx.example.org", "alias.example.org"], ecdsa()),
        files.issue(&["*.example.net", "example.net"], ecdsa()),
        files.issue(&["special.example.net"], ecdsa()),
        files.issue(&["rsa.example.com"], rsa()),
    ];
    let acceptor = acceptor(&TlsOptions { certificates, ..TlsOptions::default() });
    let check = |name: &str, only_rsa: bool, subject: &str, cipher: &str| {
        let schemes = vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
        let client = if only_rsa { Client { schemes, ..Client::v12() } } else { Client::v12() };
        let (handshake, got) = shake(&acceptor, &client.config().0, name).expect(name);
        assert_eq!((&*got, handshake.server_name.as_deref()), (subject, Some(name)), "{name}");
        assert!(handshake.cipher.contains(cipher), "{name}: {}", handshake.cipher);
    };
    check("mx.example.org", false, "mx.example.org", "_ECDSA_");
    check("mx.example.org", true, "mx.example.org", "_RSA_");
    check("mail.example.org", false, "mx.example.org", "_RSA_");
    check("a.example.net", false, "*.example.net", "_ECDSA_");
    check("example.net", false, "*.example.net", "_ECDSA_");
    check("special.example.net", false, "special.example.net", "_ECDSA_");
    check("rsa.example.com", false, "rsa.example.com", "_RSA_");
    // Names that no certificate is for, or none that the client could check, get the first that it can.
    check("unknown.example.com", false, "mx.example.org", "_ECDSA_");
    check("a.b.example.net", false, "mx.example.org", "_ECDSA_");
    check("a.example.net", true, "mx.example.org", "_RSA_");
    let (handshake, got) = shake(&acceptor, &Client::default().config().0, "192.0.2.1").expect("no name");
    assert_eq!((&*got, handshake.server_name), ("mx.example.org", None));
}

/// What is told of a client: `none`, or subject and whether it is verified; or why it was refused.
fn told(acceptor: &Acceptor, client: Client) -> String {
    let (config, _) = client.config();
    match shake(acceptor, &config, "mx.example.org") {
        Err(error) => error,
        Ok((Handshake { client: None, .. }, _)) => "none".to_owned(),
        Ok((Handshake { client: Some(client), .. }, _)) => format!("{} {}", client.subject, client.verified),
    }
}

#[test]
fn client_certificates_are_told_of_and_none_is_a_reason_to_refuse() {
    let files = Files::new();
    let ask = TlsOptions { client_certificates: ClientCertificates::Ask, ..files.options() };
    let ca = files.write("clients.pem", &files.authority.pem);
    let with_ca = TlsOptions { client_ca: Some(ca), ..ask.clone() };
    let (off, ask, with_ca) = (acceptor(&files.options()), acceptor(&ask), acceptor(&with_ca));
    let ours = files.authority.issue(&["mx.sender.example"], ecdsa());
    let strange = Authority::new("strange").issue(&["user@sender.example"], rsa());
    let nameless = files.authority.issue(&[], ecdsa());
    let show =
        |(certificate, key): &(rcgen::Certificate, KeyPair)| Client::showing(vec![certificate.der().clone()], key);
    for (acceptor, shown, expected) in [
        (&off, &ours, "none"),
        (&ask, &ours, "mx.sender.example false"),
        (&with_ca, &ours, "mx.sender.example true"),
        (&with_ca, &strange, "user@sender.example false"),
        (&with_ca, &nameless, "common true"),
    ] {
        assert_eq!(told(acceptor, show(shown)), expected);
        assert_eq!(told(acceptor, Client { versions: vec![&version::TLS12], ..show(shown) }), expected, "TLS 1.2");
    }
    assert_eq!(told(&with_ca, Client::default()), "none");
    // Padded with more intermediates than a path is looked for in.
    let padded = [vec![ours.0.der().clone()], vec![files.authority.certificate.clone(); 5]].concat();
    assert_eq!(told(&with_ca, Client::showing(padded, &ours.1)), "mx.sender.example false");
    // A certificate of version 1, which the library does not read.
    let mut old = ours.0.der().to_vec();
    let version = old.windows(5).position(|window| window == [0xA0, 3, 2, 1, 2]).expect("version 3");
    old[version + 4] = 0;
    assert_eq!(told(&with_ca, Client::showing(vec![old.into()], &ours.1)), "none");
}

#[test]
fn stolen_certificates_and_heaps_of_them_are_refused() {
    let files = Files::new();
    let acceptor = acceptor(&TlsOptions { client_certificates: ClientCertificates::Ask, ..files.options() });
    let (certificate, key) = files.authority.issue(&["mx.sender.example"], ecdsa());
    let stolen = told(&acceptor, Client::showing(vec![certificate.der().clone()], &ecdsa()));
    assert!(stolen.contains("BadSignature"), "{stolen}");
    let heap = told(&acceptor, Client::showing(vec![certificate.der().clone(); 100], &key));
    assert!(heap.contains("bytes of certificates"), "{heap}");
}

#[test]
fn the_fingerprint_is_that_of_the_certificate_as_sent() {
    let (certificate, key) = Authority::new("any").issue(&["mx.sender.example"], ecdsa());
    let files = Files::new();
    let acceptor = acceptor(&TlsOptions { client_certificates: ClientCertificates::Ask, ..files.options() });
    let (config, _) = Client::showing(vec![certificate.der().clone()], &key).config();
    let (handshake, _) = shake(&acceptor, &config, "mx.example.org").expect("handshake");
    let told = handshake.client.expect("certificate").fingerprint.to_string();
    // The same by another program, where it is installed, whose output is in pairs with colons between.
    let path = files.write("client.der", certificate.der());
    let arguments = ["x509", "-inform", "der", "-noout", "-fingerprint", "-sha256", "-in"];
    let Ok(openssl) = std::process::Command::new("openssl").args(arguments).arg(path).output() else { return };
    let printed = String::from_utf8_lossy(&openssl.stdout).replace(':', "").to_lowercase();
    assert!(printed.trim().ends_with(&told), "{told} and {printed}");
}

#[test]
fn sessions_are_resumed_across_shards_and_across_a_reload() {
    let files = Files::new();
    let ticketing = Ticketing::new().expect("key");
    let options = files.options();
    let shards = Acceptor::all(&options, &ticketing, 2).expect("acceptors");
    let renewed = TlsOptions { certificates: vec![files.issue(&["mx.example.org"], ecdsa())], ..options.clone() };
    let reloaded = acceptor_with(&renewed, &ticketing);
    let other_key = acceptor(&options);
    for client in [Client::default(), Client::v12()] {
        let (config, _) = client.config();
        let resumed = |acceptor: &Acceptor| shake(acceptor, &config, "mx.example.org").expect("handshake").0.resumed;
        assert!(!resumed(&shards[0]));
        assert!(resumed(&shards[0]) && resumed(&shards[1]) && resumed(&reloaded));
        assert!(!resumed(&other_key), "with another key tickets are nothing");
    }
}

#[test]
fn a_client_certificate_is_still_known_when_its_session_is_resumed() {
    let files = Files::new();
    let acceptor = acceptor(&TlsOptions { client_certificates: ClientCertificates::Ask, ..files.options() });
    let (certificate, key) = files.authority.issue(&["mx.sender.example"], ecdsa());
    let (config, _) = Client::showing(vec![certificate.der().clone()], &key).config();
    for resumed in [false, true] {
        let (handshake, _) = shake(&acceptor, &config, "mx.example.org").expect("handshake");
        assert_eq!(handshake.resumed, resumed);
        assert_eq!(handshake.client.expect("certificate").subject.as_ref(), "mx.sender.example");
    }
}

fn end_entity(path: &Path) -> CertificateDer<'static> {
    chains::certificates(path).expect("certificates").remove(0)
}

#[test]
fn responses_are_stapled_if_they_are_of_use() {
    let files = Files::new();
    let mut options = files.options();
    let certificate = end_entity(&options.certificates[0].cert);
    let serial = Fields::read(&certificate).expect("certificate").serial;
    let good = staple::tests::response(serial, 0, Some("20990101000000Z"));
    let stale = staple::tests::response(serial, 0, Some("20200101000000Z"));
    let foreign = staple::tests::response(&[1, 2, 3], 0, None);
    for (response, stapled) in [(good, true), (stale, false), (foreign, false)] {
        options.certificates[0].ocsp = Some(files.write("response.der", &response));
        for client in [Client::default(), Client::v12()] {
            let (config, trusting) = client.config();
            shake(&acceptor(&options), &config, "mx.example.org").expect("handshake");
            let got = trusting.stapled.lock().expect("lock").clone();
            assert_eq!(got, if stapled { response.clone() } else { Vec::new() });
        }
    }
}

#[test]
fn a_staple_is_left_out_once_it_is_too_old() {
    let files = Files::new();
    let mut options = files.options();
    let certificate = end_entity(&options.certificates[0].cert);
    let serial = Fields::read(&certificate).expect("certificate").serial;
    let response = staple::tests::response(serial, 0, Some("20200101000000Z"));
    options.certificates[0].ocsp = Some(files.write("response.der", response));
    // Read while it was good, shown now.
    let long_ago = Timestamp::from_unix_micros(1_577_000_000_000_000);
    let chain = Chain::read(&options.certificates[0], long_ago).expect("chain");
    let acceptor = Acceptor::new(&options, &Ticketing::new().expect("key"), &[chain], None).expect("acceptor");
    let (config, trusting) = Client::default().config();
    shake(&acceptor, &config, "mx.example.org").expect("handshake");
    assert_eq!(*trusting.stapled.lock().expect("lock"), []);
}

#[track_caller]
fn check_refused(certificate: CertificateFiles, file: &Path, words: &str) {
    let said = refusal(&TlsOptions { certificates: vec![certificate], ..TlsOptions::default() });
    assert!(said.starts_with(&file.display().to_string()), "{said}");
    assert!(said.contains(words), "{said}, not {words}");
}

#[test]
fn errors_name_the_file_and_say_what_to_do() {
    let files = Files::new();
    let good = files.issue(&["mx.example.org"], ecdsa());
    let other = files.issue(&["other.example.org"], ecdsa());
    let missing = files.directory.path().join("missing");
    let empty = files.write("empty", "");
    let garbage = files.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let large = files.write("large", vec![b'x'; (1 << 20) + 1]);
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = files.write("locked.key", locked);
    let pem = std::fs::read_to_string(&good.cert).expect("read");
    let split = pem.rfind("-----BEGIN").expect("two certificates");
    let reversed = files.write("reversed.pem", format!("{}{}", &pem[split..], &pem[..split]));
    let cert = |path: &PathBuf| CertificateFiles { cert: path.clone(), ..good.clone() };
    let key = |path: &PathBuf| CertificateFiles { key: path.clone(), ..good.clone() };
    let ocsp = |path: &PathBuf| CertificateFiles { ocsp: Some(path.clone()), ..good.clone() };
    check_refused(cert(&missing), &missing, "is the path in [tls] right?");
    check_refused(cert(&empty), &empty, "holds no certificate");
    check_refused(cert(&good.key), &good.key, "holds no certificate");
    check_refused(cert(&garbage), &garbage, "the first certificate in it");
    check_refused(cert(&large), &large, "larger than");
    check_refused(cert(&reversed), &reversed, "in the wrong order");
    check_refused(key(&missing), &missing, "can't be read");
    check_refused(key(&empty), &empty, "holds no private key");
    check_refused(key(&locked), &locked, "without one (openssl pkey");
    check_refused(key(&other.key), &other.key, "is not the key of the certificate in");
    check_refused(ocsp(&missing), &missing, "can't be read");
    check_refused(ocsp(&empty), &empty, "is empty");
    check_refused(ocsp(&good.cert), &good.cert, "is not an OCSP response");
    let none = TlsOptions::default();
    assert_eq!(refusal(&none), "TLS can't be set up: no certificate is configured");
    let ask = TlsOptions { certificates: vec![good.clone()], client_certificates: ClientCertificates::Ask, ..none };
    let said = refusal(&TlsOptions { client_ca: Some(empty.clone()), ..ask.clone() });
    assert!(said.starts_with(&empty.display().to_string()), "{said}");
    let said = refusal(&TlsOptions { client_ca: Some(garbage), ..ask });
    assert!(said.contains("certificate 1 in it can't be used as a root"), "{said}");
}

#[test]
fn the_first_to_expire_is_told() {
    let files = Files::new();
    let (_, key) = files.authority.issue(&["mx.example.org"], ecdsa());
    let expiring = |name: &str, year: i32| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        params.not_after = rcgen::date_time_ymd(year, 3, 1);
        let certificate = params.signed_by(&key, &files.authority.issuer).expect("certificate");
        let cert = files.write(name, certificate.pem());
        CertificateFiles { cert, key: files.write("expiring.key", key.serialize_pem()), ocsp: None }
    };
    let certificates = vec![expiring("late", 2061), expiring("soon", 2040)];
    let expires = acceptor(&TlsOptions { certificates, ..TlsOptions::default() }).expires();
    assert_eq!(expires.map(Timestamp::unix_seconds), Some(2_214_172_800));
}
