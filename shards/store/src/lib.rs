//! Drives the spool log on io_uring with group commit, keeps large bodies in files of their own, and writes Maildirs.
//!
//! A [`Draft`] collects a message as it arrives; [`Store::commit`] makes it durable and gives its [`Receipt`];
//! [`Store::load`] gives it back for delivery; [`Store::settle`] forgets it. Memory stays bounded whatever a message's
//! size: beyond `inline_max` its bytes go to a body file as they come, and bytes of accepted messages are kept in memory
//! only up to a budget, beyond which delivery reads them from the log.
//!
//! It knows no SMTP: envelopes are bytes to it.

mod draft;
mod error;
mod files;
mod maildir;
mod pump;
mod recover;
mod segments;
mod store;

pub use draft::Draft;
pub use error::StoreError;
pub use files::{FilesThread, Job, JobContent, JobDone};
pub use recover::{Opened, Orphans, open, shard_directories};
pub use ringpost_spool::{BodyFile, Failure, Receipt, Recovered};
pub use store::{Budget, Loaded, LoadedContent, Store};
