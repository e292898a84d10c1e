//! A shard to connect from, and peers to connect to.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use ringpost_base::ShardId;
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_net::{ClientIdentity, Endpoint};
use ringpost_runtime::{Plan, Shard, cores, start};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test waits for what never comes.
pub(crate) const SHORT: Duration = Duration::from_millis(200);

/// Runs `body` on a shard.
pub(crate) fn on_shard<T, F>(body: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let seat = Board::new(1).seat(ShardId(0)).expect("the first");
    let (ended, _) = crossbeam::channel::unbounded();
    let plan = Plan {
        shard: ShardId(0),
        cpu: cores()[0],
        block: Arc::new(Block::new()),
        seat,
        pulse: ringpost_runtime::Pulse::new(ShardId(0)),
        ended,
    };
    start(plan, move |_: Shard| body()).expect("shard").join().expect("the shard ends in order")
}

/// A server that gives each of its connections, one after the other, to a function.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    thread: JoinHandle<()>,
}

impl Peer {
    pub(crate) fn start(connections: usize, mut serve: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("address");
        let thread = std::thread::spawn(move || {
            for _ in 0..connections {
                let (stream, _) = listener.accept().expect("accepted");
                stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
                serve(stream);
            }
        });
        Self { address, thread }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.address)
    }

    /// Waits until all connections are served.
    pub(crate) fn done(self) {
        self.thread.join().expect("the peer ends in order");
    }
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Identity {
    pub(crate) fn as_client(&self) -> ClientIdentity {
        ClientIdentity { chain: self.certificate.clone().into(), key: self.key.clone().into() }
    }
}

/// An issuer of certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a host name or an address, valid to the end of a year.
    pub(crate) fn issue(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// What a server needs for TLS; with `clients`, it takes only clients with a certificate of that authority.
pub(crate) fn server(identity: &Identity, clients: Option<&str>) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("certificate");
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add(der(pem)).expect("root");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().expect("verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("key");
    Arc::new(builder.with_single_cert(vec![der(&identity.certificate)], key).expect("a pair"))
}

/// Puts TLS on a connection, as its server.
pub(crate) fn secure(config: &Arc<ServerConfig>, socket: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config.clone()).expect("session"), socket)
}
