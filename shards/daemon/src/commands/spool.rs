//! `ringpost spool check`.

use crate::cli::SpoolCheckOptions;
use anyhow::{Result, bail};

pub(crate) fn check_spool(_options: &SpoolCheckOptions) -> Result<()> {
    bail!("being written")
}
