//! Evidence in, Decision out.

mod options;
pub use options::{Domain, Options, Recipients};
