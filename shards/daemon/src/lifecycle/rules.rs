//! The phase tls: certificates, recipients and where names are looked up, made into what sessions go by.

use super::server::{Rules, Server};
use crate::health::Health;
use crate::in_force::{InForce, Publisher, Source};
use crate::reload;
use anyhow::{Context, Result};
use crossbeam::channel::unbounded;
use ringpost_dns::Dns;
use ringpost_net::Ticketing;
use ringpost_policy::BanBook;
use ringpost_runtime::inbox;
use std::sync::Arc;

/// Everything that the config names is read; nothing serves by it yet.
pub(crate) fn make(server: &mut Server) -> Result<()> {
    let handle = server.services()?.handle();
    let (board, blocks) = (server.voice()?.board.clone(), server.voice()?.blocks.clone());
    let ground = server.ground()?;
    let (config, cores) = (&ground.config, &ground.cores);
    reload::check_targets(config)?;
    let policy = reload::policy(config)?;
    let ticketing = Ticketing::new()?;
    let source = Source {
        epoch: 0,
        config: config.clone(),
        policy,
        acceptors: reload::acceptors(config, &*ground.state()?, &ticketing, cores.len())?,
        certificates: reload::certificates(config, &*ground.state()?)?,
        dns: Dns::start(handle, &reload::dns_options(config)).context("dns.servers")?,
        cores: cores.clone(),
    };
    let (orders, inboxes): (Vec<_>, Vec<_>) = cores.iter().map(|_| inbox()).unzip();
    // The bans are read with what else outlives the process.
    let first = InForce { source: Arc::new(source), bans: Arc::new(BanBook::default().snapshot()) };
    let publisher = Publisher::new(first, board);
    let health = Health::new(publisher.clone(), &blocks, orders.clone());
    let (keeper, requests) = unbounded();
    let (main, asked) = unbounded();
    server.rules = Some(Rules { publisher, ticketing, health, keeper, requests, main, asked, orders, inboxes });
    Ok(())
}
