//! From the config to how the server logs.

use anyhow::{Context, Result};
use ringpost_config::{Config, LogFormat, LogLevel, LogRedaction};
use ringpost_runtime::log::{self, Format, Level, LogGuard, LogOptions, Redaction};
use std::io::IsTerminal;

/// Starts the log of the process.
pub(crate) fn start_log(config: &Config) -> Result<LogGuard> {
    log::install(log_options(config)).context("the log can't be started")
}

/// How a config has the server log.
pub(crate) fn log_options(config: &Config) -> LogOptions {
    let terminal = std::io::stdout().is_terminal();
    let format = match config.log.format {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
        LogFormat::Auto if terminal => Format::Text,
        LogFormat::Auto => Format::Json,
    };
    let hides = |kind| config.log.redact.contains(&kind);
    LogOptions {
        format,
        level: level(config.log.level),
        colour: terminal,
        modules: config.log.modules.iter().map(|(name, at)| (name.clone(), level(*at))).collect(),
        redact: Redaction { mail: hides(LogRedaction::Mail), client: hides(LogRedaction::Client) },
        flood: config.log.flood,
    }
}

fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}
