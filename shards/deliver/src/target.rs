//! The targets there are.

use crate::maildir::PathTemplate;
use ringpost_config::{Config, TargetKind};
use std::path::Path;

/// Where mail can go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Maildirs named by a template.
    Maildir(PathTemplate),
    /// Nowhere: accepted, spooled, and settled. For measuring.
    Discard,
}

impl Target {
    /// The targets of a configuration, in its order; relative paths are below `state_dir`.
    pub fn all(config: &Config, state_dir: &Path) -> Vec<Self> {
        let make = |kind: &TargetKind| match kind {
            TargetKind::Maildir { path } => Self::Maildir(PathTemplate::new(&state_dir.join(path).to_string_lossy())),
            _ => Self::Discard,
        };
        config.targets.iter().map(|target| make(&target.kind)).collect()
    }
}
