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
        SessionsRefused = "ringpost_sessions_refused_total", "Connections turned away before their banner: at a limit, or banned.";
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
        FiltersPanicked = "ringpost_filters_panicked_total", "Checks of clients and messages ended by a panic in the server; each is a bug, the client was asked to come again.";
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
        SpoolDamaged = "ringpost_spool_damaged_total", "Places in the spool log, before its end, that failed their checksum at start or could not be read, segments and messages that were not where they should be.";
        SpoolLost = "ringpost_spool_lost_total", "Messages found at start whose body file was gone, which count as settled: one or a few after a crash are as it should be.";
        DeliveriesDelivered = "ringpost_deliveries_total" ["outcome" = "delivered"], "Recipients delivered to their target.";
        DeliveriesDeferred = "ringpost_deliveries_total" ["outcome" = "deferred"], "Attempts on a recipient that failed and will be repeated.";
        DeliveriesFailed = "ringpost_deliveries_total" ["outcome" = "failed"], "Recipients given up: refused for good, or expired.";
        DeliveriesPanicked = "ringpost_deliveries_panicked_total", "Delivery attempts ended by a panic in the server; each is a bug, the message is tried again.";
        AcceptedMemory = "ringpost_messages_durability_total" ["durability" = "memory"], "Messages answered 250, by what had become of them then.";
        AcceptedNextHop = "ringpost_messages_durability_total" ["durability" = "next-hop"], "Messages answered 250, by what had become of them then.";
        AcceptedFsync = "ringpost_messages_durability_total" ["durability" = "fsync"], "Messages answered 250, by what had become of them then.";
        KeptPersisted = "ringpost_kept_messages_persisted_total", "Messages of the class memory that were written into the spool: their first attempt failed, or the server stopped.";
        ReportsFailure = "ringpost_reports_total" ["kind" = "failure"], "Reports to senders (DSN), by kind.";
        ReportsDelay = "ringpost_reports_total" ["kind" = "delay"], "Reports to senders (DSN), by kind.";
        ReportsSuccess = "ringpost_reports_total" ["kind" = "success"], "Reports to senders (DSN), by kind.";
        ReportsRelayed = "ringpost_reports_total" ["kind" = "relayed"], "Reports to senders (DSN), by kind.";
        DeadLettersBuried = "ringpost_dead_letters_buried_total", "Messages that could neither be delivered nor reported; they are kept for inspection.";
        DeadLettersForgotten = "ringpost_dead_letters_forgotten_total", "Dead letters that went because their time was over or others needed their room.";
        HopConnections = "ringpost_hop_connections_total" ["outcome" = "opened"], "Connections to next hops, by outcome.";
        HopConnectionsReused = "ringpost_hop_connections_total" ["outcome" = "reused"], "Connections to next hops, by outcome.";
        HopConnectionsFailed = "ringpost_hop_connections_total" ["outcome" = "failed"], "Connections to next hops, by outcome.";
        WebhookRequests = "ringpost_webhook_requests_total" ["outcome" = "accepted"], "Requests to webhooks, by outcome.";
        WebhookDeferred = "ringpost_webhook_requests_total" ["outcome" = "deferred"], "Requests to webhooks, by outcome.";
        WebhookFailed = "ringpost_webhook_requests_total" ["outcome" = "failed"], "Requests to webhooks, by outcome.";
        LeasesGranted = "ringpost_leases_total" ["answer" = "granted"], "Questions to the owners of destinations whether more may be sent there, by answer.";
        LeasesBusy = "ringpost_leases_total" ["answer" = "busy"], "Questions to the owners of destinations whether more may be sent there, by answer.";
        LeasesWait = "ringpost_leases_total" ["answer" = "wait"], "Questions to the owners of destinations whether more may be sent there, by answer.";
        BreakersOpened = "ringpost_breakers_opened_total", "Times that a destination was left alone because it failed.";
        FilesSynced = "ringpost_maildir_syncs_total", "fdatasync, fsync and syncfs calls made by Maildir delivery.";
        SpaceRefused = "ringpost_limits_hit_total" ["limit" = "spool.space_hard"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitConnections = "ringpost_limits_hit_total" ["limit" = "limits.connections"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitConnectionsPerIp = "ringpost_limits_hit_total" ["limit" = "limits.connections_per_ip"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitConnectionsPerNetwork = "ringpost_limits_hit_total" ["limit" = "limits.connections_per_network"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitConnectionRatePerIp = "ringpost_limits_hit_total" ["limit" = "limits.connection_rate_per_ip"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitConnectionRatePerNetwork = "ringpost_limits_hit_total" ["limit" = "limits.connection_rate_per_network"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitMessagesPerIp = "ringpost_limits_hit_total" ["limit" = "limits.messages_per_ip"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitMessagesPerNetwork = "ringpost_limits_hit_total" ["limit" = "limits.messages_per_network"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitRecipientsPerIp = "ringpost_limits_hit_total" ["limit" = "limits.recipients_per_ip"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitRecipientsPerNetwork = "ringpost_limits_hit_total" ["limit" = "limits.recipients_per_network"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitBytesPerIp = "ringpost_limits_hit_total" ["limit" = "limits.bytes_per_ip"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitBytesPerNetwork = "ringpost_limits_hit_total" ["limit" = "limits.bytes_per_network"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitMessagesInFlight = "ringpost_limits_hit_total" ["limit" = "cores.limits.messages_in_flight"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitMessageMemory = "ringpost_limits_hit_total" ["limit" = "cores.limits.message_memory"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitSpoolBacklog = "ringpost_limits_hit_total" ["limit" = "cores.limits.spool_backlog"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitMessageSize = "ringpost_limits_hit_total" ["limit" = "limits.message_size"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitRecipients = "ringpost_limits_hit_total" ["limit" = "limits.recipients"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitErrorsPerSession = "ringpost_limits_hit_total" ["limit" = "limits.errors_per_session"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitUnknownRecipients = "ringpost_limits_hit_total" ["limit" = "limits.unknown_recipients_per_session"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitCommandsWithoutProgress = "ringpost_limits_hit_total" ["limit" = "limits.commands_without_progress"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitMessagesPerSession = "ringpost_limits_hit_total" ["limit" = "limits.messages_per_session"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitHops = "ringpost_limits_hit_total" ["limit" = "limits.hops"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitCommandTimeout = "ringpost_limits_hit_total" ["limit" = "limits.command_timeout"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitDataTimeout = "ringpost_limits_hit_total" ["limit" = "limits.data_timeout"], "Refusals because a limit was met, by the limit's key in the config file.";
        LimitSessionTimeout = "ringpost_limits_hit_total" ["limit" = "limits.session_timeout"], "Refusals because a limit was met, by the limit's key in the config file.";
        BannersDelayed = "ringpost_banners_delayed_total", "Banners held back because the core is near its connection limit.";
        RecipientsUnknown = "ringpost_recipients_unknown_total", "Recipients refused because nobody of that name exists in the domain.";
        BansRefused = "ringpost_bans_refused_total", "Connections turned away because their address is banned.";
        BansEvicted = "ringpost_bans_evicted_total", "Sessions ended because their address was banned meanwhile.";
        BansOrdered = "ringpost_bans_ordered_total", "Bans that a rule asked for.";
        Pregreets = "ringpost_pregreets_total", "Clients that spoke before the banner.";
        ScreenRejected = "ringpost_screened_total" ["outcome" = "rejected"], "Sessions by what the evidence about their host came to: recipients are refused.";
        ScreenTarpitted = "ringpost_screened_total" ["outcome" = "tarpitted"], "Sessions by what the evidence about their host came to: replies are held back.";
        ScreenPassed = "ringpost_screened_total" ["outcome" = "passed"], "Sessions by what the evidence about their host came to: nothing follows.";
        GreylistWaited = "ringpost_greylist_total" ["outcome" = "waited"], "Recipients judged by greylisting, by outcome: put off.";
        GreylistRetried = "ringpost_greylist_total" ["outcome" = "retried"], "Recipients judged by greylisting, by outcome: the sender came again.";
        GreylistKnown = "ringpost_greylist_total" ["outcome" = "known"], "Recipients judged by greylisting, by outcome: the triplet or the network is known.";
        DnsFound = "ringpost_dns_lookups_total" ["outcome" = "found"], "Lookups in the DNS, by outcome; those answered from the core's cache included.";
        DnsMissing = "ringpost_dns_lookups_total" ["outcome" = "missing"], "Lookups in the DNS, by outcome; those answered from the core's cache included.";
        DnsFailed = "ringpost_dns_lookups_total" ["outcome" = "failed"], "Lookups in the DNS, by outcome; those answered from the core's cache included.";
        DnsLate = "ringpost_dns_late_total", "Sessions that went on without the answers of the DNS because the deadline had passed.";
        ProxyHeaders = "ringpost_proxy_headers_total" ["outcome" = "accepted"], "PROXY protocol headers, by outcome.";
        ProxyMalformed = "ringpost_proxy_headers_total" ["outcome" = "malformed"], "PROXY protocol headers, by outcome.";
        TlsFailed = "ringpost_tls_handshakes_failed_total", "TLS handshakes that did not come to their end.";
        TlsClientVerified = "ringpost_tls_client_certificates_total" ["verified" = "yes"], "Client certificates shown, by whether tls.client_ca vouches for them.";
        TlsClientUnverified = "ringpost_tls_client_certificates_total" ["verified" = "no"], "Client certificates shown, by whether tls.client_ca vouches for them.";
        MeshQuestions = "ringpost_mesh_questions_total", "Questions to other shards about addresses that they own.";
        MeshFull = "ringpost_mesh_full_total", "Questions to other shards that found no room or no answer in time; the client was served as if no limit were met.";
        LedgerOverflow = "ringpost_ledger_overflow_total", "Addresses that were not counted because the ledger was full; they were served as if no limit were met.";
        LogDropped = "ringpost_log_dropped_total", "Log lines dropped because the reader of standard output did not keep up.";
        LogSampled = "ringpost_log_sampled_total", "Log lines left out because more than log.flood of their kind came in a second.";
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
        SpoolsStuck = "ringpost_spools_stuck", "Groups of spools of a former process that could not be taken over at the last try, as for want of room: their mail waits.";
        QueueMessages = "ringpost_queue_messages", "Messages accepted and not yet settled.";
        QueueHeld = "ringpost_queue_held_messages", "Messages that an operator holds.";
        QueueDead = "ringpost_queue_dead_messages", "Dead letters: messages that could neither be delivered nor reported, kept for inspection.";
        QueueInFlight = "ringpost_queue_attempts", "Deliveries under way.";
        BreakersOpen = "ringpost_breakers_open", "Destinations that are left alone now, of those that this shard owns.";
        KeptMessages = "ringpost_kept_messages", "Messages of the class memory that are in memory only.";
        SpoolLiveBytes = "ringpost_spool_live_bytes", "Bytes of the spool log that are still needed.";
        SpaceState = "ringpost_spool_space_state", "Room on the file system of the spool: 0 enough, 1 less than spool.space_soft, 2 less than spool.space_hard, where mail is refused with 452.";
        SpaceFree = "ringpost_spool_free_bytes", "Bytes that the file system of the spool has left for the server.";
        QueueDeferred = "ringpost_queue_deferred_messages", "Messages waiting for a later attempt.";
        AddressConnections = "ringpost_address_connections", "Open connections as counted for their addresses by the shard that owns them; counted only while a limit per address or network is set.";
        LedgerEntries = "ringpost_ledger_entries", "Addresses and networks that the shard keeps counts for.";
        GreylistEntries = "ringpost_greylist_entries", "Triplets that the shard remembers for greylisting.";
        Bans = "ringpost_bans", "Bans in force, as this shard sees them.";
        TlsHandshakesOpen = "ringpost_tls_handshakes_open", "TLS handshakes under way.";
        ConfigEpoch = "ringpost_config_epoch", "How many times the configuration in force was replaced since the start.";
    }
}

catalogue! {
    /// Durations, as histograms with the buckets of [`BUCKETS`].
    Timing {
        TlsHandshake = "ringpost_tls_handshake_seconds", "From the first byte of a TLS handshake to its end.";
        Lookups = "ringpost_dns_lookup_seconds", "From the start of a session's lookups in the DNS to the last answer.";
        Body = "ringpost_smtp_body_seconds", "From the reply that invites the message to its last byte.";
        SpoolCommit = "ringpost_spool_commit_seconds", "From a message's last byte to its being durable.";
        SpoolSync = "ringpost_spool_sync_seconds", "One write and fdatasync of the spool log.";
        Attempt = "ringpost_attempt_seconds", "One delivery attempt at a target, whatever came of it.";
        Delivery = "ringpost_delivery_seconds", "From a message's acceptance to its settlement.";
        StageAccept = "ringpost_stage_seconds" ["stage" = "accept"], "Time of each stage of a session or a message: from a connection's being taken to its banner's being sent.";
        StageTls = "ringpost_stage_seconds" ["stage" = "tls"], "Time of each stage of a session or a message: from the first byte of a TLS handshake to its end.";
        StageHelo = "ringpost_stage_seconds" ["stage" = "helo"], "Time of each stage of a session or a message: HELO, EHLO or LHLO, from its line to its reply.";
        StageMail = "ringpost_stage_seconds" ["stage" = "mail"], "Time of each stage of a session or a message: MAIL, from its line to its reply.";
        StageRcpt = "ringpost_stage_seconds" ["stage" = "rcpt"], "Time of each stage of a session or a message: RCPT, from its line to its reply.";
        StageData = "ringpost_stage_seconds" ["stage" = "data"], "Time of each stage of a session or a message: DATA or the first BDAT, from its line to the go-ahead.";
        StageStarttls = "ringpost_stage_seconds" ["stage" = "starttls"], "Time of each stage of a session or a message: STARTTLS, from its line to its reply.";
        StageOther = "ringpost_stage_seconds" ["stage" = "other"], "Time of each stage of a session or a message: any other command, and any that is refused by its form or order, from its line to its reply.";
        StageCheckLimits = "ringpost_stage_seconds" ["stage" = "check_limits"], "Time of each stage of a session or a message: asking the owner of an address whether a limit is met.";
        StageCheckScreen = "ringpost_stage_seconds" ["stage" = "check_screen"], "Time of each stage of a session or a message: waiting for the evidence about a host, and judging it.";
        StageCheckGreylist = "ringpost_stage_seconds" ["stage" = "check_greylist"], "Time of each stage of a session or a message: asking the owner of a network about a triplet.";
        StageCheckRecipient = "ringpost_stage_seconds" ["stage" = "check_recipient"], "Time of each stage of a session or a message: finding out whether a recipient exists, and where its mail goes.";
        StageBody = "ringpost_stage_seconds" ["stage" = "body"], "Time of each stage of a session or a message: from the go-ahead to the last byte.";
        StageSpoolWait = "ringpost_stage_seconds" ["stage" = "spool_wait"], "Time of each stage of a session or a message: from the last byte to the proof that the message is in good hands.";
        StageDelivery = "ringpost_stage_seconds" ["stage" = "delivery"], "Time of each stage of a session or a message: from the acceptance to the settlement.";
        Stall = "ringpost_shard_lag_seconds", "How much later than asked the shard's heartbeat ran: the delay any session sees.";
    }
}

/// Upper bounds of the histogram buckets, in seconds; one more bucket takes what is above the last.
pub const BUCKETS: [f64; 19] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    5.0, 30.0, 300.0,
];

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
