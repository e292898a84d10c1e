//! The main thread while the server serves: it watches health, does what it is asked for, and sees when it is over.

use super::server::Server;
use super::serving;
use crate::keeper::Request;
use crate::main_requests::{Answer, MainRequest};
use crate::orders::Order;
use crate::signals::Signal;
use crate::upgrade::{self, Bequest, Served};
use anyhow::{Context, Result, bail};
use crossbeam::channel::{Receiver, Sender, never, select, tick, unbounded};
use ringpost_admin::{Note, Refusal, api};
use ringpost_metrics::Gauge;
use ringpost_runtime::now;
use ringpost_store::orphan_groups;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// How often health is looked at.
const HEALTH: Duration = Duration::from_millis(200);

/// What the loop listens to besides the server's own channels.
struct Ears {
    signals: Receiver<Signal>,
    asked: Receiver<MainRequest>,
    ended: Receiver<ringpost_base::ShardId>,
    bequests: Receiver<Bequest>,
    served: Receiver<Option<Served>>,
    /// For attempts to upgrade.
    serving: Sender<Option<Served>>,
}

/// Watches until the server is to end.
pub(crate) fn watch(server: &mut Server) -> Result<()> {
    let (serving, served) = unbounded();
    server.storage().former_finishes = server.storage().bequests.is_some();
    let ears = Ears {
        signals: server.ground()?.signals.clone(),
        asked: server.rules()?.asked.clone(),
        ended: server.storage().shards.as_ref().context("no shards")?.ended.clone(),
        bequests: server.storage().bequests.take().unwrap_or_else(never),
        served,
        serving,
    };
    let mut bequests = ears.bequests.clone();
    let beat = tick(HEALTH);
    loop {
        select! {
            recv(ears.signals) -> signal => match signal {
                // It fails only when the keeper is gone, which its own log line tells.
                Ok(Signal::Reload) => drop(server.rules()?.keeper.send(Request::reload_by_signal())),
                Ok(Signal::Stop(signal)) => {
                    tracing::info!(signal, "stopping");
                    note_stop(server, signal)?;
                    return Ok(());
                }
                Err(_) => bail!("the thread for signals has ended"),
            },
            recv(ears.asked) -> asked => match asked {
                Ok(MainRequest::Drain(order, answer)) => return drain(server, &order, answer),
                Ok(MainRequest::Upgrade(order, answer)) => {
                    // Whoever asked may have given up.
                    if let Err((answer, error)) = begin_upgrade(server, order, answer, &ears.serving) {
                        let _ = answer.send(Err(Refusal::conflict(format!("{error:#}"))));
                    }
                }
                Err(_) => bail!("nobody is left who could ask"),
            },
            recv(ears.served) -> served => match served.context("no upgrade")? {
                Some(successor) => {
                    if hand_over(server, successor)? {
                        return Ok(());
                    }
                }
                None => upgrade_failed(server)?,
            },
            recv(bequests) -> bequest => match bequest {
                Ok(bequest) => inherit(server, bequest)?,
                Err(_) => bequests = never(),
            },
            recv(ears.ended) -> shard => {
                if let Some(reason) = server.storage().shards.as_ref().and_then(super::shards::Shards::told) {
                    bail!(reason);
                }
                let shard = shard.map_or_else(|_| "?".to_owned(), |shard| shard.to_string());
                bail!("shard {shard} died; acknowledged mail is in the spool and is delivered after a restart");
            }
            recv(beat) -> _ => look(server)?,
        }
    }
}

/// A signal is noted as an order would be, of which nobody knows who gave it.
fn note_stop(server: &mut Server, signal: &str) -> Result<()> {
    let state = server.voice()?.board.state().phase.name();
    if let Some(admin) = &server.storage().admin {
        let (before, after) = (json!({ "state": state }), json!({ "state": "stopping" }));
        admin.audit().note(Note::of_signal("stop", signal, before, after));
    }
    Ok(())
}

/// Takes up how the server is, and tells the service manager.
fn look(server: &mut Server) -> Result<()> {
    let health = server.rules()?.health.clone();
    let voice = server.voice()?;
    let verdict = health.look();
    if voice.board.state().phase != verdict.phase {
        tracing::warn!(phase = %verdict.phase, reasons = ?verdict.reasons, "health changed");
        voice.board.publish_phase(verdict.phase);
    }
    let words = match verdict.reasons.as_slice() {
        [] => verdict.phase.name().to_owned(),
        [only] => format!("{}: {only}", verdict.phase),
        [first, others @ ..] => format!("{}: {first} (and {} more)", verdict.phase, others.len()),
    };
    voice.signs.status(&words);
    if !verdict.stalled {
        voice.signs.alive();
    }
    Ok(())
}

fn drain(server: &mut Server, order: &api::DrainOrder, answer: Answer<api::Draining>) -> Result<()> {
    let queue = order.queue.map_or(Duration::ZERO, |queue| queue.0);
    serving::end_by(server, queue);
    let until = now().wall.after(serving::drain_timeout(server));
    let voice = server.voice()?;
    let sum = |row: Gauge| voice.blocks.iter().map(|block| block.gauge(row)).sum();
    let (sessions, messages): (u64, u64) = (sum(Gauge::SessionsOpen), sum(Gauge::QueueMessages));
    tracing::info!(sessions, queue = messages, queue_seconds = queue.as_secs(), "draining, as asked for");
    // Whoever asked may have given up.
    let _ = answer.send(Ok(api::Draining { sessions, queue: messages, until: api::Moment(until) }));
    Ok(())
}

/// Begins an upgrade, or gives back whom to tell why not.
fn begin_upgrade(
    server: &mut Server,
    order: api::UpgradeOrder,
    answer: Answer<api::Upgraded>,
    serving: &Sender<Option<Served>>,
) -> Result<(), (Answer<api::Upgraded>, anyhow::Error)> {
    let prepared = may_upgrade(server).and_then(|()| {
        let binary = order.binary.map_or_else(own_binary, |binary| Ok(PathBuf::from(binary)))?;
        Ok((parts(server)?, binary, server.rules()?.health.clone()))
    });
    let (parts, binary, health) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err((answer, error)),
    };
    let words = format!("{} is started to take over", binary.display());
    server.attempt = Some(upgrade::begin(parts, binary, answer, serving.clone())?);
    health.upgrading(Some(words));
    Ok(())
}

fn may_upgrade(server: &mut Server) -> Result<()> {
    if server.rules()?.health.is_upgrading() {
        bail!("an upgrade is under way");
    }
    if server.storage().former_finishes {
        bail!("the former process of the last upgrade is still finishing: try again when it has ended");
    }
    if std::process::id() == 1 {
        bail!("this is the first process of its container, which ends with it: start a new container instead");
    }
    Ok(())
}

/// Everything is as before; what the new process has made is taken away.
fn upgrade_failed(server: &mut Server) -> Result<()> {
    server.attempt = None;
    server.rules()?.health.upgrading(None);
    let busy = server.storage().shards.as_ref().is_none_or(|shards| shards.ending.is_moving());
    if busy { Ok(()) } else { take_over(server) }
}

/// The file that this process was started from, or what has taken its place since.
fn own_binary() -> Result<PathBuf> {
    let path = std::env::current_exe().context("this program's file can't be found out; name one with --binary")?;
    // What the kernel says of a file that was replaced.
    let text = path.to_string_lossy().into_owned();
    Ok(text.strip_suffix(" (deleted)").map_or(path, PathBuf::from))
}

/// Duplicates of all that another process needs.
fn parts(server: &mut Server) -> Result<upgrade::Parts> {
    let keeper = server.rules()?.keeper.clone();
    let storage = server.storage();
    if storage.admin.is_none() {
        bail!("the server is not ready yet");
    }
    let (admin_tcp, admin_unix) = match &storage.admin {
        Some(admin) => {
            let (tcp, unix) = admin.share().context("the sockets of health and the API")?;
            (tcp, unix.zip(admin.socket().map(PathBuf::from)).map(|(socket, path)| (path, socket)))
        }
        None => (None, None),
    };
    let ground = server.ground()?;
    let mut listening = Vec::new();
    for (address, sockets) in &ground.heirlooms {
        let sockets = sockets.iter().map(|socket| socket.try_clone()).collect::<std::io::Result<Vec<_>>>()?;
        listening.push((*address, sockets));
    }
    let (lock, state_dir) = (ground.state()?.lock()?, ground.state()?.path().to_owned());
    let kept_open = ground.inheritance.kept_open.clone();
    Ok(upgrade::Parts { kept_open, listening, admin_tcp, admin_unix, lock, state_dir, keeper })
}

/// Lets the other process serve: from here on this one only finishes. False if it could not be told.
fn hand_over(server: &mut Server, mut successor: Served) -> Result<bool> {
    let process = successor.process();
    if let Err(error) = successor.go() {
        tracing::error!(process, error = format!("{error:#}"), "upgrade failed; this process serves on");
        drop(successor);
        upgrade_failed(server)?;
        return Ok(false);
    }
    tracing::info!(process, "another process serves; finishing here");
    crate::notify::main_process(process);
    if let Some(admin) = server.storage().admin.take() {
        admin.hand_over();
    }
    server.attempt = None;
    server.successor = Some(successor);
    Ok(true)
}

/// Takes what a former process leaves behind to the shards.
fn inherit(server: &mut Server, bequest: Bequest) -> Result<()> {
    match bequest {
        Bequest::Stray(address, connection) => {
            let source = server.rules()?.publisher.current().source;
            let orders = &server.rules()?.orders;
            let listener = source.config.listeners.iter().find(|listener| listener.address.contains(&address));
            // One that is no longer configured has nobody who would serve it.
            let Some(listener) = listener else { return Ok(()) };
            if let Some(first) = orders.first() {
                first.send(Order::Stray { listener: listener.name.clone(), connection });
            }
        }
        Bequest::Spools => {
            tracing::info!("the former process has ended; its spools are taken over");
            server.storage().former_finishes = false;
            take_over(server)?;
        }
    }
    Ok(())
}

/// Has the shards take over all spools that are nobody's any more.
fn take_over(server: &mut Server) -> Result<()> {
    let (spool, own) = (server.ground()?.state()?.spool(), server.storage().spools.clone());
    let ending = server.storage().shards.as_ref().context("no shards")?.ending.clone();
    // What can't be found out now is by the next start.
    match orphan_groups(&spool, &own) {
        Ok(groups) => {
            for (order, groups) in server.rules()?.orders.iter().zip(groups) {
                if !groups.is_empty() {
                    ending.count_moving(true);
                    order.send(Order::TakeOver { groups });
                }
            }
        }
        Err(error) => tracing::error!(%error, "spools of another process can't be looked for"),
    }
    Ok(())
}
