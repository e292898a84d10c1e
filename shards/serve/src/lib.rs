//! One file a listener kind: the conductors, the only code that sees two stages of a message at once.
//!
//! To add a listener kind is a file beside `mx.rs`.

mod dialogue;
mod mx;

pub use mx::{Mx, MxListener, MxSetup};
