//! The certificate of the servers of the tests: made once, and its own authority.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::{Arc, LazyLock};

/// The name it is for.
pub(super) const NAME: &str = "mx.example.net";

struct Made {
    config: Arc<ServerConfig>,
    pem: String,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    Made { config: Arc::new(config), pem: made.cert.pem() }
});

pub(super) fn server_config() -> Arc<ServerConfig> {
    MADE.config.clone()
}

/// The certificate as PEM, for whoever is to trust it.
pub(super) fn pem() -> &'static str {
    &MADE.pem
}
