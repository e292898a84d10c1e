//! What scanners of TLS find to complain about: nothing.

use crate::support::authority::{Authority, Issued, Standing};
use crate::support::programs::{Guarded, program, run};
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use serde_json::Value;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const NAME: &str = "mx.example.com";

/// How long a scan may take: it waits much, and on a busy machine for others too.
const SCAN_PATIENCE: Duration = Duration::from_secs(240);

/// Findings of testssl that are none about the server.
const NOT_OURS: [(&str, &str); 4] = [
    ("engine_problem", "its own OpenSSL has no GOST engine"),
    ("sessionresumption_ticket", "it ends the session before TLS 1.3's ticket has come"),
    ("sessionresumption_ID", "TLS 1.3 has no session ids, and it asks for nothing else"),
    ("service", "it looks for HTTP where TLS comes first, and there is none"),
];

/// Findings that must be there and good, or the scan did not see what it was to look at.
const MUST_BE_OK: [&str; 22] = [
    "SSLv2",
    "SSLv3",
    "TLS1_2",
    "TLS1_3",
    "cipherlist_NULL",
    "cipherlist_aNULL",
    "cipherlist_EXPORT",
    "cipherlist_LOW",
    "cipherlist_STRONG",
    "heartbleed",
    "CCS",
    "ROBOT",
    "secure_renego",
    "CRIME_TLS",
    "POODLE_SSL",
    "SWEET32",
    "FREAK",
    "DROWN",
    "LOGJAM",
    "BEAST",
    "LUCKY13",
    "RC4",
];

/// A server with STARTTLS and with TLS from the first byte, certified by an authority that the scanners trust, with keys of
/// both kinds and staples: all that is left to complain about is the server.
fn server() -> (Server, Authority) {
    let home = Home::new(2);
    let authority = Authority::new(home.path());
    let entry = |kind: &str| {
        let issued: Issued = authority.server(&kind.replace(':', "-"), kind, &[NAME]);
        let staple = authority.staple(&issued, Standing::Good, 7);
        issued.stapled_entry(&staple)
    };
    let line = format!("certificates = [{}, {}]", entry("ec"), entry("rsa:2048"));
    let settings = Settings::default().set("tls", &line).listener("mx", "starttls").listener("mxs", "implicit");
    (Server::start_at(home, settings), authority)
}

/// The attributes of all elements of a kind in sslscan's XML, which has one element a line.
fn elements<'a>(xml: &'a str, kind: &str) -> Vec<&'a str> {
    let start = format!("<{kind} ");
    xml.lines().filter_map(|line| line.trim().strip_prefix(&start)).collect()
}

fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let (_, rest) = element.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {element}"));
    rest.split('"').next().unwrap_or("")
}

fn check_sslscan(address: SocketAddr, options: &[&str]) {
    let mut command = Command::new(program("sslscan", "sslscan"));
    command.args(["--no-colour", "--xml=-", &format!("--sni-name={NAME}"), "--ocsp"]).args(options);
    let xml = run(command.arg(address.to_string()), "").ok().out;
    let protocols = elements(&xml, "protocol");
    let enabled = protocols.iter().filter(|it| attribute(it, "enabled") == "1").map(|it| attribute(it, "version"));
    assert_eq!(enabled.collect::<Vec<_>>(), ["1.2", "1.3"], "{xml}");
    assert_eq!(protocols.len(), 6, "{xml}");
    let ciphers = elements(&xml, "cipher");
    for cipher in &ciphers {
        let (name, bits) = (attribute(cipher, "cipher"), attribute(cipher, "bits"));
        let forward = name.starts_with("TLS_") || name.starts_with("ECDHE-");
        let sealed = name.contains("GCM") || name.contains("CHACHA20-POLY1305") || name.contains("CHACHA20_POLY1305");
        assert!(forward && sealed && matches!(bits, "128" | "256"), "{cipher}");
        assert!(matches!(attribute(cipher, "strength"), "strong" | "acceptable"), "{cipher}");
    }
    assert_eq!(ciphers.len(), 9, "three of TLS 1.3, and three for each kind of key: {xml}");
    assert!(elements(&xml, "heartbleed").iter().all(|it| attribute(it, "vulnerable") == "0"), "{xml}");
    let renegotiation = elements(&xml, "renegotiation");
    assert!(renegotiation.len() == 1 && attribute(renegotiation[0], "supported") == "0", "{xml}");
    for group in elements(&xml, "group") {
        assert!(["secp256r1", "secp384r1", "x25519"].iter().any(|name| group.contains(name)), "{group}");
    }
    assert!(xml.contains("<self-signed>false</self-signed>") && xml.contains("<expired>false</expired>"), "{xml}");
    assert!(!xml.contains("error=\"true\""), "{xml}");
}

#[test]
fn sslscan_finds_nothing_to_complain_about() {
    let (server, _authority) = server();
    let [starttls, implicit] = server.home.smtp[..] else { panic!("two listeners") };
    std::thread::scope(|scope| {
        scope.spawn(|| check_sslscan(starttls, &["--starttls-smtp"]));
        scope.spawn(|| check_sslscan(implicit, &[]));
    });
    server.wait_for_rest();
    assert_eq!(server.metrics().total("ringpost_sessions_panicked_total"), 0);
}

/// A scan under way, and where it writes what it finds.
struct Scan {
    child: Guarded,
    findings: PathBuf,
    output: PathBuf,
}

impl Scan {
    fn start(folder: &Path, name: &str, authority: &Authority, address: SocketAddr, options: &[&str]) -> Self {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let (findings, output) = (file("json"), file("out"));
        let out = File::create(&output).expect("a file");
        let mut command = Command::new(program("testssl", "testssl.sh"));
        command.args(["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"]);
        command.args(["--ip", &address.ip().to_string(), "--add-ca"]).arg(authority.cert());
        command.arg("--jsonfile").arg(&findings).args(options).arg(format!("{NAME}:{}", address.port()));
        // Where TLS comes first it asks for HTTP, and waits in vain.
        command.env("HEADER_MAXSLEEP", "1").env("TERM", "dumb");
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a copy")).stderr(out);
        Self { child: Guarded::spawn(&mut command), findings, output }
    }

    /// Waits for its end; gives what it has found.
    fn findings(mut self) -> Vec<Value> {
        let ended = self.child.wait_for(SCAN_PATIENCE).is_some();
        let said = || fs::read_to_string(&self.output).unwrap_or_default();
        assert!(ended, "testssl takes longer than {SCAN_PATIENCE:?}: {}", said());
        let found = fs::read_to_string(&self.findings).unwrap_or_else(|error| panic!("{error}: {}", said()));
        let found: Value = serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: {found}: {}", said()));
        found.as_array().expect("findings").clone()
    }
}

/// Nothing may be found of any weight, and what must be found is there and good.
fn check_findings(listener: &str, findings: &[Value], more: &[&str]) {
    let bad = findings.iter().filter(|finding| !matches!(finding["severity"].as_str(), Some("OK" | "INFO")));
    let bad = bad.filter(|finding| NOT_OURS.iter().all(|(id, _)| finding["id"] != *id));
    let bad: Vec<String> = bad.map(Value::to_string).collect();
    assert!(bad.is_empty(), "{listener}: {bad:#?}");
    for id in MUST_BE_OK.iter().chain(more) {
        let found = findings.iter().any(|finding| finding["id"] == *id && finding["severity"] == "OK");
        assert!(found, "{listener}: no good {id} in {findings:#?}");
    }
}

/// All of it over STARTTLS, and where TLS comes first what depends on how it begins; the ciphers there are sslscan's. The
/// longest part runs beside the others, since a scan waits most of its time.
#[test]
fn testssl_finds_nothing_to_complain_about() {
    const FULL: [&[&str]; 2] = [&["-t", "smtp", "-p", "-s", "-f", "-P", "-S"], &["-t", "smtp", "-U"]];
    const SHORT: [&[&str]; 1] = [&["-p", "-s", "-U"]];
    const OF_FULL: [&str; 6] = [
        "PFS",
        "cipher_order",
        "cert_trust <cert#1>",
        "cert_trust <cert#2>",
        "cert_chain_of_trust <cert#1>",
        "cert_chain_of_trust <cert#2>",
    ];
    let (server, authority) = server();
    let [starttls, implicit] = server.home.smtp[..] else { panic!("two listeners") };
    let start = |listener: &str, address: SocketAddr, parts: &[&[&str]]| {
        let scan = |(n, options): (usize, &&[&str])| {
            Scan::start(server.home.path(), &format!("{listener}-{n}"), &authority, address, options)
        };
        parts.iter().enumerate().map(scan).collect::<Vec<Scan>>()
    };
    let scans = [
        ("starttls", start("starttls", starttls, &FULL), &OF_FULL[..]),
        ("implicit", start("implicit", implicit, &SHORT), &[]),
    ];
    for (listener, scans, more) in scans {
        let findings: Vec<Value> = scans.into_iter().flat_map(Scan::findings).collect();
        check_findings(listener, &findings, more);
    }
    server.wait_for_rest();
    assert_eq!(server.metrics().total("ringpost_sessions_panicked_total"), 0);
}
