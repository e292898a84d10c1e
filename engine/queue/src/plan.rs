//! Which legs a message has, by its routes and by what is remembered of it.

use crate::hash::{EVERYWHERE, of_name};
use crate::lane::{Kind, NOWHERE};
use crate::{DeadRecipient, DomainHash, NewLeg, Remembered};
use std::collections::BTreeSet;
use std::rc::Rc;

/// The legs that a message is to have, and who is dead of it.
pub(crate) struct Plan {
    pub(crate) legs: Vec<Planned>,
    pub(crate) dead: Vec<DeadRecipient>,
}

/// A leg as it will be.
pub(crate) struct Planned {
    pub(crate) destination: Rc<str>,
    hash: u32,
    pub(crate) kind: Kind,
    /// Recipients still to serve, ascending.
    pub(crate) pending: Vec<u32>,
    /// Those to whom the leg leads, served or not, ascending.
    all: Vec<u32>,
    pub(crate) domain: DomainHash,
}

impl Plan {
    /// One leg for each destination where somebody is left or dead, and one to nowhere for recipients that none leads to:
    /// nobody is left out.
    pub(crate) fn new(legs: Vec<NewLeg>, recipients: u32, remembered: &Remembered) -> Self {
        let mut legs = one_for_each_destination(legs, recipients);
        leave_out_done(&mut legs, &remembered.done);
        let dead = leave_out_dead(&mut legs, &remembered.dead);
        let with_dead: BTreeSet<u32> = dead.iter().map(|dead| dead.destination).collect();
        legs.retain(|leg| !leg.pending.is_empty() || with_dead.contains(&leg.hash));
        Self { legs, dead }
    }

    /// Nothing is left to do, and nothing to keep.
    pub(crate) fn is_over(&self) -> bool {
        self.legs.is_empty()
    }
}

fn one_for_each_destination(legs: Vec<NewLeg>, recipients: u32) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::with_capacity(legs.len());
    for NewLeg { destination, local, recipients: mut all, domain } in legs {
        all.retain(|recipient| *recipient < recipients);
        match planned.iter_mut().find(|leg| leg.destination == destination) {
            Some(leg) => {
                leg.all.extend(all);
                leg.domain = leg.domain.joined(domain);
            }
            None => planned.push(new_planned(destination, Kind::of(local), all, domain)),
        }
    }
    for leg in &mut planned {
        leg.all.sort_unstable();
        leg.all.dedup();
    }
    if !planned.iter().any(|leg| leg.all.len() == recipients as usize) {
        let led: BTreeSet<u32> = planned.iter().flat_map(|leg| &leg.all).copied().collect();
        let others: Vec<u32> = (0..recipients).filter(|recipient| !led.contains(recipient)).collect();
        if !others.is_empty() {
            planned.push(new_planned(NOWHERE.into(), Kind::Gone, others, DomainHash::SEVERAL));
        }
    }
    for leg in &mut planned {
        leg.pending = leg.all.clone();
    }
    planned
}

fn new_planned(destination: Rc<str>, kind: Kind, all: Vec<u32>, domain: DomainHash) -> Planned {
    Planned { hash: of_name(&destination), destination, kind, pending: Vec::new(), all, domain }
}

fn leave_out_done(planned: &mut [Planned], done: &[(u32, u32)]) {
    if done.is_empty() {
        return;
    }
    let done: BTreeSet<(u32, u32)> = done.iter().copied().collect();
    for leg in planned {
        let is_done = |recipient: u32| done.contains(&(recipient, leg.hash)) || done.contains(&(recipient, EVERYWHERE));
        leg.pending.retain(|recipient| !is_done(*recipient));
    }
}

/// Takes out whom an earlier run has buried. One that was going to a destination that its route doesn't have any more is
/// buried at those that it has now.
fn leave_out_dead(planned: &mut [Planned], dead: &[DeadRecipient]) -> Vec<DeadRecipient> {
    let mut buried = Vec::new();
    if dead.is_empty() {
        return buried;
    }
    let mut dead_at: Vec<BTreeSet<u32>> = planned.iter().map(|_| BTreeSet::new()).collect();
    for dead in dead {
        let leads = |leg: &Planned| leg.all.binary_search(&dead.recipient).is_ok();
        let own = planned.iter().any(|leg| leg.hash == dead.destination && leads(leg));
        for (leg, dead_here) in planned.iter().zip(&mut dead_at) {
            let here = if own { leg.hash == dead.destination } else { leads(leg) };
            let is_pending = || leg.pending.binary_search(&dead.recipient).is_ok();
            if here && is_pending() && dead_here.insert(dead.recipient) {
                buried.push(DeadRecipient { destination: leg.hash, ..dead.clone() });
            }
        }
    }
    for (leg, dead_here) in planned.iter_mut().zip(&dead_at) {
        leg.pending.retain(|recipient| !dead_here.contains(recipient));
    }
    buried
}
