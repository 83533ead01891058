//! One queue.
//!
//! A queue may have a hundred thousand consumers, so nothing here looks through all sessions: those that may have room
//! are on a list. What all queues share (bounds, deadlines) is given to each call as [`Common`].
//!
//! Invariant: `messages` and `bytes`, and what `held` says of each holder, are the sums over waiting, unsettled, leaving
//! and parked messages; a session with room is on the list; the first message that waits is one that nobody on the list
//! has room for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::{FixedState, RandomState};

use crate::broker::queue::bounds::{Bounds, MessageBytes, Messages};
use crate::broker::queue::dead::Dead;
use crate::broker::queue::deadlines::{self, Deadlines, Due};
use crate::broker::queue::session::{Attention, Session, Unsettled};
use crate::broker::queue::{
    ConsumerKey, DEAD_LETTER_PAUSE_MS, DEAD_LETTERS, DeadLetter, Effects, Full, Offer, QueueLook, Settlement,
};
use crate::limits;
use crate::message::destination::Destination;
use crate::message::{Message, MessageId};
use crate::share::{self, Account};
use crate::time::Tick;

/// Entries that a queue's list may have beside two for each session: those of sessions that have gone stay on it.
#[cfg(not(test))]
const GONE_MAX: usize = 16;
#[cfg(test)]
const GONE_MAX: usize = 1;

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Queued<H> {
    /// Place in the queue's order of arrival.
    pub sequence: u64,
    /// Deliveries that came back.
    pub returns: u32,
    /// On whose account it is held.
    pub holder: H,
    pub message: Message,
}

/// What all queues of a shard share.
#[derive(Debug)]
pub(super) struct Common<S, H> {
    pub limits: limits::Rooms,
    pub bounds: Bounds<H>,
    pub deadlines: Deadlines<S>,
}

impl<S: Copy + Ord, H: Copy + Eq + Hash> Common<S, H> {
    /// Messages of one queue that one session may have: never more than half of what the queue may keep, or one.
    fn prefetch_max(&self) -> usize {
        self.limits.prefetch_max.min(self.limits.queue_messages_max / 2).max(1) as usize
    }

    fn ack_deadline(&self, offered: Tick) -> Tick {
        offered.after_ms(u64::from(self.limits.ack_timeout_s) * 1000)
    }

    fn idle_deadline(&self, changed: Tick) -> Tick {
        changed.after_ms(u64::from(self.limits.queue_idle_s) * 1000)
    }
}

/// What a holder has of one queue.
#[derive(Debug, Default)]
struct Part {
    messages: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Queue<C: ConsumerKey, H> {
    pub key: Arc<str>,
    /// Its place in the table.
    pub place: u32,
    /// Who made it.
    pub holder: H,
    epoch: u64,
    sequence: u64,
    serial: u64,
    waiting: VecDeque<Queued<H>>,
    /// Messages that were refused too often; most queues have none.
    dead: Option<Box<Dead<H>>>,
    /// By what no peer can choose so that it collides.
    sessions: HashMap<C::Session, Session<C, H>, FixedState>,
    /// Sessions whose attention is not lost.
    attentive: usize,
    /// Whose turn it is, and in which stay; some on it have gone.
    ready: VecDeque<(C::Session, u64)>,
    /// The message that nobody on it has room for.
    stuck: Option<u64>,
    /// Hashed with random keys, as peers may choose their addresses.
    held: HashMap<H, Part, RandomState>,
    messages: Account<Messages>,
    bytes: Account<MessageBytes>,
    changed: Tick,
    /// When it is to be looked at whether it is used; armed.
    idle_due: Option<Tick>,
}

impl<C: ConsumerKey, H: Copy + Eq + Hash> Queue<C, H> {
    pub fn new(key: Arc<str>, place: u32, holder: H, epoch: u64, now: Tick) -> Self {
        Queue {
            key,
            place,
            holder,
            epoch,
            sequence: 0,
            serial: 0,
            waiting: VecDeque::new(),
            dead: None,
            sessions: HashMap::default(),
            attentive: 0,
            ready: VecDeque::new(),
            stuck: None,
            held: HashMap::default(),
            messages: Account::new(),
            bytes: Account::new(),
            changed: now,
            idle_due: None,
        }
    }

    /// What an operator sees.
    pub fn look(&self) -> QueueLook<'_> {
        let (messages, bytes, waiting) = (self.messages.get(), self.bytes.get(), self.waiting.len());
        let (consumers, sequence) = (self.sessions.len(), self.sequence);
        QueueLook { key: &self.key, messages, bytes, waiting, consumers, sequence }
    }

    // ---- what things weigh, with all that tables and lists take for them ----

    /// A queue with this key, without messages and consumers.
    pub fn record_weight(key: &str) -> u64 {
        // The map of queues is at least 7/16 full after it has grown. Lists and tables begin with four places.
        let place = (size_of::<(Arc<str>, Box<Self>)>() + size_of::<Arc<str>>()) * 3;
        let sessions = 4 * (size_of::<(C::Session, Session<C, H>)>() + 1) + 16;
        let messages = 4 * (size_of::<Queued<H>>() + size_of::<(H, Part)>() + 1) + 16;
        (key.len() + 16 + size_of::<Self>() + place + sessions + messages) as u64
            + deadlines::weight::<C::Session>()
    }

    /// A consumer.
    pub fn consumer_weight() -> u64 {
        let place = 3 * size_of::<(C::Session, Session<C, H>)>() + 4 * size_of::<Unsettled<C, H>>();
        let listed = 2 * size_of::<(C::Session, u64)>() + 2 * size_of::<(C, H)>();
        (place + listed) as u64 + deadlines::weight::<C::Session>()
    }

    /// A message.
    pub fn message_weight(message: &Message) -> u64 {
        // Lists grow by doubling. The bytes have a header of their own.
        let place = 2 * size_of::<Unsettled<C, H>>() + 3 * size_of::<(H, Part)>();
        message.weight() + place as u64 + 32
    }

    // ---- what is asked of it ----

    /// Whether a holder may put one message more of this weight into the queue, or into one that does not exist yet.
    pub fn admit(queue: Option<&Self>, holder: H, weight: u64, limits: &limits::Rooms) -> Result<(), Full> {
        let (messages, bytes) = queue.map_or((0, 0), |queue| (queue.messages.get(), queue.bytes.get()));
        let held = queue.and_then(|queue| queue.held.get(&holder));
        let (held_messages, held_bytes) = held.map_or((0, 0), |part| (part.messages, part.bytes));
        let max = u64::from(limits.queue_messages_max);
        if !share::admits(messages, held_messages, 1, max) {
            return Err(Full { bound: "rooms.queue_messages_max", max });
        }
        let max = limits.queue_bytes_max;
        // What the key bounds is bytes of messages: one as large as the bound is to fit, whatever its place takes.
        if messages > 0 && !share::admits(bytes, held_bytes, weight, max) {
            return Err(Full { bound: "rooms.queue_bytes_max", max });
        }
        Ok(())
    }

    pub fn publish(&mut self, message: Message, holder: H, common: &mut Common<C::Session, H>, now: Tick) {
        let weight = Self::message_weight(&message);
        self.messages.add(1);
        self.bytes.add(weight);
        common.bounds.messages.add(1);
        common.bounds.add_contents(holder, weight);
        let part = self.held.entry(holder).or_default();
        part.messages += 1;
        part.bytes += weight;
        self.sequence += 1;
        self.changed = now;
        self.waiting.push_back(Queued { sequence: self.sequence, returns: 0, holder, message });
    }

    pub fn join(&mut self, who: C, holder: H, common: &mut Common<C::Session, H>, now: Tick) {
        common.bounds.add_consumer(holder, Self::consumer_weight());
        self.changed = now;
        let serial = self.serial + 1;
        let session = self.sessions.entry(who.session()).or_insert_with(|| Session::new(serial));
        if session.consumers.is_empty() {
            self.serial = serial;
            self.attentive += 1;
        }
        session.consumers.push((who, holder));
        self.list(who.session(), common);
    }

    /// Takes a consumer out. What it has not settled comes back, and is marked as delivered before.
    pub fn leave(&mut self, who: C, common: &mut Common<C::Session, H>, now: Tick) {
        let name = who.session();
        let Some(session) = self.sessions.get_mut(&name) else { return };
        let Some(at) = session.consumers.iter().position(|consumer| consumer.0 == who) else { return };
        let (_, holder) = session.consumers.remove(at);
        common.bounds.remove_consumer(holder, Self::consumer_weight());
        self.changed = now;
        let returned = session.take_all(|unsettled| unsettled.consumer == who);
        if session.consumers.is_empty() {
            if let Some(due) = session.due {
                common.deadlines.cancel(due, &self.key, Due::Unsettled(name));
            }
            self.attentive -= usize::from(session.attention != Attention::Lost);
            self.sessions.remove(&name);
            self.prune();
        } else {
            self.list(name, common);
        }
        for mut queued in returned {
            queued.returns = queued.returns.max(1);
            self.put_back(queued);
        }
    }

    /// Settles one message of a consumer. A message that it has no more, because it ran out of time, is not settled by
    /// that; but it shows that the consumer is at work.
    pub fn settle(
        &mut self,
        (who, sequence): (C, u64),
        settlement: Settlement,
        common: &mut Common<C::Session, H>,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) {
        let name = who.session();
        let Some(session) = self.sessions.get_mut(&name) else { return };
        let settled = session.take(who, sequence);
        let is_inside = session.consumers.iter().any(|consumer| consumer.0 == who);
        if session.attention == Attention::Paused && is_inside {
            session.attention = Attention::Given;
            if let Some(due) = session.due.take() {
                common.deadlines.cancel(due, &self.key, Due::Unsettled(name));
            }
            if let Some(oldest) = session.oldest() {
                let due = common.ack_deadline(oldest);
                session.due = Some(due);
                common.deadlines.arm(due, &self.key, Due::Unsettled(name));
            }
        }
        self.list(name, common);
        let Some(queued) = settled else { return };
        self.changed = now;
        match settlement {
            Settlement::Ack => self.forget(&queued, common),
            Settlement::Nack => self.refused(queued, common, effects),
        }
    }

    /// The message's dead-letter queue has it. Whether it was leaving.
    pub fn dead_lettered(&mut self, id: MessageId, common: &mut Common<C::Session, H>) -> bool {
        let dead = self.dead.as_mut().filter(|_| id.epoch == self.epoch);
        let Some(queued) = dead.and_then(|dead| dead.take(id.sequence)) else { return false };
        self.forget(&queued, common);
        self.watch_parked(common);
        true
    }

    /// The message's dead-letter queue does not take it: it is parked.
    pub fn dead_letter_refused(&mut self, id: MessageId, common: &mut Common<C::Session, H>, now: Tick) {
        if let Some(dead) = self.dead.as_mut().filter(|_| id.epoch == self.epoch) {
            dead.park(id.sequence, now.after_ms(DEAD_LETTER_PAUSE_MS));
            self.watch_parked(common);
        }
    }

    /// Arms the deadline of parked messages, if there are any; forgets an empty record.
    fn watch_parked(&mut self, common: &mut Common<C::Session, H>) {
        let Some(dead) = &mut self.dead else { return };
        if dead.is_empty() {
            self.dead = None;
        } else if dead.due.is_none() {
            dead.due = dead.first_parked();
            if let Some(due) = dead.due {
                common.deadlines.arm(due, &self.key, Due::Parked);
            }
        }
    }

    // ---- deadlines ----

    /// Parked messages wait again.
    pub fn unpark(&mut self, common: &mut Common<C::Session, H>, now: Tick) {
        let Some(dead) = &mut self.dead else { return };
        dead.due = None;
        let due = dead.unpark(now);
        self.watch_parked(common);
        for queued in due {
            self.put_back(queued);
        }
    }

    /// Looks what a session has not settled in time.
    pub fn expire_unsettled(
        &mut self,
        name: C::Session,
        common: &mut Common<C::Session, H>,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) {
        let Some(session) = self.sessions.get_mut(&name) else { return };
        session.due = None;
        let is_lost = session.attention == Attention::Paused;
        let returned = session.take_all(|unsettled| is_lost || common.ack_deadline(unsettled.offered) <= now);
        let next = if is_lost {
            session.attention = Attention::Lost;
            self.attentive -= 1;
            effects.dismissed.extend(session.consumers.iter().map(|consumer| consumer.0));
            None
        } else if returned.is_empty() {
            session.oldest().map(|oldest| common.ack_deadline(oldest))
        } else {
            session.attention = Attention::Paused;
            Some(common.ack_deadline(now))
        };
        if let Some(due) = next {
            session.due = Some(due);
            common.deadlines.arm(due, &self.key, Due::Unsettled(name));
        }
        if !returned.is_empty() || is_lost {
            self.changed = now;
        }
        effects.ack_timeouts += returned.len() as u64;
        for queued in returned {
            self.refused(queued, common, effects);
        }
    }

    /// Looks whether nobody has used the queue for long, and forgets its messages then.
    pub fn expire_idle(
        &mut self,
        common: &mut Common<C::Session, H>,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) {
        self.idle_due = None;
        if self.attentive > 0 || common.idle_deadline(self.changed) > now {
            return;
        }
        if let Some(due) = self.dead.as_mut().and_then(|dead| dead.due.take()) {
            common.deadlines.cancel(due, &self.key, Due::Parked);
        }
        let dead = self.dead.take().map(|dead| *dead).unwrap_or_default();
        for queued in std::mem::take(&mut self.waiting).into_iter().chain(dead.into_all()) {
            self.forget(&queued, common);
            effects.expired += 1;
        }
    }

    /// Arms the deadline of a queue without consumers. To be called after every change.
    pub fn watch(&mut self, common: &mut Common<C::Session, H>) {
        if self.attentive == 0 && !self.messages.is_zero() && self.idle_due.is_none() {
            let due = common.idle_deadline(self.changed);
            self.idle_due = Some(due);
            common.deadlines.arm(due, &self.key, Due::Idle);
        }
    }

    /// Cancels what is armed for a queue that goes.
    pub fn unwatch(&mut self, common: &mut Common<C::Session, H>) {
        if let Some(due) = self.idle_due.take() {
            common.deadlines.cancel(due, &self.key, Due::Idle);
        }
    }

    // ---- messages ----

    /// A message was delivered and came back.
    fn refused(
        &mut self,
        mut queued: Queued<H>,
        common: &mut Common<C::Session, H>,
        effects: &mut Effects<C, H>,
    ) {
        queued.returns = queued.returns.saturating_add(1);
        if queued.returns < common.limits.deliveries_max {
            self.put_back(queued);
        } else if self.key.ends_with(DEAD_LETTERS) {
            self.forget(&queued, common);
            effects.dropped += 1;
        } else {
            let destination = Destination::queue(format!("{}{DEAD_LETTERS}", self.key));
            effects.dead_letters.push(DeadLetter {
                key: self.key.clone(),
                id: MessageId { epoch: self.epoch, sequence: queued.sequence },
                holder: queued.holder,
                message: Message::new(&destination, queued.message.lines(), queued.message.body()),
            });
            self.dead.get_or_insert_default().leave(queued);
        }
    }

    /// Puts a message back in its order of arrival, ahead of later ones.
    fn put_back(&mut self, queued: Queued<H>) {
        let at = self.waiting.partition_point(|other| other.sequence < queued.sequence);
        self.waiting.insert(at, queued);
    }

    /// A message is in none of the queue's places any more.
    fn forget(&mut self, queued: &Queued<H>, common: &mut Common<C::Session, H>) {
        let weight = Self::message_weight(&queued.message);
        self.messages.remove(1);
        self.bytes.remove(weight);
        common.bounds.messages.remove(1);
        common.bounds.remove_contents(queued.holder, weight);
        let Some(part) = self.held.get_mut(&queued.holder) else {
            unreachable!("who holds a message has a part");
        };
        part.messages -= 1;
        part.bytes -= weight;
        if part.messages == 0 {
            self.held.remove(&queued.holder);
            if self.held.capacity() > 8 * self.held.len().max(4) {
                self.held.shrink_to(2 * self.held.len());
            }
        }
        if self.waiting.capacity() > 8 * self.waiting.len().max(4) {
            self.waiting.shrink_to(2 * self.waiting.len());
        }
    }

    /// Hands out what waits, to sessions with room, in turn.
    pub fn offer(&mut self, common: &mut Common<C::Session, H>, now: Tick, effects: &mut Effects<C, H>) {
        while let Some(queued) = self.waiting.front() {
            let (sequence, weight) = (queued.sequence, queued.message.weight());
            // If nobody has room for the first, later ones must not overtake it.
            if self.stuck == Some(sequence) {
                break;
            }
            let Some(name) = self.next_with_room(weight, common.prefetch_max()) else {
                self.stuck = Some(sequence);
                break;
            };
            let Some(session) = self.sessions.get_mut(&name) else { break };
            let Some(consumer) = session.next_consumer() else { break };
            let Some(queued) = self.waiting.pop_front() else { break };
            effects.offers.push(Offer {
                consumer,
                id: MessageId { epoch: self.epoch, sequence },
                is_redelivered: queued.returns > 0,
                message: queued.message.clone(),
            });
            session.give(consumer, queued, now);
            if session.due.is_none() {
                let due = common.ack_deadline(now);
                session.due = Some(due);
                common.deadlines.arm(due, &self.key, Due::Unsettled(name));
            }
        }
    }

    /// The next session with room, which goes to the end of the list.
    fn next_with_room(&mut self, weight: u64, prefetch_max: usize) -> Option<C::Session> {
        for _ in 0..self.ready.len() {
            let (name, serial) = self.ready.pop_front()?;
            let session = self.sessions.get_mut(&name).filter(|session| session.serial == serial);
            let Some(session) = session else { continue };
            let has_room = session.has_room_for(weight, prefetch_max);
            if has_room || session.has_room_for(0, prefetch_max) {
                self.ready.push_back((name, serial));
            } else {
                session.is_listed = false;
            }
            if has_room {
                return Some(name);
            }
        }
        None
    }

    /// Puts a session that has room on the list, and looks again for somebody who has room for the first message.
    fn list(&mut self, name: C::Session, common: &Common<C::Session, H>) {
        let front = self.waiting.front().map_or(0, |queued| queued.message.weight());
        let Some(session) = self.sessions.get_mut(&name) else { return };
        if session.has_room_for(front, common.prefetch_max()) {
            self.stuck = None;
        }
        if session.has_room_for(0, common.prefetch_max()) && !std::mem::replace(&mut session.is_listed, true)
        {
            self.ready.push_back((name, session.serial));
            self.prune();
        }
    }

    fn prune(&mut self) {
        if self.ready.len() > 2 * self.sessions.len() + GONE_MAX {
            let sessions = &self.sessions;
            self.ready
                .retain(|(name, serial)| sessions.get(name).is_some_and(|session| session.serial == *serial));
            self.ready.shrink_to(2 * self.ready.len());
            if self.sessions.capacity() > 8 * self.sessions.len().max(4) {
                self.sessions.shrink_to(2 * self.sessions.len());
            }
        }
    }

    pub fn is_unused(&self) -> bool {
        self.messages.is_zero() && self.sessions.is_empty()
    }

    // ---- check ----

    /// Panics unless sums agree with contents. Adds what it holds, by holder, and returns its armed deadlines.
    pub fn check(
        &self,
        common: &Common<C::Session, H>,
        contents: &mut Vec<(H, u64)>,
        consumers: &mut Vec<(H, u64)>,
    ) -> usize {
        assert!(!self.is_unused());
        contents.push((self.holder, Self::record_weight(&self.key)));
        assert!(self.waiting.iter().is_sorted_by(|a, b| a.sequence < b.sequence));
        let unsettled = self.sessions.values().flat_map(|session| &session.unsettled);
        let mut all: Vec<&Queued<H>> =
            self.waiting.iter().chain(unsettled.map(|unsettled| &unsettled.queued)).collect();
        let mut armed = 0;
        if let Some(dead) = &self.dead {
            dead.check();
            all.extend(dead.iter());
            armed += usize::from(dead.due.is_some());
            assert!(dead.due.is_none_or(|due| common.deadlines.is_armed(due, &self.key, Due::Parked)));
        }
        let sequences: std::collections::BTreeSet<u64> = all.iter().map(|queued| queued.sequence).collect();
        assert_eq!(sequences.len(), all.len(), "a message is in two places");
        let weights = || all.iter().map(|queued| (queued.holder, Self::message_weight(&queued.message)));
        assert_eq!(all.len() as u64, self.messages.get());
        assert_eq!(weights().map(|part| part.1).sum::<u64>(), self.bytes.get());
        for (holder, part) in &self.held {
            let of_holder = weights().filter(|part| part.0 == *holder);
            assert_eq!(
                (part.messages, part.bytes),
                of_holder.fold((0, 0), |sum, p| (sum.0 + 1, sum.1 + p.1))
            );
            assert!(part.messages > 0);
        }
        contents.extend(weights());
        for (name, session) in &self.sessions {
            assert!(!session.consumers.is_empty());
            assert!(session.unsettled.iter().is_sorted_by(|a, b| a.queued.sequence < b.queued.sequence));
            assert!(session.unsettled.len() <= common.prefetch_max());
            let weights = session.unsettled.iter().map(|unsettled| unsettled.queued.message.weight());
            assert_eq!(weights.sum::<u64>(), session.bytes);
            assert!(session.unsettled.iter().all(|unsettled| {
                session.consumers.iter().any(|consumer| consumer.0 == unsettled.consumer)
            }));
            assert!(!session.is_listed || self.ready.contains(&(*name, session.serial)));
            assert!(session.is_listed || !session.has_room_for(0, common.prefetch_max()));
            let must_be_watched = match session.attention {
                Attention::Given => !session.unsettled.is_empty(),
                Attention::Paused => true,
                Attention::Lost => false,
            };
            assert!(!must_be_watched || session.due.is_some());
            assert!(session.attention != Attention::Lost || session.unsettled.is_empty());
            if let Some(due) = session.due {
                assert!(common.deadlines.is_armed(due, &self.key, Due::Unsettled(*name)));
                armed += 1;
            }
            consumers.extend(session.consumers.iter().map(|consumer| (consumer.1, Self::consumer_weight())));
        }
        let attentive = self.sessions.values().filter(|session| session.attention != Attention::Lost);
        assert_eq!(attentive.count(), self.attentive);
        assert!(self.ready.len() <= 2 * self.sessions.len() + GONE_MAX);
        assert!(self.attentive > 0 || self.messages.is_zero() || self.idle_due.is_some());
        assert!(self.idle_due.is_none_or(|due| common.deadlines.is_armed(due, &self.key, Due::Idle)));
        armed + usize::from(self.idle_due.is_some())
    }
}
