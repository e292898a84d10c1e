//! `ringpost crash-report`: gives names to the addresses of a crash. The handler of a crash runs it, and nobody else.

use anyhow::{Context, Result};
use std::io;

pub(crate) fn crash_report() -> Result<()> {
    ringpost_runtime::crash::report(io::stdin().lock(), io::stdout().lock()).context("the report of a crash")
}
