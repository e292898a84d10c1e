//! What belongs to the process as a whole and to no shard's block: read when it is asked for, by whoever knows it.
//!
//! A shard's block has one writer. What other threads know (the phases of the start, probes, certificates, the watchdog, a
//! canary) comes as a list of [`ProcessReading`]s, made anew for each scrape: a reading that is no longer in the list is
//! no longer shown.

/// What the outside sees of one row: a name, at most one label whose values are open, and words for the reader.
#[derive(Clone, Copy, Debug)]
pub struct ProcessFamily {
    /// Prometheus name, unit last. One that ends in `_total` only grows, any other rises and falls.
    pub name: &'static str,
    /// The label that tells the readings of one row apart.
    pub label: Option<&'static str>,
    /// What is read, in a sentence.
    pub help: &'static str,
}

impl ProcessFamily {
    /// The type that Prometheus is told.
    pub fn kind(self) -> &'static str {
        if self.name.ends_with("_total") { "counter" } else { "gauge" }
    }
}

macro_rules! catalogue {
    ($(#[$doc:meta])* $kind:ident { $($variant:ident = $name:literal $([$label:literal])?, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind { $(#[doc = $help] $variant),* }

        impl $kind {
            /// Every row of the catalogue, in order.
            pub const ALL: &'static [$kind] = &[$($kind::$variant),*];

            /// Name, label and help of this row.
            pub const fn family(self) -> ProcessFamily {
                match self {
                    $($kind::$variant => ProcessFamily {
                        name: $name,
                        label: catalogue!(@label $($label)?),
                        help: $help,
                    }),*
                }
            }
        }
    };
    (@label) => { None };
    (@label $label:literal) => { Some($label) };
}

catalogue! {
    /// Metrics of the process, whatever thread knows them.
    ProcessGauge {
        BuildInfo = "ringpost_build_info" ["version"], "1, with the version that runs.";
        StartTime = "ringpost_start_time_seconds", "When the process started, in seconds since 1970-01-01 UTC.";
        StartPhase = "ringpost_start_phase_seconds" ["phase"], "How long each phase of the last start took.";
        State = "ringpost_state" ["state"], "1 for the state that the server is in, 0 for the others.";
        ProbeFailing = "ringpost_probe_failing" ["probe"], "1 for a probe of the server's health that fails, 0 for one that is well.";
        CertificateExpiry = "ringpost_certificate_expiry_timestamp_seconds" ["certificate"], "When a certificate ends, in seconds since 1970-01-01 UTC.";
        ShardStalled = "ringpost_shard_stalled" ["shard"], "1 while a shard's thread has shown no sign of life for server.stall_timeout, else 0.";
        ShardStalls = "ringpost_shard_stalls_total" ["shard"], "How often a shard's thread showed no sign of life for server.stall_timeout.";
        ShardCpu = "ringpost_shard_cpu_seconds_total" ["shard"], "CPU time that a shard's thread has used.";
        CanaryState = "ringpost_canary_state" ["state"], "1 for the state of the canary, running or the last, 0 for the others.";
        UpgradesTotal = "ringpost_upgrades_total" ["outcome"], "Upgrades that were ordered of this process, by outcome.";
        AuditLost = "ringpost_audit_entries_lost_total", "Entries of the audit log that could not be written: its disk was full, failed, or did not keep up.";
        SpansExported = "ringpost_spans_exported_total", "Spans of traces that the collector has taken.";
        SpansDropped = "ringpost_spans_dropped_total", "Spans of traces that were dropped: the collector did not take them, or more waited than may.";
    }
}

/// One value of a row, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessReading {
    /// Which row.
    pub row: ProcessGauge,
    /// The value of the row's label, if it has one.
    pub label: Option<String>,
    /// How much.
    pub value: f64,
}

impl ProcessReading {
    /// A reading of a row without a label.
    pub fn new(row: ProcessGauge, value: f64) -> Self {
        Self { row, label: None, value }
    }

    /// A reading of a row with a label.
    pub fn labelled(row: ProcessGauge, label: impl Into<String>, value: f64) -> Self {
        Self { row, label: Some(label.into()), value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Counter, Gauge, Timing};

    #[test]
    fn names_follow_the_rules_and_rows_are_distinct() {
        let mut seen = std::collections::HashSet::new();
        for family in ProcessGauge::ALL.iter().map(|row| row.family()) {
            assert!(family.name.starts_with("ringpost_"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert!(seen.insert(family.name), "twice: {}", family.name);
        }
        let of_shards = Counter::ALL.iter().map(|row| row.family());
        let of_shards = of_shards.chain(Gauge::ALL.iter().map(|row| row.family()));
        for family in of_shards.chain(Timing::ALL.iter().map(|row| row.family())) {
            assert!(!seen.contains(family.name), "twice: {}", family.name);
        }
    }
}
