//! The list of metrics. To add one is to add a row; `docs/metrics.md` is generated from here.

/// What the outside sees of one metric series: a name, at most one label, and words for the reader.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Prometheus name, unit last.
    pub name: &'static str,
    /// The label that tells the rows of one name apart, with this row's value. Every row also has `shard`.
    pub label: Option<(&'static str, &'static str)>,
    /// What is counted, in a sentence.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($(#[$doc:meta])* $kind:ident { $($variant:ident = $name:literal $([$label:literal = $value:literal])?, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $kind { $(#[doc = $help] $variant),* }

        impl $kind {
            /// Every row of the catalogue, in order.
            pub const ALL: &'static [$kind] = &[$($kind::$variant),*];

            /// Name, label and help of this row.
            pub const fn family(self) -> Family {
                match self {
                    $($kind::$variant => Family {
                        name: $name,
                        label: catalogue!(@label $([$label = $value])?),
                        help: $help,
                    }),*
                }
            }
        }
    };
    (@label) => { None };
    (@label [$label:literal = $value:literal]) => { Some(($label, $value)) };
}

catalogue! {
    /// Metrics that only grow.
    Counter {
        SessionsOpened = "ringpost_sessions_opened_total", "Connections accepted by a listener.";
        SessionsRefused = "ringpost_sessions_refused_total", "Connections turned away with 421 because the core is at its connection limit.";
        SessionsClosedQuit = "ringpost_sessions_closed_total" ["how" = "quit"], "Sessions that ended, by how: the client said QUIT.";
        SessionsClosedPeer = "ringpost_sessions_closed_total" ["how" = "peer"], "Sessions that ended, by how: the client closed or reset the connection.";
        SessionsClosedTimeout = "ringpost_sessions_closed_total" ["how" = "timeout"], "Sessions that ended, by how: no progress within the timeout.";
        SessionsClosedServer = "ringpost_sessions_closed_total" ["how" = "server"], "Sessions that ended, by how: the server said 421 (stopping, too many errors, refused).";
        SessionsClosedTls = "ringpost_sessions_closed_total" ["how" = "tls"], "Sessions that ended, by how: the TLS handshake or a TLS record failed.";
        SessionsPanicked = "ringpost_sessions_panicked_total", "Sessions ended by a panic in the server; each is a bug, the other sessions go on.";
        AcceptErrors = "ringpost_accept_errors_total", "accept(2) calls that failed for want of descriptors or memory; the listener backs off and tries again.";
        TlsHandshakes12 = "ringpost_tls_handshakes_total" ["version" = "1.2"], "Completed TLS handshakes, by protocol version.";
        TlsHandshakes13 = "ringpost_tls_handshakes_total" ["version" = "1.3"], "Completed TLS handshakes, by protocol version.";
        TlsResumed = "ringpost_tls_resumed_total", "Completed TLS handshakes that resumed an earlier session.";
        StarttlsInjections = "ringpost_starttls_injections_total", "Sessions that sent bytes after STARTTLS before the handshake; the bytes are thrown away.";
        RepliesPositive = "ringpost_smtp_replies_total" ["class" = "2xx"], "SMTP replies by first digit.";
        RepliesIntermediate = "ringpost_smtp_replies_total" ["class" = "3xx"], "SMTP replies by first digit.";
        RepliesTransient = "ringpost_smtp_replies_total" ["class" = "4xx"], "SMTP replies by first digit.";
        RepliesPermanent = "ringpost_smtp_replies_total" ["class" = "5xx"], "SMTP replies by first digit.";
        MessagesAccepted = "ringpost_messages_accepted_total", "Messages answered 250: durable as their route promises.";
        MessagesRejected = "ringpost_messages_rejected_total", "Messages answered 5xx after their last byte.";
        MessagesDeferred = "ringpost_messages_deferred_total", "Messages answered 4xx after their last byte.";
        BytesAccepted = "ringpost_message_bytes_accepted_total", "Bytes of accepted messages as received, without the trace header.";
        RecipientsAccepted = "ringpost_recipients_accepted_total", "Recipients answered 250.";
        RecipientsRefused = "ringpost_recipients_refused_total", "Recipients answered 4xx or 5xx.";
        SpoolRecords = "ringpost_spool_records_total", "Records written to the spool log.";
        SpoolBytes = "ringpost_spool_bytes_total", "Bytes written to the spool log, padding included.";
        SpoolSyncs = "ringpost_spool_syncs_total", "fdatasync calls that make messages durable: of the log's batches and of body files.";
        SpoolErrors = "ringpost_spool_errors_total", "Failed operations on the spool: making, writing or syncing a segment or a body file. The messages concerned were answered 451 or 452.";
        SpoolCompacted = "ringpost_spool_compacted_total", "Messages copied forward so that an old segment could be reused.";
        SpoolRecovered = "ringpost_spool_recovered_total", "Unsettled messages found in the spool at start.";
        SpoolDamaged = "ringpost_spool_damaged_total", "Places in the spool log, before its end, that failed their checksum at start.";
        DeliveriesDelivered = "ringpost_deliveries_total" ["outcome" = "delivered"], "Recipients delivered to their target.";
        DeliveriesDeferred = "ringpost_deliveries_total" ["outcome" = "deferred"], "Attempts on a recipient that failed and will be repeated.";
        FilesSynced = "ringpost_maildir_syncs_total", "fdatasync, fsync and syncfs calls made by Maildir delivery.";
        LogDropped = "ringpost_log_dropped_total", "Log lines dropped because the reader of standard output did not keep up.";
    }
}

catalogue! {
    /// Metrics that rise and fall.
    Gauge {
        SessionsOpen = "ringpost_sessions_open", "Connections now open.";
        MessagesInFlight = "ringpost_messages_in_flight", "Messages between MAIL and their final reply.";
        MessageMemory = "ringpost_message_memory_bytes", "Bytes of messages held in memory: being received, or waiting for delivery.";
        SpoolBacklog = "ringpost_spool_backlog_bytes", "Bytes of accepted messages not yet settled.";
        SpoolSegments = "ringpost_spool_segments", "Segments of the spool log on disk, spare ones included.";
        SpoolFailing = "ringpost_spool_failing", "1 while the last attempt to make or to write a segment of the spool log failed, else 0.";
        QueueMessages = "ringpost_queue_messages", "Messages accepted and not yet settled.";
        QueueDeferred = "ringpost_queue_deferred_messages", "Messages waiting for a later attempt.";
    }
}

catalogue! {
    /// Durations, as histograms with the buckets of [`BUCKETS`].
    Timing {
        TlsHandshake = "ringpost_tls_handshake_seconds", "From the first byte of a TLS handshake to its end.";
        Body = "ringpost_smtp_body_seconds", "From the reply that invites the message to its last byte.";
        SpoolCommit = "ringpost_spool_commit_seconds", "From a message's last byte to its being durable.";
        SpoolSync = "ringpost_spool_sync_seconds", "One write and fdatasync of the spool log.";
        Delivery = "ringpost_delivery_seconds", "From a message's acceptance to its settlement.";
        Stall = "ringpost_shard_lag_seconds", "How much later than asked the shard's heartbeat ran: the delay any session sees.";
    }
}

/// Upper bounds of the histogram buckets, in seconds; one more bucket takes what is above the last.
pub const BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let counters = Counter::ALL.iter().map(|row| row.family());
        let gauges = Gauge::ALL.iter().map(|row| row.family());
        counters.chain(gauges).chain(Timing::ALL.iter().map(|row| row.family())).collect()
    }

    #[test]
    fn names_follow_the_rules_and_rows_are_distinct() {
        let mut seen = std::collections::HashSet::new();
        for family in families() {
            assert!(family.name.starts_with("ringpost_"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert!(seen.insert((family.name, family.label)), "twice: {} {:?}", family.name, family.label);
        }
        assert!(Counter::ALL.iter().all(|row| row.family().name.ends_with("_total")));
        assert!(Timing::ALL.iter().all(|row| row.family().name.ends_with("_seconds")));
        assert!(BUCKETS.is_sorted());
    }
}
