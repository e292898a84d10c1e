//! A certificate authority of a test's own: certificates that a client can verify, and what a responder says of them.

use super::programs::{program, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long certificates hold. Scanners find fault with less than two months.
const DAYS: u32 = 90;

/// An authority, whose files stand in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    folder: PathBuf,
    /// How many days what it issues holds.
    days: u32,
}

/// A certificate that an authority made, and its key: both PEM files.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What an OCSP response says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    Revoked,
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(arguments);
    command
}

impl Authority {
    /// Makes one in a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let authority = Self { folder: folder.join("authority"), days: DAYS };
        fs::create_dir(&authority.folder).expect("made");
        let mut command = openssl(&["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args([
            "-days",
            &DAYS.to_string(),
            "-subj",
            "/CN=Test Authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ]);
        command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]);
        run(command.arg("-keyout").arg(authority.key()).arg("-out").arg(authority.cert()), "").ok();
        authority
    }

    /// Its own certificate, which whoever trusts it needs.
    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The same one, whose certificates from now on hold for so many days.
    pub(crate) fn lasting(&self, days: u32) -> Self {
        Self { days, ..self.clone() }
    }

    fn key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    /// Makes a server's certificate. `kind` is what openssl calls the key: `ec`, or as `rsa:2048`.
    pub(crate) fn server(&self, file: &str, kind: &str, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let names = format!("subjectAltName={}\nauthorityInfoAccess=OCSP;URI:http://ocsp.example/\n", names.join(","));
        self.issue(file, kind, &format!("{names}extendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n"))
    }

    /// Makes a client's certificate.
    pub(crate) fn client(&self, file: &str) -> Issued {
        let names = format!("subjectAltName=DNS:{file}.example.org\n");
        self.issue(file, "ec", &format!("{names}extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n"))
    }

    fn issue(&self, file: &str, kind: &str, extensions: &str) -> Issued {
        let path = |end: &str| self.folder.join(format!("{file}.{end}"));
        let issued = Issued { cert: path("pem"), key: path("key") };
        let mut request = openssl(&["req", "-new", "-nodes", "-newkey", kind, "-subj", &format!("/CN={file}")]);
        if kind == "ec" {
            request.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        run(request.arg("-keyout").arg(&issued.key).arg("-out").arg(path("csr")), "").ok();
        fs::write(path("ext"), format!("basicConstraints=CA:FALSE\n{extensions}")).expect("written");
        let mut sign = openssl(&["x509", "-req", "-days", &self.days.to_string(), "-CAcreateserial", "-in"]);
        sign.arg(path("csr")).arg("-CA").arg(self.cert()).arg("-CAkey").arg(self.key());
        run(sign.arg("-extfile").arg(path("ext")).arg("-out").arg(&issued.cert), "").ok();
        issued
    }

    /// What its responder says of a certificate: a file in DER, good for so many days.
    pub(crate) fn staple(&self, issued: &Issued, standing: Standing, days: u32) -> PathBuf {
        let serial = run(openssl(&["x509", "-noout", "-serial", "-in"]).arg(&issued.cert), "").ok().out;
        let serial = serial.trim().strip_prefix("serial=").expect("a serial number").to_owned();
        // The form of openssl's database: standing, end, revocation, serial number, file, subject.
        let (letter, revoked) = match standing {
            Standing::Good => ('V', ""),
            Standing::Revoked => ('R', "250101000000Z"),
        };
        let index = self.folder.join("index.txt");
        fs::write(&index, format!("{letter}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n")).expect("written");
        let response = issued.cert.with_extension("ocsp");
        let mut command = openssl(&["ocsp", "-no_nonce", "-ndays", &days.to_string(), "-index"]);
        command.arg(index).arg("-CA").arg(self.cert()).arg("-rsigner").arg(self.cert()).arg("-rkey").arg(self.key());
        command.arg("-issuer").arg(self.cert()).arg("-cert").arg(&issued.cert).arg("-respout").arg(&response);
        run(&mut command, "").ok();
        response
    }
}

impl Issued {
    /// It as an entry of `tls.certificates`.
    pub(crate) fn entry(&self) -> String {
        format!("{{ cert = \"{}\", key = \"{}\" }}", self.cert.display(), self.key.display())
    }

    /// The same with a staple.
    pub(crate) fn stapled_entry(&self, staple: &Path) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        format!("{{ cert = \"{cert}\", key = \"{key}\", ocsp = \"{}\" }}", staple.display())
    }

    /// The SHA-256 of the certificate, in lower-case hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        let mut command = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
        let printed = run(command.arg(&self.cert), "").ok().out;
        let (_, digits) = printed.trim().split_once('=').expect("a fingerprint");
        digits.replace(':', "").to_ascii_lowercase()
    }
}
