//! Scratch target.
#![allow(dead_code, reason = "scratch")]
#[path = "../integration/support/mod.rs"]
mod support;
#[path = "../integration/screen.rs"]
mod screen;
