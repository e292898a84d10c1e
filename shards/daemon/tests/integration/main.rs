//! The `ringpost` binary from outside: real sockets, real clients, real signals.
//!
//! Every test has a server of its own, on throw-away directories and an address of its own in 127.0.0.0/8, so all of them
//! can run at once. A test waits for what it wants to see with a deadline and never for a fixed time. A program that a
//! test talks to and that is not installed is a failure: `cargo xtask test` installs them all.

mod address_limits;
mod admin_api;
mod against_scanners;
mod backlog;
mod backup;
mod bans;
mod command_line;
mod containment;
mod crash;
mod crash_signals;
mod delivery;
mod deploy;
mod delivery_panics;
mod disk_full;
mod durability;
mod esmtp_end_to_end;
mod explain;
mod greylist;
mod large;
mod leaks;
mod lifecycle;
mod limits;
mod lmtp;
mod lmtp_target;
mod log;
mod log_rules;
mod metrics;
mod nftables;
mod operator_commands;
mod postfix;
mod promtool;
mod privileges;
mod protocol;
mod proxy;
mod queue;
mod real_clients;
mod recipients;
mod recovery;
mod relay_crash;
mod reload;
mod reports;
mod robustness;
mod routing;
mod screen;
mod session_limits;
mod smtp_target;
mod smuggling;
mod spool_faults;
mod start_failures;
mod start_order;
mod support;
mod systemd;
mod tls;
mod tls_attacks;
mod tls_certificates;
mod tls_policy;
mod traces;
mod unit;
mod upgrade;
mod webhook_target;
mod xclient;
