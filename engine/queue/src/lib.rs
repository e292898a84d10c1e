//! What is still to be delivered.

mod options;
pub use options::Options;
