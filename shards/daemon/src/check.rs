//! Reading the config file, and the commands that do no more than that.

use crate::cli::ConfigFile;
use anyhow::{Context, Result, bail};
use ringpost_config::{Config, Credentials};
use std::io::IsTerminal;

/// Reads the config, the host's name and the paths of credentials filled in.
pub(crate) fn load(options: &ConfigFile) -> Result<Config> {
    load_with(options, &Credentials::from_environment(std::env::var("CREDENTIALS_DIRECTORY").ok()))
}

/// Reads the config for a command that reads no file which a credential could be: such a command runs outside of the unit
/// that has them.
pub(crate) fn load_without_credentials(options: &ConfigFile) -> Result<Config> {
    load_with(options, &Credentials::Unresolved)
}

fn load_with(options: &ConfigFile, credentials: &Credentials) -> Result<Config> {
    let mut config = match &options.config {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{}: the config file can't be read", path.display()))?;
            match Config::parse_with(&path.display().to_string(), &text, credentials) {
                Ok(config) => config,
                Err(errors) if std::io::stderr().is_terminal() => bail!("the config is not valid\n\n{errors:#}"),
                Err(errors) => bail!("the config is not valid\n{errors}"),
            }
        }
    };
    if config.server.hostname.is_empty() {
        config.set_hostname(&system_hostname());
    }
    Ok(config)
}

fn system_hostname() -> String {
    let uname = rustix::system::uname();
    match uname.nodename().to_str() {
        Ok(name) if !name.is_empty() && name != "(none)" => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
pub(crate) fn check(options: &ConfigFile) -> Result<()> {
    let config = load(options)?;
    crate::plan::cores(&config)?;
    crate::reload::policy(&config)?;
    crate::reload::check_targets(&config)?;
    crate::telemetry::telemetry_options(&config)?;
    crate::control::access(&config.admin)?;
    let name = options.config.as_ref().map_or("embedded defaults".into(), |path| path.display().to_string());
    println!("{name}: ok");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
pub(crate) fn show(options: &ConfigFile) -> Result<()> {
    print!("{}", load_without_credentials(options)?.render());
    Ok(())
}
