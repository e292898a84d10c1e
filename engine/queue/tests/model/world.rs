//! The shards, the owner, what goes between them, and what happens to them.

use crate::mail::{Fate, KINDS, Mail, is_local, route};
use ringpost_base::{Entropy, MessageIds, Now, Priority, ShardId, Span, SpoolId, Tick, Timestamp};
use ringpost_queue::{
    Action, Asked, Attempt, Changed, DestinationHash, DestinationOptions, Destinations, How, Lease, LeaseReport, LegId,
    Options, Outcome, Queue, Reason, RecipientState, RecipientView, Status, Verdict,
};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

const SHARDS: usize = 3;
const NAMES: [&str; 5] = ["local-a", "local-b", "hop-1", "hop-2", "hop-3"];
const LOCAL_MAX: usize = 4;
const EXPIRE: Duration = Duration::from_secs(7200);
const DELAY: Duration = Duration::from_secs(1200);
const RATE: u32 = 60;

/// Times are kept in units of 16.8 ms, and a time is the sum of two.
const BLUR: i128 = 40_000_000;

/// What a shard has sent to the owner.
enum Question {
    Lease { destination: Rc<str>, held: u32 },
    Release { destination: Rc<str>, slots: u32, report: LeaseReport },
}

/// What the owner has sent to a shard.
enum Answer {
    Lease { destination: Rc<str>, lease: Lease },
    Freed { destination: Rc<str> },
}

struct UnderWay {
    leg: LegId,
    id: SpoolId,
    destination: Rc<str>,
    recipients: Vec<u32>,
    begun: Tick,
    /// Not tried, but to be given up for this.
    expires: Option<Reason>,
}

/// Failures at one destination that are to be reported.
struct Reporting {
    id: SpoolId,
    at: &'static str,
    hash: DestinationHash,
    failed: Vec<(u32, Reason)>,
}

struct Shard {
    queue: Queue,
    ids: MessageIds,
    questions: VecDeque<Question>,
    answers: VecDeque<Answer>,
    under_way: Vec<UnderWay>,
    reports: Vec<Reporting>,
}

pub(crate) struct World {
    random: u64,
    now: Now,
    shards: Vec<Shard>,
    owner: Destinations,
    mail: BTreeMap<SpoolId, Mail>,
    version: u32,
    /// Attempts at the destination with a rate.
    sent: Vec<Tick>,
    /// Everything works.
    calm: bool,
}

fn options() -> Options {
    Options {
        retry_first: Span::seconds(5),
        retry_max: Span::seconds(600),
        retry_jitter_percent: 10,
        attempts_max: LOCAL_MAX,
        expire_after: Span(EXPIRE),
        delay_notice: Some(Span(DELAY)),
        dead_letters_keep: Span::seconds(10_000),
        dead_letters_max: 10,
    }
}

fn concurrency(destination: &str) -> u32 {
    match destination {
        "hop-1" => 2,
        "hop-2" => 5,
        _ => 1,
    }
}

fn owner() -> Destinations {
    let mut owner = Destinations::new();
    let remote = NAMES.iter().filter(|name| !is_local(name)).map(|name| {
        let options = DestinationOptions {
            concurrency: concurrency(name),
            messages_per_minute: (*name == "hop-2").then_some(RATE),
            breaker_failures: if *name == "hop-3" { 3 } else { 0 },
            breaker_pause: Span::seconds(20),
            breaker_pause_max: Span::seconds(100),
            lease_messages: 5,
        };
        (Rc::from(*name), options)
    });
    owner.configure(remote);
    owner
}

fn reason(text: &str, class: u8) -> Reason {
    Reason { code: 0, status: Status(class, 0, 0), text: text.into(), remote: None }
}

fn name_of(destination: &str) -> &'static str {
    NAMES.into_iter().find(|name| *name == destination).expect("one of the destinations")
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let shard = |n: usize| Shard {
            queue: Queue::new(options(), Entropy([n as u8; 16])),
            ids: MessageIds::new(ShardId(n as u16), Entropy([seed as u8; 16])),
            questions: VecDeque::new(),
            answers: VecDeque::new(),
            under_way: Vec::new(),
            reports: Vec::new(),
        };
        Self {
            random: seed,
            now: Now { wall: Timestamp::from_unix_micros(1 << 50), tick: Tick::from_nanos(1 << 36) },
            shards: (0..SHARDS).map(shard).collect(),
            owner: owner(),
            mail: BTreeMap::new(),
            version: 0,
            sent: Vec::new(),
            calm: false,
        }
    }

    /// One below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn trouble(&mut self, percent: u64) -> bool {
        !self.calm && self.below(100) < percent
    }

    pub(crate) fn step(&mut self) {
        let at = self.below(SHARDS as u64) as usize;
        match self.below(1000) {
            0..200 => self.push(at),
            200..500 => self.pump(at),
            500..650 => self.exchange(at),
            650..800 => self.finish_one(at),
            800..860 => self.report_one(at),
            860..900 => self.operate(at),
            900..990 => self.pass_time(),
            990..994 => self.reconfigure(),
            994..997 => self.jump(),
            _ => self.restart(),
        }
    }

    fn push(&mut self, at: usize) {
        let id = self.shards[at].ids.next(self.now.wall);
        let kinds = (0..=self.below(4)).map(|_| self.below(KINDS) as u8).collect();
        let priority = Priority::ALL[self.below(3) as usize];
        let mut mail = Mail::new(at, priority, self.below(10) == 0, kinds);
        mail.pushed(id, false, self.version, self.now);
        let pushed = self.shards[at].queue.push(mail.item(id, false, self.version), self.now);
        assert!(pushed.new && !pushed.damaged);
        let again = self.shards[at].queue.push(mail.item(id, false, self.version), self.now);
        assert!(!again.new);
        self.mail.insert(id, mail);
    }

    /// Does what a queue wants done.
    fn pump(&mut self, at: usize) {
        while let Some(action) = self.shards[at].queue.next(self.now) {
            match action {
                Action::Attempt(attempt) => self.begin(at, attempt),
                Action::Lease { destination, held } => {
                    self.shards[at].questions.push_back(Question::Lease { destination, held });
                }
                Action::Release { destination, slots, report } => {
                    self.shards[at].questions.push_back(Question::Release { destination, slots, report });
                }
                Action::Expire { id, leg, recipients, reason } => {
                    let mail = &self.mail[&id];
                    assert!(mail.age(self.now) >= EXPIRE.as_nanos() as i128 - BLUR && !mail.held);
                    let destination = Rc::from("");
                    self.shards[at].under_way.push(UnderWay {
                        leg,
                        id,
                        destination,
                        recipients,
                        begun: self.now.tick,
                        expires: Some(reason),
                    });
                }
                Action::Delay { id, recipients } => {
                    self.told_of_delay(id, &recipients);
                    self.note(at, id);
                }
                Action::Forget { id, .. } => self.forget(id),
            }
        }
        let due = self.shards[at].queue.next_due();
        assert!(due.is_none_or(|due| due > self.now.tick), "something is due, and nothing came");
    }

    /// Where recipients were going that have just been given up without an attempt, which the action does not say.
    fn given_up_at(&self, at: usize, under_way: &UnderWay) -> Rc<str> {
        let mail = &self.mail[&under_way.id];
        let views = self.shards[at].queue.recipients(under_way.id);
        let reporting = |number: u32, name: &str| {
            let here = |view: &&RecipientView| view.number == number && view.destination.as_deref() == Some(name);
            views.iter().filter(here).any(|view| view.state == RecipientState::Reporting)
        };
        let newly = |name: &&&str| {
            let pending = mail.pending_at(name);
            under_way.recipients.iter().all(|number| pending.contains(number) && reporting(*number, name))
        };
        Rc::from(*NAMES.iter().find(newly).expect("they were going somewhere"))
    }

    fn begin(&mut self, at: usize, attempt: Attempt) {
        let Attempt { id, leg, destination, recipients, .. } = attempt;
        let mail = self.mail.get(&id).expect("known");
        assert_eq!(mail.shard, at);
        assert!(!mail.held, "what is held rests");
        assert_eq!(recipients, mail.pending_at(&destination), "{id} to {destination}: {mail:?}");
        let same = |other: &UnderWay| other.id == id && other.destination == destination;
        assert!(!self.shards[at].under_way.iter().any(same), "two attempts at once");
        self.shards[at].under_way.push(UnderWay {
            leg,
            id,
            destination: destination.clone(),
            recipients,
            begun: self.now.tick,
            expires: None,
        });
        let of = |shard: &Shard, fits: &dyn Fn(&str) -> bool| {
            shard.under_way.iter().filter(|other| other.expires.is_none() && fits(&other.destination)).count()
        };
        if is_local(&destination) {
            assert!(of(&self.shards[at], &is_local) <= LOCAL_MAX);
        } else {
            let all: usize = self.shards.iter().map(|shard| of(shard, &|name| *name == *destination)).sum();
            assert!(all <= concurrency(&destination) as usize, "{all} attempts at {destination}");
        }
        if &*destination == "hop-2" {
            self.sent.push(self.now.tick);
        }
    }

    /// Carries what a shard has asked to the owner, and what the owner has said to shards; and loses some of it.
    fn exchange(&mut self, at: usize) {
        while let Some(question) = self.shards[at].questions.pop_front() {
            match question {
                Question::Lease { destination, held } => {
                    let lost = self.trouble(5);
                    let mut lease = Lease::Wait { span: Duration::from_secs(1), open: false };
                    if !lost {
                        lease = self.owner.lease(ShardId(at as u16), &destination, held, self.now.tick);
                    }
                    if self.trouble(5) {
                        lease = Lease::Wait { span: Duration::from_secs(1), open: false };
                    }
                    self.shards[at].answers.push_back(Answer::Lease { destination, lease });
                }
                Question::Release { destination, slots, report } => {
                    let told = self.owner.release(ShardId(at as u16), &destination, slots, report, self.now.tick);
                    for shard in told {
                        if !self.trouble(5) {
                            let destination = destination.clone();
                            self.shards[shard.index()].answers.push_back(Answer::Freed { destination });
                        }
                    }
                }
            }
        }
        for shard in &mut self.shards {
            while let Some(answer) = shard.answers.pop_front() {
                match answer {
                    Answer::Lease { destination, lease } => shard.queue.leased(&destination, lease, self.now),
                    Answer::Freed { destination } => shard.queue.freed(&destination),
                }
            }
        }
        for view in self.owner.view(self.now.tick) {
            assert!(view.in_use <= view.concurrency, "{view:?}");
        }
    }

    fn finish_one(&mut self, at: usize) {
        let count = self.shards[at].under_way.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.below(count) as usize;
        let mut under_way = self.shards[at].under_way.swap_remove(which);
        let hop_failed = under_way.expires.is_none() && self.trouble(20);
        let outcomes = self.outcomes(&under_way, hop_failed);
        let asked = self.asked(&under_way, &outcomes, hop_failed);
        let verdict = self.shards[at].queue.outcome(under_way.leg, &outcomes, asked, self.now);
        let id = under_way.id;
        if self.mail.get(&id).is_none_or(|mail| mail.lingering) {
            return assert!(verdict.unknown, "it was dropped meanwhile");
        }
        assert!(!verdict.unknown);
        if under_way.expires.is_some() {
            under_way.destination = self.given_up_at(at, &under_way);
        }
        self.agree(&under_way, &outcomes, &verdict.failed);
        if !verdict.failed.is_empty() {
            let Verdict { destination: hash, failed, .. } = verdict.clone();
            let name = name_of(&under_way.destination);
            self.shards[at].reports.push(Reporting { id, at: name, hash, failed });
        }
        if !verdict.delayed.is_empty() {
            assert!(verdict.state_changed);
            self.told_of_delay(id, &verdict.delayed);
        }
        let mail = &self.mail[&id];
        assert_eq!(verdict.settled, mail.is_over(), "{id}: {mail:?}");
        let waits = self.shards[at].queue.show(id, self.now).is_some();
        assert_eq!(waits, !verdict.settled);
        if verdict.settled {
            self.settled(id);
        } else if verdict.state_changed {
            self.note(at, id);
        }
    }

    /// A destination was asked, unless everybody goes elsewhere, or something came in between.
    fn asked(&mut self, under_way: &UnderWay, outcomes: &[(u32, Outcome)], hop_failed: bool) -> Asked {
        let moves = |(_, outcome): &(u32, Outcome)| matches!(outcome, Outcome::Moved { .. });
        let all_move = !outcomes.is_empty() && outcomes.iter().all(moves);
        let waits = |(_, outcome): &(u32, Outcome)| matches!(outcome, Outcome::Deferred(_));
        let cut_short = all_move || outcomes.iter().all(waits) && self.trouble(30);
        if !cut_short {
            return Asked::of(hop_failed);
        }
        if &*under_way.destination == "hop-2" {
            let begun = self.sent.iter().position(|begun| *begun == under_way.begun);
            self.sent.remove(begun.expect("it was counted"));
        }
        Asked::Not
    }

    fn outcomes(&mut self, under_way: &UnderWay, hop_failed: bool) -> Vec<(u32, Outcome)> {
        if let Some(reason) = &under_way.expires {
            return under_way.recipients.iter().map(|number| (*number, Outcome::Failed(reason.clone()))).collect();
        }
        let mut outcomes = Vec::new();
        for number in under_way.recipients.clone() {
            let kind = self.mail.get(&under_way.id).map_or(0, |mail| mail.kinds[number as usize]);
            let routes = route(kind, self.version);
            let outcome = match self.below(100) {
                _ if !routes.contains(&&*under_way.destination) => {
                    Outcome::Moved { destination: routes[0].into(), local: is_local(routes[0]) }
                }
                _ if hop_failed => Outcome::Deferred(reason("unreachable", 4)),
                _ if self.calm => Outcome::Delivered(How::Final),
                0..45 => Outcome::Delivered(How::Final),
                45..80 => Outcome::Deferred(reason("busy", 4)),
                80..92 => Outcome::Failed(reason("nobody", 5)),
                _ => continue,
            };
            outcomes.push((number, outcome));
        }
        outcomes
    }

    /// Has the model know of the outcomes, and looks whether the queue gave up whom it had to, and nobody else.
    fn agree(&mut self, under_way: &UnderWay, outcomes: &[(u32, Outcome)], failed: &[(u32, Reason)]) {
        let now = self.now;
        let mail = self.mail.get_mut(&under_way.id).expect("known");
        let age = mail.age(now);
        let destination = name_of(&under_way.destination);
        for number in &under_way.recipients {
            let given_up = failed.iter().any(|(of, _)| of == number);
            let outcome = outcomes.iter().find(|(of, _)| of == number).map(|(_, outcome)| outcome);
            let fate = match outcome {
                Some(Outcome::Delivered(_)) => Fate::Served,
                Some(Outcome::Failed(_)) => Fate::Reporting,
                Some(Outcome::Moved { .. }) => Fate::Moved,
                Some(Outcome::Deferred(_)) | None if given_up => Fate::Reporting,
                Some(Outcome::Deferred(_)) | None => Fate::Pending,
            };
            assert_eq!(given_up, fate == Fate::Reporting);
            if matches!(outcome, Some(Outcome::Deferred(_)) | None) {
                let expire = EXPIRE.as_nanos() as i128;
                assert!(!given_up || age >= expire - BLUR && !mail.held, "given up at {age}");
                assert!(given_up || age <= expire + BLUR || mail.held, "kept at {age}");
            }
            mail.fates.insert((*number, destination), fate);
            if let Some(Outcome::Moved { destination, .. }) = outcome {
                let there = mail.fates.entry((*number, name_of(destination))).or_insert(Fate::Pending);
                if *there == Fate::Moved {
                    *there = Fate::Pending;
                }
            }
        }
    }

    fn told_of_delay(&mut self, id: SpoolId, recipients: &[(u32, Reason)]) {
        let mail = self.mail.get_mut(&id).expect("known");
        assert!(!mail.delay_told && !mail.null_sender && !mail.held, "{mail:?}");
        assert!(mail.age(self.now) >= DELAY.as_nanos() as i128 - BLUR && !recipients.is_empty());
        mail.delay_told = true;
    }

    fn report_one(&mut self, at: usize) {
        let count = self.shards[at].reports.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.below(count) as usize;
        let Reporting { id, at: name, hash, failed } = self.shards[at].reports.swap_remove(which);
        let numbers: Vec<u32> = failed.iter().map(|(number, _)| *number).collect();
        let bury = self.trouble(30);
        let settled = match bury {
            true => self.shards[at].queue.bury(id, hash, &failed),
            false => self.shards[at].queue.reported(id, hash, &numbers),
        };
        let Some(mail) = self.mail.get_mut(&id).filter(|mail| !mail.lingering) else {
            return assert!(!settled, "it was dropped meanwhile");
        };
        for number in numbers {
            let before = mail.fates.insert((number, name), if bury { Fate::Buried } else { Fate::Reported });
            assert_eq!(before, Some(Fate::Reporting));
        }
        self.check_fates(at, id);
        assert_eq!(
            settled,
            self.mail[&id].is_over(),
            "{id} {failed:?} {:?} {:?}",
            self.mail[&id],
            self.shards[at].queue.recipients(id)
        );
        if settled { self.settled(id) } else { self.note(at, id) }
    }

    /// The queue says of every recipient what the model knows.
    fn check_fates(&self, at: usize, id: SpoolId) {
        for view in self.shards[at].queue.recipients(id) {
            let Some(destination) = &view.destination else { continue };
            let fate = self.mail[&id].fates.get(&(view.number, name_of(destination)));
            let agrees = match view.state {
                RecipientState::Pending => fate == Some(&Fate::Pending),
                RecipientState::Reporting => fate == Some(&Fate::Reporting),
                RecipientState::Dead => fate == Some(&Fate::Buried),
                // Where it was done before its routes changed, the model may have forgotten.
                RecipientState::Done => !matches!(fate, Some(Fate::Pending | Fate::Reporting | Fate::Buried)),
            };
            assert!(agrees, "{id} {view:?} {fate:?}");
        }
    }

    fn note(&mut self, at: usize, id: SpoolId) {
        let mail = self.mail.get_mut(&id).expect("known");
        mail.noted = self.shards[at].queue.state(id);
        (mail.noted_fates, mail.noted_held) = (mail.fates.clone(), mail.held);
    }

    /// The spool is told to let a message go; sometimes that is lost.
    fn settled(&mut self, id: SpoolId) {
        if self.trouble(10) {
            let mail = self.mail.get_mut(&id).expect("known");
            mail.lingering = true;
        } else {
            self.mail.remove(&id);
        }
    }

    fn forget(&mut self, id: SpoolId) {
        let mail = &self.mail[&id];
        assert!(mail.is_dead() || mail.is_over(), "{id}: {mail:?}");
        self.settled(id);
    }

    fn operate(&mut self, at: usize) {
        // One of which a restart finds nothing left to do is gone from the queue before it says so.
        let is_own = |mail: &Mail| mail.shard == at && !mail.lingering && !mail.is_over();
        let own: Vec<SpoolId> = self.mail.iter().filter(|(_, mail)| is_own(mail)).map(|(id, _)| *id).collect();
        if own.is_empty() {
            return;
        }
        let id = own[self.below(own.len() as u64) as usize];
        let order = self.below(12);
        if order >= 10 {
            return self.reroute(at, id);
        }
        let queue = &mut self.shards[at].queue;
        let mail = self.mail.get_mut(&id).expect("known");
        let changed = match order {
            0..3 => {
                let changed = queue.hold(id, self.now);
                mail.held |= changed == Changed::Yes;
                changed
            }
            3..6 => {
                let changed = queue.release(id, self.now);
                assert_eq!(changed == Changed::Yes, mail.held);
                mail.held = false;
                changed
            }
            6..9 => {
                let changed = queue.retry(id, self.now);
                if changed == Changed::Yes {
                    mail.fates
                        .values_mut()
                        .filter(|fate| **fate == Fate::Buried)
                        .for_each(|fate| *fate = Fate::Pending);
                }
                changed
            }
            _ => {
                assert!(queue.drop_message(id));
                self.mail.remove(&id);
                return;
            }
        };
        assert_ne!(changed, Changed::Unknown);
        if changed == Changed::Yes {
            self.note(at, id);
        }
    }

    /// Has a message be routed anew, as after a change of the configuration.
    fn reroute(&mut self, at: usize, id: SpoolId) {
        let shard = &mut self.shards[at];
        let under_way = shard.under_way.iter().any(|other| other.id == id);
        let reported = shard.reports.iter().any(|other| other.id == id);
        let mail = self.mail.get_mut(&id).expect("known");
        let item = mail.item(id, false, self.version);
        let rerouted = shard.queue.reroute(id, item, self.now);
        assert_eq!(rerouted, !under_way && !reported);
        if rerouted {
            mail.rerouted(self.version);
            self.check_fates(at, id);
        }
    }

    fn pass_time(&mut self) {
        let millis = match self.below(10) {
            0..6 => self.below(2000),
            6..9 => self.below(30_000),
            _ => self.below(600_000),
        };
        self.pass(Duration::from_millis(millis));
    }

    fn pass(&mut self, span: Duration) {
        self.now = Now { wall: self.now.wall.after(span), tick: self.now.tick.deadline(span).0 };
    }

    fn reconfigure(&mut self) {
        self.version += 1;
        for shard in &mut self.shards {
            shard.queue.configure(options(), &|name| Some(is_local(name)));
        }
    }

    fn jump(&mut self) {
        let span = Duration::from_secs(self.below(3000));
        let micros = self.now.wall.unix_micros();
        let back = micros - span.as_micros() as u64;
        self.now.wall = if self.below(2) == 0 { self.now.wall.after(span) } else { Timestamp::from_unix_micros(back) };
    }

    /// Everything ends, whatever is under way, and begins again from what the spools have.
    fn restart(&mut self) {
        self.check_rate();
        self.owner = owner();
        for (at, shard) in self.shards.iter_mut().enumerate() {
            shard.queue = Queue::new(options(), Entropy([at as u8; 16]));
            (shard.questions, shard.answers) = Default::default();
            (shard.under_way, shard.reports) = Default::default();
        }
        for (id, mail) in &mut self.mail {
            mail.pushed(*id, true, self.version, self.now);
            let pushed = self.shards[mail.shard].queue.push(mail.item(*id, true, self.version), self.now);
            assert!(pushed.new && !pushed.damaged);
        }
    }

    /// In no time were there more messages than the rate allows in it, a minute's worth at once, and what leases were
    /// given for in the minute before.
    fn check_rate(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        for (first, from) in sent.iter().enumerate() {
            for (count, until) in (1..).zip(&sent[first..]) {
                let allowed = RATE as f64 * (2.0 + until.since(*from).as_secs_f64() / 60.0) + 1.0;
                assert!(f64::from(count) <= allowed, "{count} in {:?}", until.since(*from));
            }
        }
    }

    /// No more trouble: everything comes to an end.
    pub(crate) fn settle_all(&mut self) {
        self.calm = true;
        self.mail.retain(|_, mail| !mail.lingering);
        let held: Vec<_> = self.mail.iter().filter(|(_, mail)| mail.held).map(|(id, mail)| (*id, mail.shard)).collect();
        for (id, at) in held {
            assert_eq!(self.shards[at].queue.release(id, self.now), Changed::Yes);
            self.mail.get_mut(&id).expect("known").held = false;
        }
        for _ in 0..100_000 {
            for at in 0..SHARDS {
                self.pump(at);
                self.exchange(at);
                self.finish_one(at);
                self.report_one(at);
            }
            let idle =
                |shard: &Shard| shard.under_way.is_empty() && shard.reports.is_empty() && shard.questions.is_empty();
            if !self.shards.iter().all(idle) {
                continue;
            }
            (0..SHARDS).for_each(|at| self.pump(at));
            if !self.shards.iter().all(idle) {
                continue;
            }
            match self.shards.iter().filter_map(|shard| shard.queue.next_due()).min() {
                Some(due) => self.pass(due.since(self.now.tick)),
                None => break,
            }
        }
        assert!(self.mail.is_empty(), "these have no end: {:?}", self.mail);
        for view in self.owner.view(self.now.tick) {
            assert_eq!(view.in_use, 0, "{view:?}");
        }
        for shard in &self.shards {
            let totals = shard.queue.totals();
            assert_eq!((totals.messages(), totals.by_priority, shard.queue.in_flight()), (0, [0; 3], 0));
            for lane in totals.destinations {
                let counts = [lane.ready, lane.deferred, lane.active, lane.held, lane.dead_recipients, lane.slots];
                assert_eq!(counts, [0; 6], "{}", lane.destination);
            }
        }
        self.check_rate();
    }
}
