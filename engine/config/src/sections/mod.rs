//! The sections of the file, one row a key.
//!
//! Each file here lists the keys of its sections, reads them, and checks what has to fit together.

pub(crate) mod bans;
pub(crate) mod canary;
pub(crate) mod cores;
pub(crate) mod dns;
pub(crate) mod domain;
pub(crate) mod hop;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod route;
pub(crate) mod screen;
pub(crate) mod server;
pub(crate) mod storage;
pub(crate) mod target;
pub(crate) mod telemetry;
pub(crate) mod tls;
pub(crate) mod webhook;

use crate::keys::{Key, Section};

/// The file itself.
pub(crate) static ROOT: Section = Section {
    path: "",
    header: "the file",
    intro: "",
    stand_in: None,
    keys: &[
        Key::table("server"),
        Key::table("cores"),
        Key::tables("listener", "[[listener]]", ""),
        Key::table("tls"),
        Key::table("dns"),
        Key::table("limits"),
        Key::table("smtp"),
        Key::table("bans"),
        Key::table("screen"),
        Key::table("greylist"),
        Key::table("spool"),
        Key::table("queue"),
        Key::tables("domain", "[[domain]]", ""),
        Key::tables("route", "[[route]]", ""),
        Key::tables("target", "[[target]]", ""),
        Key::table("explain"),
        Key::table("admin"),
        Key::table("canary"),
        Key::table("log"),
        Key::table("telemetry"),
    ],
};
