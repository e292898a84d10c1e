//! Every limit, once: its key in the config file, and the reply of a client that meets it.

use ringpost_smtp::{Reply, replies};

macro_rules! limits {
    ($($variant:ident = $key:literal, $reply:ident, $help:literal;)*) => {
        /// A limit of the config file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Limit { $(#[doc = $help] $variant),* }

        impl Limit {
            /// All of them, in the order of the reference page.
            pub const ALL: &'static [Limit] = &[$(Limit::$variant),*];

            /// The key in the config file that sets it.
            pub const fn key(self) -> &'static str {
                match self { $(Limit::$variant => $key),* }
            }

            fn row(self) -> Reply {
                match self { $(Limit::$variant => replies::$reply),* }
            }
        }
    };
}

limits! {
    Connections = "limits.connections", LIMITED_SESSION, "Connections of a core, or of the process.";
    ConnectionsPerIp = "limits.connections_per_ip", LIMITED_SESSION, "Connections of one address.";
    ConnectionsPerNetwork = "limits.connections_per_network", LIMITED_SESSION, "Connections of one network.";
    ConnectionRatePerIp = "limits.connection_rate_per_ip", LIMITED_CONNECTION_RATE, "New connections a minute of one address.";
    ConnectionRatePerNetwork = "limits.connection_rate_per_network", LIMITED_CONNECTION_RATE, "New connections a minute of one network.";
    MessagesPerIp = "limits.messages_per_ip", LIMITED_RATE, "Messages a minute of one address.";
    MessagesPerNetwork = "limits.messages_per_network", LIMITED_RATE, "Messages a minute of one network.";
    RecipientsPerIp = "limits.recipients_per_ip", LIMITED_RATE, "Recipients a minute of one address.";
    RecipientsPerNetwork = "limits.recipients_per_network", LIMITED_RATE, "Recipients a minute of one network.";
    BytesPerIp = "limits.bytes_per_ip", LIMITED_RATE, "Bytes a minute of one address.";
    BytesPerNetwork = "limits.bytes_per_network", LIMITED_RATE, "Bytes a minute of one network.";
    MessagesInFlight = "cores.limits.messages_in_flight", BUSY, "Messages of a core between MAIL and their reply.";
    MessageMemory = "cores.limits.message_memory", BUSY_MEMORY, "Bytes of messages in a core's memory.";
    SpoolBacklog = "cores.limits.spool_backlog", STORAGE_FULL, "Bytes of a core accepted and not settled.";
}

impl Limit {
    /// Whether it is one of an address or a network: a client that meets it has itself to blame.
    pub const fn is_of_client(self) -> bool {
        !matches!(self, Limit::Connections | Limit::MessagesInFlight | Limit::MessageMemory | Limit::SpoolBacklog)
    }

    /// What a client is told that meets it; the limit is named.
    pub fn reply(self) -> Reply {
        self.row().with_detail(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_refuses_for_a_while() {
        for limit in Limit::ALL {
            let code = limit.reply().code();
            assert!((400..500).contains(&code), "{}: {code}", limit.key());
        }
    }
}
