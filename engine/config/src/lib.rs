//! The one config file: typed, defaulted, every error with file:line:col.
//!
//! [`Config::parse`] takes the text of a file and gives either a config in which every key has a value, or all the
//! [`Errors`] of the file at once. Each other crate of `engine/` owns its plain options; this one sits above them,
//! reads them, and checks what has to fit together. It opens no file, asks no system for its name and looks up no
//! certificate: what only the machine knows is checked where it is used.
//!
//! A running server reads its file again: [`Config::differences`] says what has changed, [`Fixed`] is what such a server
//! keeps until it is started again, and [`Config::reloaded`] is what it runs with from then on.
//!
//! To add a key is one row in its file under `sections`, one line that reads it, one in `render` and one in
//! `config/ringpost.toml`; tests fail until all of them are there.
//!
//! ```
//! use ringpost_config::Config;
//! let config = Config::parse("ringpost.toml", "limits.recipients = 500").unwrap();
//! assert_eq!(config.smtp.recipients_max, 500);
//!
//! let errors = Config::parse("ringpost.toml", "[[listener]]\naddress = ['[::]:25']\ntls = 'startls'").unwrap_err();
//! assert_eq!(
//!     errors.to_string(),
//!     "ringpost.toml:3:7: listener[0].tls: \"startls\" is not one of off, starttls, starttls-required, implicit; \
//!      did you mean \"starttls\"?"
//! );
//! ```

mod canary;
mod check;
mod config;
mod credentials;
mod errors;
mod keys;
mod parse;
mod reader;
mod reference;
mod reload;
mod render;
mod routing;
mod secrets;
mod sections;
mod suggest;
mod targets;
#[cfg(test)]
mod tests;
mod value;

pub use canary::Trial;
pub use config::{
    Admin, Canary, Certificate, ClientCertificates, Config, CoreLimits, CoreOverride, CoreUse, Cores, Dns, Explain,
    Limits, Listener, ListenerKind, Log, LogFormat, LogLevel, LogRedaction, Server, Share, Space, Telemetry, Tls,
    TlsStrength, TlsVersion,
};
pub use credentials::Credentials;
pub use errors::{Error, Errors};
pub use reference::markdown;
pub use reload::{Fixed, FixedListener};
pub use routing::{DomainRoute, PatternRoute, Routing};
pub use secrets::{shown_name, shown_url};
pub use targets::{HopHost, HopOptions, HopPlace, HopTls, Target, TargetKind, WebhookFormat, WebhookOptions};
