//! The resolver and the lists on a real shard, against a DNS server of the test's own.

mod lists;
mod resolver;
mod support;
