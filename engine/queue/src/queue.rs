//! The queue of one shard: what it holds, and what comes next.

use crate::lane::{Kind, Lanes, NOWHERE};
use crate::legs::Legs;
use crate::moment::{Moment, span_of, unit_of, units_in};
use crate::order::Order;
use crate::reason::Reasons;
use crate::record::{Extra, Leg, Message, Place};
use crate::slab::{NONE, Slab};
use crate::wheel::Wheel;
use crate::{Action, Attempt, LegId, Options, State};
use ringpost_base::{Entropy, Now, SpoolId, Tick};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Waiting legs looked at before the next attempt, so that a million that are due at one moment don't stop everything else.
const LOOKS_MAX: u32 = 512;

/// How often that is done in one call in which there is nothing else to do.
const ROUNDS_MAX: u32 = 16;

/// The schedule of one shard: every message that it has accepted and not settled.
#[derive(Debug)]
pub struct Queue {
    pub(crate) options: Options,
    pub(crate) now: Now,
    random: u64,
    pub(crate) messages: Slab<Message>,
    pub(crate) order: Order,
    pub(crate) extras: HashMap<u32, Box<Extra>>,
    pub(crate) legs: Legs,
    pub(crate) wheel: Wheel,
    pub(crate) lanes: Lanes,
    pub(crate) reasons: Reasons,
    /// What is to be done before further attempts.
    pub(crate) actions: VecDeque<Action>,
    /// Dead letters, those first that were buried first.
    pub(crate) dead: BTreeSet<(i64, SpoolId)>,
    pub(crate) by_state: [usize; 5],
    pub(crate) by_priority: [usize; 3],
    /// Legs in lanes.
    pub(crate) ready: usize,
    /// Legs in the wheel.
    pub(crate) waiting: usize,
    /// Attempts under way.
    pub(crate) active: usize,
    /// Those of them that are bounded together.
    pub(crate) local_active: usize,
    /// Whose turn it is: the local lanes', or the others'.
    ring: usize,
    /// Where the search for what has waited for too long goes on, and when.
    pub(crate) sweep_at: Option<Tick>,
    pub(crate) sweep_from: u32,
}

impl Queue {
    /// An empty queue.
    pub fn new(options: Options, entropy: Entropy) -> Self {
        let mut legs = Legs::new();
        let wheel = Wheel::new(&mut legs);
        Self {
            options,
            now: Now::default(),
            random: entropy.long(),
            messages: Slab::new(),
            order: Order::default(),
            extras: HashMap::new(),
            legs,
            wheel,
            lanes: Lanes::default(),
            reasons: Reasons::default(),
            actions: VecDeque::new(),
            dead: BTreeSet::new(),
            by_state: [0; 5],
            by_priority: [0; 3],
            ready: 0,
            waiting: 0,
            active: 0,
            local_active: 0,
            ring: 0,
            sweep_at: None,
            sweep_from: 0,
        }
    }

    /// The options in force.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Goes on with other options and destinations; what waits keeps the time it was given. `local` says of a destination
    /// whether it is in the hands of the server itself; nothing, if it is no more.
    pub fn configure(&mut self, options: Options, local: &dyn Fn(&str) -> Option<bool>) {
        self.options = options;
        for lane in self.lanes.numbers() {
            let kind = match local(&self.lanes[lane].name) {
                _ if *self.lanes[lane].name == *NOWHERE => Kind::Gone,
                Some(local) => Kind::of(local),
                None => Kind::Gone,
            };
            if self.lanes[lane].kind != kind {
                self.lanes.set_kind(lane, kind);
            }
            self.arrange(lane);
        }
    }

    /// What is to be done next. To be called until there is nothing, and then again at [`Queue::next_due`] and after
    /// everything else that was told to the queue.
    pub fn next(&mut self, now: Now) -> Option<Action> {
        self.see(now);
        while let Some(lane) = self.lanes.timed_out(self.now.tick) {
            self.lane_timed_out(lane);
        }
        self.sweep();
        self.forget_the_oldest();
        for _ in 0..ROUNDS_MAX {
            let all = self.turn_wheel();
            let action = self.actions.pop_front().or_else(|| self.next_attempt().map(Action::Attempt));
            if action.is_some() || all {
                return action;
            }
        }
        None
    }

    /// Puts legs into their lanes whose time has come. True: all there are.
    fn turn_wheel(&mut self) -> bool {
        let mut looks = LOOKS_MAX;
        while let Some(leg) = self.wheel.due(&mut self.legs, self.now.tick, &mut looks) {
            self.put(leg, Place::Ready);
            self.recount(self.legs[leg].message);
        }
        looks > 0
    }

    fn next_attempt(&mut self) -> Option<Attempt> {
        for ring in [self.ring, 1 - self.ring] {
            if ring == 0 && self.local_active >= self.options.attempts_max {
                continue;
            }
            if let Some(lane) = self.lanes.turn(ring) {
                self.ring = 1 - ring;
                let leg = self.lanes[lane].pick(&self.legs)?;
                return Some(self.begin(leg));
            }
        }
        None
    }

    fn begin(&mut self, leg: u32) -> Attempt {
        let lane = self.legs[leg].lane;
        self.put(leg, Place::Active);
        let destination = &mut self.lanes[lane];
        destination.moved = self.now.tick;
        if destination.kind == Kind::Remote {
            destination.holding.busy += 1;
            destination.holding.messages -= 1;
            self.legs[leg].set(Leg::LEASED, true);
        } else {
            self.local_active += 1;
            self.legs[leg].set(Leg::LOCAL, true);
        }
        let destination = destination.name.clone();
        let message = self.legs[leg].message;
        let (attempts, recipients) = (self.legs[leg].attempts, self.pending(leg));
        let again = attempts > 0 || self.messages[message].has(Message::RECOVERED);
        let id = self.messages[message].id();
        let leg = self.next_turn(leg);
        self.recount(message);
        self.arrange(lane);
        Attempt { id, leg, destination, recipients, number: u32::from(attempts) + 1, again }
    }

    /// The id of what is under way with a leg from now on.
    pub(crate) fn next_turn(&mut self, leg: u32) -> LegId {
        let record = &mut self.legs[leg];
        record.turn = record.turn.wrapping_add(1);
        LegId { slot: leg, turn: record.turn }
    }

    /// When [`Queue::next`] may have something, if nothing else happens before. It may be too early, and then be asked again.
    pub fn next_due(&self) -> Option<Tick> {
        let dead = self.next_forgotten();
        let times = [self.wheel.next_due(&self.legs), self.lanes.next_timer(), self.sweep_at, dead];
        let now = (!self.actions.is_empty()).then_some(self.now.tick);
        times.into_iter().chain([now]).flatten().min()
    }

    /// Messages accepted and not settled.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> usize {
        self.active
    }

    /// Messages that wait for a later attempt.
    pub fn deferred(&self) -> usize {
        self.by_state[State::Deferred as usize]
    }

    /// Messages that an operator holds.
    pub fn held(&self) -> usize {
        self.by_state[State::Held as usize]
    }

    /// Messages that could be neither delivered nor reported.
    pub fn dead(&self) -> usize {
        self.by_state[State::Dead as usize]
    }

    pub(crate) fn see(&mut self, now: Now) {
        self.now = Now { wall: now.wall, tick: now.tick.max(self.now.tick) };
    }

    /// The place of a message.
    pub(crate) fn find(&self, id: SpoolId) -> Option<u32> {
        self.order.find(id, |place| self.messages[place].id())
    }

    /// The legs of a message.
    pub(crate) fn legs_of(&self, message: u32) -> impl Iterator<Item = u32> + '_ {
        let some = |leg: u32| (leg != NONE).then_some(leg);
        std::iter::successors(some(self.messages[message].first_leg), move |leg| some(self.legs[*leg].sibling))
    }

    pub(crate) fn extra(&self, message: u32) -> Option<&Extra> {
        self.messages[message].has(Message::EXTRA).then(|| self.extras.get(&message)).flatten().map(|extra| &**extra)
    }

    pub(crate) fn extra_mut(&mut self, message: u32) -> &mut Extra {
        self.messages[message].set(Message::EXTRA, true);
        self.extras.entry(message).or_default()
    }

    /// Recipients of a leg that are left, ascending.
    pub(crate) fn pending(&self, leg: u32) -> Vec<u32> {
        let message = self.legs[leg].message;
        if self.legs[leg].has(Leg::WHOLE) {
            return (0..self.messages[message].recipients).collect();
        }
        self.listed(leg).map(<[u32]>::to_vec).unwrap_or_default()
    }

    pub(crate) fn pending_len(&self, leg: u32) -> usize {
        match self.legs[leg].has(Leg::WHOLE) {
            true => self.messages[self.legs[leg].message].recipients as usize,
            false => self.listed(leg).map_or(0, <[u32]>::len),
        }
    }

    /// Whether a recipient is to be served by the attempt under way, or by the next.
    pub(crate) fn is_pending(&self, leg: u32, recipient: u32) -> bool {
        match self.legs[leg].has(Leg::WHOLE) {
            true => recipient < self.messages[self.legs[leg].message].recipients,
            false => self.listed(leg).is_some_and(|list| list.binary_search(&recipient).is_ok()),
        }
    }

    fn listed(&self, leg: u32) -> Option<&[u32]> {
        let extra = self.extra(self.legs[leg].message)?;
        extra.lists.iter().find(|(of, _)| *of == leg).map(|(_, list)| list.as_slice())
    }

    /// Says which recipients of a leg are left, ascending.
    pub(crate) fn set_pending(&mut self, leg: u32, recipients: Vec<u32>) {
        let message = self.legs[leg].message;
        let whole = recipients.len() == self.messages[message].recipients as usize && !recipients.is_empty();
        self.legs[leg].set(Leg::WHOLE, whole);
        if (whole || recipients.is_empty()) && !self.messages[message].has(Message::EXTRA) {
            return;
        }
        let lists = &mut self.extra_mut(message).lists;
        lists.retain(|(of, _)| *of != leg);
        if !whole && !recipients.is_empty() {
            lists.push((leg, recipients));
        }
    }

    /// Puts a leg somewhere else, and counts it there.
    pub(crate) fn put(&mut self, leg: u32, to: Place) {
        let Leg { lane: at, message, place: from, .. } = self.legs[leg];
        let (lane, tick) = (&mut self.lanes[at], self.now.tick);
        let priority = if message == NONE { Default::default() } else { self.messages[message].priority };
        match from {
            Place::Ready => {
                lane.ready[priority as usize] -= 1;
                self.ready -= 1;
            }
            Place::Waiting => {
                lane.deferred -= 1;
                self.waiting -= 1;
            }
            Place::Active => {
                lane.active -= 1;
                self.active -= 1;
            }
            Place::Parked => lane.held -= 1,
            Place::Nowhere | Place::Over => {}
        }
        self.legs.unlink(leg);
        self.legs[leg].place = to;
        match to {
            Place::Ready => {
                if lane.ready() == 0 {
                    lane.moved = tick;
                }
                lane.ready[priority as usize] += 1;
                self.ready += 1;
                self.legs.push_back(lane.queue(priority), leg);
                self.arrange(at);
            }
            Place::Waiting => {
                lane.deferred += 1;
                self.waiting += 1;
                self.wheel.insert(&mut self.legs, leg, tick);
            }
            Place::Active => {
                lane.active += 1;
                self.active += 1;
            }
            Place::Parked => lane.held += 1,
            Place::Nowhere | Place::Over => {}
        }
    }

    /// Has a leg that is not over wait for its turn, or for its message to be released.
    pub(crate) fn make_ready(&mut self, leg: u32) {
        let held = self.messages[self.legs[leg].message].has(Message::HELD);
        self.put(leg, if held { Place::Parked } else { Place::Ready });
    }

    /// Has a leg wait for so long, but not beyond the time when its message is given up; says how long it is.
    pub(crate) fn put_off(&mut self, leg: u32, wait: Duration) -> Duration {
        let message = &self.messages[self.legs[leg].message];
        let left = units_in(self.options.expire_after.0).saturating_sub(message.made.units_until(self.now.tick));
        let units = units_in(wait).min(left).max(1);
        if message.has(Message::HELD) {
            self.put(leg, Place::Parked);
            return span_of(units);
        }
        self.legs[leg].due = Moment::at(unit_of(self.now.tick) + u64::from(units));
        self.put(leg, Place::Waiting);
        span_of(units)
    }

    /// Whether a message is to be given up.
    pub(crate) fn is_expired(&self, message: u32) -> bool {
        let message = &self.messages[message];
        message.made.units_until(self.now.tick) >= units_in(self.options.expire_after.0) && !message.has(Message::HELD)
    }

    pub(crate) fn age(&self, message: u32, now: Tick) -> Duration {
        span_of(self.messages[message].made.units_until(now))
    }

    /// Counts a message in the state in which it is now.
    pub(crate) fn recount(&mut self, message: u32) {
        let state = self.state_of(message);
        let counted = std::mem::replace(&mut self.messages[message].counted, state);
        self.by_state[counted as usize] -= 1;
        self.by_state[state as usize] += 1;
    }

    pub(crate) fn state_of(&self, message: u32) -> State {
        if self.messages[message].has(Message::HELD) {
            return State::Held;
        }
        if self.messages[message].has(Message::UNREADABLE) {
            return State::Dead;
        }
        let mut found = None;
        for leg in self.legs_of(message) {
            match self.legs[leg].place {
                Place::Active => return State::Active,
                Place::Ready => found = Some(State::Ready),
                Place::Waiting if found.is_none() => found = Some(State::Deferred),
                _ => {}
            }
        }
        let reporting = |extra: &Extra| !extra.reporting.is_empty() || extra.dead.is_empty();
        found.unwrap_or_else(|| if self.extra(message).is_none_or(reporting) { State::Active } else { State::Dead })
    }

    /// Takes a message out, with all that is kept of it. Attempts under way go on, for nothing.
    pub(crate) fn remove(&mut self, message: u32) {
        let id = self.messages[message].id();
        let legs: Vec<_> = self.legs_of(message).collect();
        if let Some(extra) = self.extra(message) {
            self.dead.remove(&(extra.buried_tick, id));
        }
        self.unbury_all(message);
        for leg in legs {
            match self.legs[leg].place {
                Place::Active => self.legs[leg].message = NONE,
                _ => self.free_leg(leg),
            }
        }
        self.order.remove(id, |place| self.messages[place].id());
        let Message { counted, priority, .. } = self.messages[message];
        self.by_state[counted as usize] -= 1;
        self.by_priority[priority as usize] -= 1;
        if self.messages[message].has(Message::EXTRA) {
            self.extras.remove(&message);
        }
        self.messages[message] = Message::default();
        self.messages.free(message);
    }

    /// Frees a leg's record.
    pub(crate) fn free_leg(&mut self, leg: u32) {
        let lane = self.legs[leg].lane;
        self.put(leg, Place::Nowhere);
        self.legs.free(leg);
        self.lanes[lane].legs -= 1;
        self.arrange(lane);
    }

    /// Doubles with every failed attempt up to the longest wait, and is off by some of it.
    pub(crate) fn backoff(&mut self, attempts: u32) -> Duration {
        let Options { retry_first, retry_max, retry_jitter_percent, .. } = self.options;
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let wait = retry_first.0.checked_mul(factor).unwrap_or(Duration::MAX).min(retry_max.0);
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let off = nanos / 100 * u64::from(retry_jitter_percent.min(100));
        // All of the range, also at the longest wait: there it is below it.
        let highest = nanos.saturating_add(off).min(u64::try_from(retry_max.0.as_nanos()).unwrap_or(u64::MAX));
        let lowest = highest.saturating_sub(off.saturating_mul(2));
        let range = u128::from(highest - lowest) + 1;
        let part = (u128::from(self.draw()) * range) >> 64;
        Duration::from_nanos(lowest + part as u64)
    }

    /// The next of a row of numbers that look random (SplitMix64), from the entropy of the start.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn destination(&self, leg: u32) -> &Rc<str> {
        &self.lanes[self.legs[leg].lane].name
    }
}
