//! Queues: each message goes to one subscriber, and comes back if that subscriber does not settle it.
//!
//! A queue epochs on the shard that owns its key. It keeps messages while there is no consumer with room,
//! offers them in turn to those that have room (`rooms.prefetch_max` messages, or one message of any size,
//! up to [`UNSETTLED_BYTES_MAX`] bytes), and holds what a consumer has not settled until it is acknowledged, refused, or the
//! consumer is gone. It keeps nothing on disk.
//!
//! This module knows no connections: a consumer is a value that the shard understands. A queue may have a hundred
//! thousand of them, so nothing here looks through all: those that may have room are on a list.
//!
//! Invariant: every message that was accepted is in exactly one place: waiting, or unsettled with exactly
//! one consumer; `bytes` is the sum of their weights. A consumer with room is on the list.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use foldhash::fast::FixedState;

use crate::message::{Epochs, Message, MessageId};
use crate::limits;
use crate::time::Tick;

/// Bytes that one consumer may hold unsettled, but for a single larger message: a consumer that prefetches
/// large messages must not meet its own outbound bound.
pub const UNSETTLED_BYTES_MAX: u64 = 256 * 1024;

/// Entries that a queue's list may have beside two for each consumer: those of consumers who have gone stay on it.
#[cfg(not(test))]
const GONE_MAX: usize = 16;
#[cfg(test)]
const GONE_MAX: usize = 1;

/// A message in a queue.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Place in the queue's order of arrival.
    pub sequence: u64,
    /// Deliveries that came back.
    pub returns: u32,
    /// What was sent.
    pub message: Message,
}

/// Why a queue does not take a message: the key of the bound and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Configuration key.
    pub bound: &'static str,
    /// Its value.
    pub max: u64,
}

/// What a consumer gets.
#[derive(Debug, Clone)]
pub struct Offer<C> {
    /// To whom.
    pub consumer: C,
    /// Its `message-id`.
    pub id: MessageId,
    /// Whether it was delivered before.
    pub is_redelivered: bool,
    /// What was sent.
    pub message: Message,
}

#[derive(Debug)]
struct Consumer {
    unsettled: VecDeque<Queued>,
    unsettled_bytes: u64,
    /// It is among those that may have room.
    is_listed: bool,
}

impl Consumer {
    fn has_room_for(&self, weight: u64, prefetch_max: u32) -> bool {
        self.unsettled.is_empty()
            || (self.unsettled.len() < prefetch_max as usize
                && self.unsettled_bytes + weight <= UNSETTLED_BYTES_MAX)
    }
}

/// One queue.
#[derive(Debug)]
struct Queue<C> {
    epoch: u64,
    sequence: u64,
    waiting: VecDeque<Queued>,
    /// By what no peer can choose so that it collides.
    consumers: HashMap<C, Consumer, FixedState>,
    /// Whose turn it is; some on it have gone.
    ready: VecDeque<C>,
    /// The message that nobody on it has room for.
    stuck: Option<u64>,
    messages: usize,
    bytes: u64,
    changed: Tick,
}

impl<C: Copy + Eq + Hash> Queue<C> {
    /// Puts messages back in their order of arrival, ahead of later ones.
    fn put_back(&mut self, returned: impl Iterator<Item = Queued>) {
        for queued in returned {
            let at = self.waiting.partition_point(|other| other.sequence < queued.sequence);
            self.waiting.insert(at, queued);
        }
    }

    /// Hands out what waits, to consumers with room, in turn.
    fn offer(&mut self, prefetch_max: u32, offers: &mut Vec<Offer<C>>) {
        while let Some(queued) = self.waiting.front() {
            let weight = queued.message.weight();
            // If nobody has room for the first, later ones must not overtake it.
            if self.stuck == Some(queued.sequence) {
                break;
            }
            let sequence = queued.sequence;
            let Some(who) = self.next_with_room(weight, prefetch_max) else {
                self.stuck = Some(sequence);
                break;
            };
            let (Some(queued), Some(consumer)) = (self.waiting.pop_front(), self.consumers.get_mut(&who))
            else {
                break;
            };
            offers.push(Offer {
                consumer: who,
                id: MessageId { epoch: self.epoch, sequence: queued.sequence },
                is_redelivered: queued.returns > 0,
                message: queued.message.clone(),
            });
            consumer.unsettled_bytes += weight;
            consumer.unsettled.push_back(queued);
        }
    }

    /// The next consumer with room, which goes to the end of the list.
    fn next_with_room(&mut self, weight: u64, prefetch_max: u32) -> Option<C> {
        for _ in 0..self.ready.len() {
            let who = self.ready.pop_front()?;
            let Some(consumer) = self.consumers.get_mut(&who) else { continue };
            let has_room = consumer.has_room_for(weight, prefetch_max);
            if has_room || consumer.has_room_for(0, prefetch_max) {
                self.ready.push_back(who);
            } else {
                consumer.is_listed = false;
            }
            if has_room {
                return Some(who);
            }
        }
        None
    }

    fn join(&mut self, who: C) {
        let consumer = Consumer { unsettled: VecDeque::new(), unsettled_bytes: 0, is_listed: false };
        self.consumers.insert(who, consumer);
        self.list(who);
        self.stuck = None;
    }

    fn leave(&mut self, who: C) -> Option<Consumer> {
        let consumer = self.consumers.remove(&who)?;
        self.prune();
        Some(consumer)
    }

    /// It may have room.
    fn list(&mut self, who: C) {
        if let Some(consumer) = self.consumers.get_mut(&who)
            && !std::mem::replace(&mut consumer.is_listed, true)
        {
            self.ready.push_back(who);
            self.prune();
        }
    }

    fn prune(&mut self) {
        if self.ready.len() > 2 * self.consumers.len() + GONE_MAX {
            self.ready.retain(|who| self.consumers.contains_key(who));
        }
    }

    fn is_unused(&self) -> bool {
        self.messages == 0 && self.consumers.is_empty()
    }
}

/// How a consumer settles a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It goes to somebody else.
    Nack,
}

/// The queues that one shard owns. `C` names a consumer.
#[derive(Debug)]
pub struct Queues<C> {
    queues: HashMap<Box<str>, Queue<C>>,
    epochs: Epochs,
    limits: limits::Rooms,
    messages: usize,
    bytes: u64,
}

impl<C: Copy + Eq + Hash> Queues<C> {
    /// No queues.
    pub fn new(limits: limits::Rooms, epochs: Epochs) -> Self {
        Queues { queues: HashMap::new(), epochs, limits, messages: 0, bytes: 0 }
    }

    /// Queues that exist.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether there is a queue with this key.
    pub fn contains(&self, key: &str) -> bool {
        self.queues.contains_key(key)
    }

    /// Messages in all queues, waiting or unsettled.
    pub fn messages(&self) -> usize {
        self.messages
    }

    fn queue(&mut self, key: &str, now: Tick) -> &mut Queue<C> {
        if !self.queues.contains_key(key) {
            let epoch = self.epochs.begin();
            let queue = Queue {
                epoch,
                sequence: 0,
                waiting: VecDeque::new(),
                consumers: HashMap::default(),
                ready: VecDeque::new(),
                stuck: None,
                messages: 0,
                bytes: 0,
                changed: now,
            };
            self.queues.insert(key.into(), queue);
        }
        match self.queues.get_mut(key) {
            Some(queue) => queue,
            None => unreachable!("it was inserted above"),
        }
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// [`Full`]: the message is not in the queue.
    pub fn publish(&mut self, message: Message, now: Tick, offers: &mut Vec<Offer<C>>) -> Result<(), Full> {
        let weight = message.weight();
        let (messages, bytes) =
            self.queues.get(message.key()).map_or((0, 0), |queue| (queue.messages, queue.bytes));
        for (bound, is_over, max) in [
            (
                "rooms.queue_messages_max",
                messages >= self.limits.queue_messages_max as usize,
                u64::from(self.limits.queue_messages_max),
            ),
            (
                "rooms.queue_bytes_max",
                bytes + weight > self.limits.queue_bytes_max,
                self.limits.queue_bytes_max,
            ),
            (
                "rooms.queues_bytes_max",
                self.bytes + weight > self.limits.queues_bytes_max,
                self.limits.queues_bytes_max,
            ),
            (
                "rooms.rooms_max",
                messages == 0
                    && self.queues.len() >= self.limits.rooms_max as usize
                    && !self.queues.contains_key(message.key()),
                u64::from(self.limits.rooms_max),
            ),
        ] {
            if is_over {
                return Err(Full { bound, max });
            }
        }
        self.messages += 1;
        self.bytes += weight;
        let prefetch_max = self.limits.prefetch_max;
        // The key is part of the message, which the queue is about to own: a cheap clone keeps it readable.
        let keyed = message.clone();
        let queue = self.queue(keyed.key(), now);
        queue.sequence += 1;
        queue.messages += 1;
        queue.bytes += weight;
        queue.changed = now;
        queue.waiting.push_back(Queued { sequence: queue.sequence, returns: 0, message });
        queue.offer(prefetch_max, offers);
        Ok(())
    }

    /// Adds a consumer. Consumers are distinct.
    pub fn join(&mut self, key: &str, who: C, now: Tick, offers: &mut Vec<Offer<C>>) {
        let prefetch_max = self.limits.prefetch_max;
        let queue = self.queue(key, now);
        queue.changed = now;
        queue.join(who);
        queue.offer(prefetch_max, offers);
    }

    /// Takes a consumer out; what it has not settled goes to others. A lost connection is no refusal: the
    /// message's count of returns rises, so that the next delivery says so, but never to the dead letters.
    pub fn leave(&mut self, key: &str, who: C, now: Tick, offers: &mut Vec<Offer<C>>) {
        let prefetch_max = self.limits.prefetch_max;
        let Some(queue) = self.queues.get_mut(key) else { return };
        let Some(consumer) = queue.leave(who) else { return };
        queue.changed = now;
        queue.put_back(
            consumer.unsettled.into_iter().map(|queued| Queued { returns: queued.returns.max(1), ..queued }),
        );
        queue.offer(prefetch_max, offers);
        if queue.is_unused() {
            self.queues.remove(key);
        }
    }

    /// Settles one message of a consumer. Returns the message if it came back too often and is a dead
    /// letter.
    pub fn settle(
        &mut self,
        key: &str,
        who: C,
        sequence: u64,
        settlement: Settlement,
        now: Tick,
        offers: &mut Vec<Offer<C>>,
    ) -> Option<Message> {
        let limits = &self.limits;
        let queue = self.queues.get_mut(key)?;
        let consumer = queue.consumers.get_mut(&who)?;
        let at = consumer.unsettled.iter().position(|queued| queued.sequence == sequence)?;
        let mut queued = consumer.unsettled.remove(at)?;
        let weight = queued.message.weight();
        consumer.unsettled_bytes -= weight;
        let front = queue.waiting.front().map_or(0, |queued| queued.message.weight());
        if consumer.has_room_for(front, limits.prefetch_max) {
            queue.stuck = None;
        }
        queue.list(who);
        queue.changed = now;
        queued.returns += 1;
        let mut dead = None;
        if settlement == Settlement::Nack && queued.returns < limits.deliveries_max {
            queue.put_back(std::iter::once(queued));
        } else {
            queue.messages -= 1;
            queue.bytes -= weight;
            self.messages -= 1;
            self.bytes -= weight;
            if settlement == Settlement::Nack {
                dead = Some(queued.message);
            }
        }
        queue.offer(limits.prefetch_max, offers);
        if queue.is_unused() {
            self.queues.remove(key);
        }
        dead
    }

    /// Forgets queues that had no consumer and no change for `rooms.queue_idle_s`. Returns how many
    /// messages went with them.
    pub fn expire(&mut self, now: Tick) -> usize {
        let idle_ticks = self.limits.queue_idle_s.saturating_mul(1000 / Tick::MILLIS);
        let before = self.messages;
        let (mut messages, mut bytes) = (0, 0);
        self.queues.retain(|_, queue| {
            let is_kept = !queue.consumers.is_empty() || now.since(queue.changed) < idle_ticks;
            if !is_kept {
                messages += queue.messages;
                bytes += queue.bytes;
            }
            is_kept
        });
        self.messages -= messages;
        self.bytes -= bytes;
        before - self.messages
    }

    /// Panics unless counts agree with contents.
    pub fn check(&self) {
        let (mut messages, mut bytes) = (0, 0);
        for queue in self.queues.values() {
            let unsettled = queue.consumers.values().flat_map(|consumer| &consumer.unsettled);
            let all: Vec<&Queued> = queue.waiting.iter().chain(unsettled).collect();
            assert_eq!(all.len(), queue.messages);
            assert_eq!(all.iter().map(|queued| queued.message.weight()).sum::<u64>(), queue.bytes);
            assert!(queue.waiting.iter().is_sorted_by_key(|queued| queued.sequence));
            assert!(!queue.is_unused());
            for (who, consumer) in &queue.consumers {
                assert!(!consumer.is_listed || queue.ready.contains(who));
                assert!(consumer.is_listed || !consumer.has_room_for(0, self.limits.prefetch_max));
            }
            assert!(queue.ready.len() <= 2 * queue.consumers.len() + GONE_MAX);
            messages += queue.messages;
            bytes += queue.bytes;
        }
        assert_eq!((messages, bytes), (self.messages, self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::destination::Destination;
    use proptest::prelude::*;

    const KEY: &str = "/queue/jobs";

    fn message(text: &str) -> Message {
        Message::new(&Destination::parse_send(KEY).unwrap(), b"", text.as_bytes())
    }

    fn queues(limits: limits::Rooms) -> Queues<u8> {
        Queues::new(limits, Epochs::new(1, 0, 1))
    }

    #[test]
    fn messages_are_handed_out_in_turn_and_come_back_in_order() {
        let mut queues = queues(limits::Rooms::default());
        let mut offers = Vec::new();
        let now = Tick(0);
        queues.join(KEY, 1, now, &mut offers);
        queues.join(KEY, 2, now, &mut offers);
        for text in ["a", "b", "c"] {
            queues.publish(message(text), now, &mut offers).unwrap();
        }
        let got: Vec<_> =
            offers.iter().map(|offer| (offer.consumer, offer.message.body().to_vec())).collect();
        assert_eq!(got, [(1, b"a".to_vec()), (2, b"b".to_vec()), (1, b"c".to_vec())]);
        offers.clear();
        queues.leave(KEY, 1, now, &mut offers);
        let got: Vec<_> =
            offers.iter().map(|offer| (offer.consumer, offer.message.body(), offer.is_redelivered)).collect();
        assert_eq!(got, [(2, &b"a"[..], true), (2, &b"c"[..], true)]);
        queues.check();
    }

    #[test]
    fn a_message_that_nobody_wants_is_a_dead_letter() {
        let mut queues = queues(limits::Rooms { deliveries_max: 3, ..limits::Rooms::default() });
        let mut offers = Vec::new();
        queues.join(KEY, 1, Tick(0), &mut offers);
        queues.publish(message("a"), Tick(0), &mut offers).unwrap();
        for last in [false, false, true] {
            let offer = offers.pop().unwrap();
            let dead = queues.settle(KEY, 1, offer.id.sequence, Settlement::Nack, Tick(0), &mut offers);
            assert_eq!(dead.is_some(), last);
        }
        assert_eq!((queues.messages(), offers.len()), (0, 0));
        queues.leave(KEY, 1, Tick(0), &mut offers);
        assert!(queues.is_empty());
    }

    #[test]
    fn each_bound_refuses_by_name() {
        let limits = limits::Rooms { queue_messages_max: 1, ..limits::Rooms::default() };
        let mut queues = queues(limits);
        let mut offers = Vec::new();
        queues.publish(message("a"), Tick(0), &mut offers).unwrap();
        let full = queues.publish(message("b"), Tick(0), &mut offers).unwrap_err();
        assert_eq!(full, Full { bound: "rooms.queue_messages_max", max: 1 });
        assert_eq!(queues.expire(Tick(10)), 0);
        assert_eq!(queues.expire(Tick(900_000)), 1);
        queues.check();
    }

    proptest! {
        #[test]
        fn every_message_is_settled_once_and_none_is_lost(
            prefetch_max in 1u32..4,
            steps in prop::collection::vec((0u8..5, 0usize..4), 1..200)
        ) {
            let limits = limits::Rooms { prefetch_max, deliveries_max: 1000, ..Default::default() };
            let mut queues: Queues<u32> = Queues::new(limits, Epochs::new(1, 0, 1));
            let mut offers = Vec::new();
            // No consumer comes twice.
            let mut inside: Vec<u32> = Vec::new();
            let mut next = 0;
            let mut held: Vec<(u32, u64)> = Vec::new();
            let (mut sent, mut done) = (0, 0);
            for (step, who) in steps {
                let now = Tick(0);
                match step {
                    0 | 1 => {
                        queues.publish(message("x"), now, &mut offers).unwrap();
                        sent += 1;
                    }
                    2 => {
                        inside.push(next);
                        queues.join(KEY, next, now, &mut offers);
                        next += 1;
                    }
                    3 if who < inside.len() => {
                        let who = inside.remove(who);
                        held.retain(|(at, _)| *at != who);
                        queues.leave(KEY, who, now, &mut offers);
                    }
                    4 if who < held.len() => {
                        let (who, sequence) = held.remove(who);
                        let settlement = if sequence % 3 == 0 { Settlement::Nack } else { Settlement::Ack };
                        done += usize::from(settlement == Settlement::Ack);
                        queues.settle(KEY, who, sequence, settlement, now, &mut offers);
                    }
                    _ => {}
                }
                for offer in offers.drain(..) {
                    prop_assert!(inside.contains(&offer.consumer));
                    prop_assert!(!held.iter().any(|(_, sequence)| *sequence == offer.id.sequence));
                    held.push((offer.consumer, offer.id.sequence));
                }
                queues.check();
                prop_assert_eq!(queues.messages(), sent - done);
            }
        }
    }
}
