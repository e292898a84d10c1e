//! Drives the spool log on io_uring with group commit, keeps large bodies in files of their own, and writes Maildirs.
//!
//! A [`Draft`] collects a message as it arrives; [`Store::commit`] makes it durable and gives its [`Receipt`];
//! [`Store::keep`] does what the class `memory` asks for instead; [`Store::load`] gives it back for delivery;
//! [`Store::settle`] forgets it. Memory stays bounded whatever a message's size: beyond `inline_max` its bytes go to a body
//! file as they come, and bytes of accepted messages are kept in memory only up to a budget, beyond which delivery reads
//! them from the log.
//!
//! [`back_up`], [`restore`] and [`check`] work on the files alone, without a runtime: for a server that runs, that is stopped,
//! or that is no more.
//!
//! It knows no SMTP: envelopes are bytes to it.

mod adopt;
mod backup;
mod body_reader;
mod check;
mod directories;
mod disk;
mod draft;
mod error;
mod file_target;
mod files;
mod hot;
mod kept;
mod lost;
mod maildir;
mod pump;
mod recent;
mod recover;
mod segments;
mod space;
mod store;
mod take_over;
mod verify;

#[cfg(test)]
mod tests;

pub use backup::{BackedUp, BackupError, BackupPlan, Restored, back_up, restore};
pub use body_reader::{BodyPiece, BodyReader};
pub use check::{BodyTrouble, CheckReport, DamagedPlace, ShardReport, check};
pub use directories::{Orphans, fresh_directories, orphan_groups, shard_directories};
pub use draft::Draft;
pub use error::StoreError;
pub use files::{FilesThread, Job, JobContent, JobDone, JobKind};
pub use recover::{Opened, Progress, Setup, open};
pub use ringpost_spool::{BodyFile, Entry, Failure, Receipt, Recovered};
pub use space::{Space, SpaceLimits};
pub use store::{Budget, Loaded, LoadedContent, Store};
pub use take_over::TakeOver;
pub use verify::{Damaged, Verified};
