//! The lanes: for each destination, what is ready for it, whose turn it is, and what the shard has of its owner.
//!
//! A lane with work and room stands in a ring, and each turn of the ring is one attempt; so a destination that hangs or is
//! busy has its own lane wait and no other. Local lanes have a ring of their own, as their room is what all of them share.
//! Within a lane, priorities have turns by weight, and messages of a priority come first in, first out.

use crate::hash::of_name;
use crate::lease::LeaseReport;
use crate::legs::{Legs, List};
use crate::{Action, Reason};
use ringpost_base::{Priority, Tick};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Index, IndexMut};
use std::rc::Rc;

/// Turns of each priority, of ten, while all have work. The lowest has one: it waits, and doesn't starve.
const TURNS: [u8; 3] = [6, 3, 1];

/// Lanes at most. Names come from the configuration, so this is beyond all need; who is over it goes nowhere, which has
/// its recipients routed again.
const LANES_MAX: usize = u16::MAX as usize;

/// The name of the lane of recipients that have no destination. At each attempt they are routed again.
pub(crate) const NOWHERE: &str = "";

/// What a lane's destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the hands of the server itself.
    Local,
    /// Elsewhere: attempts need a lease.
    Remote,
    /// No longer configured: attempts are made so that its recipients are routed again.
    Gone,
}

impl Kind {
    pub(crate) fn of(local: bool) -> Self {
        if local { Self::Local } else { Self::Remote }
    }
}

/// What the shard has of a destination's owner, and what it has asked for.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    pub(crate) slots: u32,
    /// Slots with an attempt under way.
    pub(crate) busy: u32,
    /// Messages that may yet be sent.
    pub(crate) messages: u32,
    /// When the last of them were granted.
    pub(crate) granted: Tick,
    /// A question is under way.
    pub(crate) asked: bool,
    /// The owner said that it may ask while it was asking.
    pub(crate) freed: bool,
    /// It was told to wait, and the timer says until when.
    pub(crate) blocked: Option<Blocked>,
    /// Slots that are the owner's again and that it doesn't know of yet.
    pub(crate) returned: u32,
    pub(crate) report: LeaseReport,
}

/// Why a lane doesn't ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// All slots are in use.
    Busy,
    /// It was told a time, or nobody answered.
    Wait,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: Rc<str>,
    /// The hash of the name, by which it is remembered.
    pub(crate) hash: u32,
    pub(crate) kind: Kind,
    queues: [List; 3],
    pub(crate) ready: [u32; 3],
    credits: [u8; 3],
    pub(crate) deferred: u32,
    pub(crate) active: u32,
    pub(crate) held: u32,
    /// Recipients that were buried.
    pub(crate) dead: u32,
    /// Legs that lead to it, in whatever state.
    pub(crate) legs: u32,
    in_ring: bool,
    /// When it began an attempt last, or began to have something to begin.
    pub(crate) moved: Tick,
    timer: Option<Tick>,
    pub(crate) holding: Holding,
    /// Why something was put off or given up last.
    pub(crate) last: Option<Rc<Reason>>,
}

impl Lane {
    pub(crate) fn ready(&self) -> u32 {
        self.ready.iter().sum()
    }

    pub(crate) fn queue(&self, priority: Priority) -> List {
        self.queues[priority as usize]
    }

    /// Whether it may begin an attempt, apart from what all local lanes share.
    pub(crate) fn has_room(&self) -> bool {
        self.kind != Kind::Remote || self.holding.busy < self.holding.slots && self.holding.messages > 0
    }

    /// The leg whose turn it is.
    pub(crate) fn pick(&mut self, legs: &Legs) -> Option<u32> {
        let with_turn = |lane: &Self| (0..3).find(|at| lane.ready[*at] > 0 && lane.credits[*at] > 0);
        let at = with_turn(self).or_else(|| {
            self.credits = TURNS;
            with_turn(self)
        })?;
        self.credits[at] -= 1;
        legs.front(self.queues[at])
    }

    fn is_forgettable(&self) -> bool {
        let holding = &self.holding;
        let owes = holding.slots > 0 || holding.asked || holding.returned > 0;
        self.kind == Kind::Gone && self.legs == 0 && !owes
    }
}

#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    by_name: BTreeMap<Rc<str>, u16>,
    spare: Vec<u16>,
    /// Lanes that may have work and room: the local ones, and the others.
    rings: [VecDeque<u16>; 2],
    timers: BTreeSet<(Tick, u16)>,
}

impl Lanes {
    pub(crate) fn find(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    /// The lane of a destination, made if there is none yet.
    pub(crate) fn of(&mut self, name: &Rc<str>, kind: Kind, legs: &mut Legs) -> u16 {
        if let Some(lane) = self.find(name) {
            return lane;
        }
        if self.by_name.len() + 1 >= LANES_MAX && **name != *NOWHERE {
            return self.of(&NOWHERE.into(), Kind::Gone, legs);
        }
        let queues = [legs.add_list(), legs.add_list(), legs.add_list()];
        let lane = Lane {
            name: name.clone(),
            hash: of_name(name),
            kind,
            queues,
            ready: [0; 3],
            credits: TURNS,
            deferred: 0,
            active: 0,
            held: 0,
            dead: 0,
            legs: 0,
            in_ring: false,
            moved: Tick::default(),
            timer: None,
            holding: Holding::default(),
            last: None,
        };
        let at = self.spare.pop().unwrap_or(self.lanes.len() as u16);
        match self.lanes.get_mut(usize::from(at)) {
            Some(place) => *place = lane,
            None => self.lanes.push(lane),
        }
        self.by_name.insert(name.clone(), at);
        at
    }

    /// All lanes, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Lane> {
        self.by_name.values().map(|at| &self.lanes[usize::from(*at)])
    }

    /// The numbers of all lanes, by name.
    pub(crate) fn numbers(&self) -> Vec<u16> {
        self.by_name.values().copied().collect()
    }

    /// Forgets a lane, if nothing leads to it any more.
    pub(crate) fn forget(&mut self, at: u16, legs: &mut Legs) {
        let lane = &self.lanes[usize::from(at)];
        if !lane.is_forgettable() || self.find(&lane.name) != Some(at) {
            return;
        }
        let (name, queues) = (lane.name.clone(), lane.queues);
        self.set_timer(at, None);
        self.rings.iter_mut().for_each(|ring| ring.retain(|other| *other != at));
        queues.into_iter().for_each(|queue| legs.drop_list(queue));
        self.by_name.remove(&name);
        self.spare.push(at);
    }

    /// Puts a lane that has work and room into its ring.
    pub(crate) fn enter_ring(&mut self, at: u16) {
        let lane = &mut self.lanes[usize::from(at)];
        if !lane.in_ring && lane.ready() > 0 && lane.has_room() {
            lane.in_ring = true;
            let ring = usize::from(lane.kind == Kind::Remote);
            self.rings[ring].push_back(at);
        }
    }

    /// The next lane of the local ring (0) or the other (1) that has work and room.
    pub(crate) fn turn(&mut self, ring: usize) -> Option<u16> {
        loop {
            let at = self.rings[ring].pop_front()?;
            let lane = &mut self.lanes[usize::from(at)];
            lane.in_ring = false;
            if lane.ready() > 0 && lane.has_room() {
                return Some(at);
            }
        }
    }

    /// Has a lane's kind be another.
    pub(crate) fn set_kind(&mut self, at: u16, kind: Kind) {
        let lane = &mut self.lanes[usize::from(at)];
        lane.kind = kind;
        if lane.in_ring {
            lane.in_ring = false;
            self.rings.iter_mut().for_each(|ring| ring.retain(|other| *other != at));
        }
        if kind != Kind::Remote {
            lane.holding.blocked = None;
            self.set_timer(at, None);
        }
        self.enter_ring(at);
    }

    pub(crate) fn timer(&self, at: u16) -> Option<Tick> {
        self.lanes[usize::from(at)].timer
    }

    pub(crate) fn set_timer(&mut self, at: u16, timer: Option<Tick>) {
        let before = std::mem::replace(&mut self.lanes[usize::from(at)].timer, timer);
        if let Some(before) = before {
            self.timers.remove(&(before, at));
        }
        if let Some(timer) = timer {
            self.timers.insert((timer, at));
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Tick> {
        self.timers.first().map(|(timer, _)| *timer)
    }

    /// A lane whose timer has come.
    pub(crate) fn timed_out(&mut self, now: Tick) -> Option<u16> {
        let (_, at) = self.timers.first().copied().filter(|(timer, _)| *timer <= now)?;
        self.set_timer(at, None);
        Some(at)
    }
}

impl Index<u16> for Lanes {
    type Output = Lane;

    fn index(&self, at: u16) -> &Lane {
        &self.lanes[usize::from(at)]
    }
}

impl IndexMut<u16> for Lanes {
    fn index_mut(&mut self, at: u16) -> &mut Lane {
        &mut self.lanes[usize::from(at)]
    }
}

impl Holding {
    /// Sorts out what is the owner's again when so much work is ready, and makes the action that says so.
    pub(crate) fn give_back(&mut self, ready: u32, destination: &Rc<str>) -> Option<Action> {
        let keep = if self.messages == 0 { self.busy } else { self.slots.min(self.busy.saturating_add(ready)) };
        let surplus = self.slots.saturating_sub(keep);
        let unused = match keep {
            0 => self.messages,
            _ => (u64::from(self.messages) * u64::from(surplus) / u64::from(self.slots.max(1))) as u32,
        };
        self.slots -= surplus;
        self.messages -= unused;
        self.returned += surplus;
        self.report.unused = self.report.unused.saturating_add(unused);
        (self.returned > 0).then(|| self.release(destination))
    }

    /// The action that tells the owner all there is to tell.
    pub(crate) fn release(&mut self, destination: &Rc<str>) -> Action {
        let (slots, report) = (std::mem::take(&mut self.returned), std::mem::take(&mut self.report));
        Action::Release { destination: destination.clone(), slots, report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Leg;

    #[test]
    fn priorities_have_their_turns_and_none_starves() {
        let mut legs = Legs::new();
        let mut lanes = Lanes::default();
        let at = lanes.of(&"a".into(), Kind::Local, &mut legs);
        let mut order = String::new();
        for priority in Priority::ALL {
            for _ in 0..30 {
                let leg = legs.add(Leg { attempts: priority as u16, ..Leg::default() });
                legs.push_back(lanes[at].queue(priority), leg);
                lanes[at].ready[priority as usize] += 1;
            }
        }
        while let Some(leg) = lanes[at].pick(&legs) {
            legs.unlink(leg);
            lanes[at].ready[usize::from(legs[leg].attempts)] -= 1;
            order.push(['h', 'n', 'l'][usize::from(legs[leg].attempts)]);
        }
        assert_eq!(order.len(), 90);
        assert!(order.starts_with("hhhhhhnnnlhhhhhhnnnl"), "{order}");
    }

    fn check(mut holding: Holding, ready: u32, slots: u32, returned: u32, unused: u32) {
        let before = holding.messages;
        match holding.give_back(ready, &"a".into()) {
            Some(Action::Release { slots, report, .. }) => assert_eq!((slots, report.unused), (returned, unused)),
            _ => assert_eq!((0, 0), (returned, unused)),
        }
        assert_eq!((holding.slots, holding.messages), (slots, before - unused));
    }

    #[test]
    fn what_is_not_needed_goes_back_when_its_attempts_are_over() {
        let holding = |slots, busy, messages| Holding { slots, busy, messages, ..Holding::default() };
        check(holding(3, 1, 90), 5, 3, 0, 0);
        check(holding(3, 1, 90), 1, 2, 1, 30);
        check(holding(3, 1, 90), 0, 1, 2, 60);
        check(holding(3, 0, 90), 0, 0, 3, 90);
        check(holding(3, 2, 0), 9, 2, 1, 0);
    }

    #[test]
    fn a_lane_is_forgotten_when_nothing_leads_to_it() {
        let mut legs = Legs::new();
        let mut lanes = Lanes::default();
        let at = lanes.of(&"a".into(), Kind::Remote, &mut legs);
        lanes.forget(at, &mut legs);
        assert_eq!(lanes.find("a"), Some(at), "it is configured");
        lanes.set_kind(at, Kind::Gone);
        lanes.forget(at, &mut legs);
        assert_eq!((lanes.find("a"), lanes.of(&"b".into(), Kind::Local, &mut legs)), (None, at));
    }
}
