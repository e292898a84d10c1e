//! A client inside TLS: rustls, so that a test can say what it offers, and sees what was agreed on.

use super::PATIENCE;
use super::authority::Issued;
use super::smtp::Client;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

/// What a secure client speaks over.
pub(crate) type Secure = StreamOwned<ClientConnection, TcpStream>;

/// How a client goes about TLS.
#[derive(Clone)]
pub(crate) struct Dialect {
    roots: RootCertStore,
    provider: CryptoProvider,
    own: Option<Issued>,
}

impl Dialect {
    /// One that trusts the certificates of a file, and nobody else.
    pub(crate) fn trusting(roots: &Path) -> Self {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(roots).expect("a PEM file") {
            store.add(root.expect("a certificate")).expect("a root");
        }
        Self { roots: store, provider: aws_lc_rs::default_provider(), own: None }
    }

    /// With these groups for the key exchange.
    pub(crate) fn groups(mut self, groups: &[&'static dyn SupportedKxGroup]) -> Self {
        self.provider.kx_groups = groups.to_vec();
        self
    }

    /// With a certificate of its own.
    pub(crate) fn showing(mut self, own: &Issued) -> Self {
        self.own = Some(own.clone());
        self
    }

    /// The client of a handshake to come.
    pub(crate) fn connection(&self, name: &str) -> ClientConnection {
        let builder = ClientConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_root_certificates(self.roots.clone());
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::pem_file_iter(&own.cert).expect("a PEM file");
                let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
                let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        ClientConnection::new(Arc::new(config), name).expect("a configuration")
    }

    /// Connects to a listener on which TLS comes first, takes the banner, says EHLO. The certificate must be for `name`.
    pub(crate) fn implicit(&self, address: SocketAddr, name: &str) -> Client<Secure> {
        let bare = Client::connect(address).into_stream();
        let mut client = Client::over(StreamOwned::new(self.connection(name), bare));
        client.expect(220);
        client.say("EHLO client.example.org", 250);
        client
    }

    /// Connects, says STARTTLS, shakes hands, says EHLO.
    pub(crate) fn starttls(&self, address: SocketAddr, name: &str) -> Client<Secure> {
        self.upgrade(Client::hello(address), name)
    }

    /// Goes on inside TLS where a client has come to.
    pub(crate) fn upgrade(&self, mut client: Client, name: &str) -> Client<Secure> {
        client.say("STARTTLS", 220);
        let bare = client.into_stream();
        bare.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        let mut client = Client::over(StreamOwned::new(self.connection(name), bare));
        client.say("EHLO client.example.org", 250);
        client
    }
}

impl Client<Secure> {
    /// The group of the key exchange.
    pub(crate) fn group(&self) -> String {
        let group = self.stream().conn.negotiated_key_exchange_group().expect("a full handshake");
        format!("{:?}", group.name())
    }

    /// The certificate that the server showed, in DER.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let chain = self.stream().conn.peer_certificates().expect("the server's certificates");
        chain[0].to_vec()
    }
}

/// A certificate of a PEM file, in DER.
pub(crate) fn certificate_in(file: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(file).expect("a certificate").to_vec()
}
