//! From the config to what telemetry goes by: the files that it names are read.

use anyhow::{Context, Result};
use ringpost_config::{Config, LogRedaction, shown_url};
use ringpost_net::{ClientTls, ClientTlsOptions};
use ringpost_telemetry::{Headers, Options, read_headers};
use ringpost_trace::key;
use std::path::Path;
use std::sync::Arc;

/// How messages are traced.
pub(crate) fn telemetry_options(config: &Config) -> Result<Options> {
    let telemetry = &config.telemetry;
    let headers = match &telemetry.headers_file {
        None => Headers::new(),
        Some(path) => read_headers(Path::new(path)).with_context(|| format!("telemetry.headers_file: {path}"))?,
    };
    let tls = match &telemetry.endpoint {
        Some(endpoint) if endpoint.starts_with("https://") => {
            let read = |path: &String| std::fs::read(path).with_context(|| format!("telemetry.ca: {path}"));
            let ca = telemetry.ca.as_ref().map(read).transpose()?;
            let options = ClientTlsOptions { verify: true, ca, identity: None };
            let tls = ClientTls::new(&options).context("telemetry.ca")?;
            Some(Arc::new(tls.config().clone()))
        }
        _ => None,
    };
    let hidden = |what: &LogRedaction| match what {
        LogRedaction::Mail => key::OF_MAIL,
        LogRedaction::Client => key::OF_HOSTS,
    };
    Ok(Options {
        endpoint: telemetry.endpoint.clone(),
        shown: shown_url(telemetry.endpoint.as_deref().unwrap_or_default()),
        sample: telemetry.sample.as_f64(),
        service: "ringpost".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: config.server.hostname.clone(),
        timeout: telemetry.timeout.0,
        headers,
        tls,
        leave_out: config.log.redact.iter().flat_map(hidden).copied().collect(),
    })
}
