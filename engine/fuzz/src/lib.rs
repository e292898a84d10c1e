//! What the fuzz targets share: how an input says what is played, a driver of sessions, and a second reading of messages
//! to hold the machine's against.
//!
//! An input of the targets that play sessions is text that a person can read and write. Its first line has a character
//! for each choice ([`choices::Choices`]), of which `0` is the usual one and a missing one counts as `0`; behind it comes
//! what the client sends.

pub mod choices;
pub mod play;
pub mod reference;
