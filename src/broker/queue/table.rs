//! The queues that one shard owns.
//!
//! It finds queues by their keys, makes and forgets them. What happens inside is the queue's.
//!
//! Invariant: a queue without messages and consumers is not in the table; each has one place.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::broker::queue::bounds::Bounds;
use crate::broker::queue::deadlines::{Deadlines, Due};
use crate::broker::queue::one::{Common, Queue};
use crate::broker::queue::{ConsumerKey, EXPIRIES_MAX, Effects, Full, QueueLook, Settlement};
use crate::limits;
use crate::message::{Epochs, Message, MessageId};
use crate::time::Tick;

/// The queues that one shard owns. `C` names a consumer, `H` a holder.
#[derive(Debug)]
pub struct Queues<C: ConsumerKey, H> {
    // Hashed with random keys, as peers choose the names. No answer depends on the order of this map.
    queues: HashMap<Arc<str>, Box<Queue<C, H>>, RandomState>,
    /// Keys in an order that stays, for who walks over all queues.
    places: Slab<Arc<str>>,
    epochs: Epochs,
    common: Common<C::Session, H>,
}

impl<C: ConsumerKey, H: Copy + Eq + Hash> Queues<C, H> {
    /// No queues.
    pub fn new(limits: limits::Rooms, epochs: Epochs) -> Self {
        let bounds = Bounds::new(&limits);
        let common = Common { limits, bounds, deadlines: Deadlines::new() };
        Queues { queues: HashMap::default(), places: Slab::new(), epochs, common }
    }

    /// Queues that exist.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Places of queues end here.
    pub fn places(&self) -> u32 {
        self.places.capacity() as u32
    }

    /// The queue at a place, if there is one. It stays there for as long as it lives.
    pub fn at(&self, place: u32) -> Option<QueueLook<'_>> {
        let key = self.places.get(place as usize)?;
        self.queues.get(key).map(|queue| queue.look())
    }

    /// Messages in all queues, in whatever place.
    pub fn messages(&self) -> usize {
        self.common.bounds.messages.get() as usize
    }

    /// Bytes that all queues, their messages and consumers take, of `rooms.queues_bytes_max`.
    pub fn bytes(&self) -> u64 {
        self.common.bounds.bytes()
    }

    /// Takes a message in, on the account of `holder`.
    ///
    /// # Errors
    /// [`Full`]: the message is not in the queue.
    pub fn publish(
        &mut self,
        message: Message,
        holder: H,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) -> Result<(), Full> {
        let weight = Queue::<C, H>::message_weight(&message);
        let common = &mut self.common;
        if let Some(queue) = self.queues.get_mut(message.key()) {
            Queue::admit(Some(queue), holder, weight, &common.limits)?;
            common.bounds.admit_contents(holder, weight)?;
            queue.publish(message, holder, common, now);
            queue.offer(common, now, effects);
            queue.watch(common);
            return Ok(());
        }
        let record = Queue::<C, H>::record_weight(message.key());
        Queue::<C, H>::admit(None, holder, weight, &common.limits)?;
        common.bounds.admit_queue(self.queues.len())?;
        common.bounds.admit_contents(holder, weight + record)?;
        // The key is part of the message, which the queue is about to own.
        let (queue, common) = self.add(message.key().into(), holder, now);
        queue.publish(message, holder, common, now);
        queue.watch(common);
        Ok(())
    }

    /// Adds a consumer, on the account of `holder`. Consumers are distinct.
    ///
    /// # Errors
    /// [`Full`]: it is not added. A queue that exists refuses a consumer only for what consumers take, so that queues
    /// which are full can be emptied.
    pub fn join(
        &mut self,
        key: &str,
        who: C,
        holder: H,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) -> Result<(), Full> {
        self.common.bounds.admit_consumer(holder, Queue::<C, H>::consumer_weight())?;
        let (queue, common) = if self.queues.contains_key(key) {
            self.found(key)
        } else {
            self.common.bounds.admit_queue(self.queues.len())?;
            self.common.bounds.admit_contents(holder, Queue::<C, H>::record_weight(key))?;
            self.add(key.into(), holder, now)
        };
        queue.join(who, holder, common, now);
        queue.offer(common, now, effects);
        Ok(())
    }

    /// Takes a consumer out; what it has not settled goes to others. A lost connection is no refusal: the next delivery
    /// says that there was one before, but the message does not become a dead letter. A consumer that is not there is
    /// ignored.
    pub fn leave(&mut self, key: &str, who: C, now: Tick, effects: &mut Effects<C, H>) {
        self.change(key, now, effects, |queue, common, _| queue.leave(who, common, now));
    }

    /// Settles one message of a consumer, in O(log n) of what its session holds. One that was refused
    /// `rooms.deliveries_max` times becomes a dead letter. A message that the consumer does not hold is ignored, but for
    /// the sign that the consumer is at work.
    pub fn settle(
        &mut self,
        key: &str,
        who: C,
        sequence: u64,
        settlement: Settlement,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) {
        self.change(key, now, effects, |queue, common, effects| {
            queue.settle((who, sequence), settlement, common, now, effects);
        });
    }

    /// A dead letter is in its dead-letter queue: its own queue forgets it. Returns whether that had it still: it may
    /// have expired.
    pub fn dead_lettered(
        &mut self,
        key: &str,
        id: MessageId,
        now: Tick,
        effects: &mut Effects<C, H>,
    ) -> bool {
        self.change(key, now, effects, |queue, common, _| queue.dead_lettered(id, common)).unwrap_or(false)
    }

    /// A dead letter was refused by its dead-letter queue: its own queue parks it, and offers it again after
    /// [`DEAD_LETTER_PAUSE_MS`](crate::broker::queue::DEAD_LETTER_PAUSE_MS).
    pub fn dead_letter_refused(&mut self, key: &str, id: MessageId, now: Tick) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.dead_letter_refused(id, &mut self.common, now);
        }
    }

    /// Does what is due: messages that were not settled in time go back, parked ones are offered again, and queues
    /// that had no consumer and no change for `rooms.queue_idle_s` are forgotten. Returns whether more is due:
    /// [`EXPIRIES_MAX`] bounds one call.
    pub fn expire(&mut self, now: Tick, effects: &mut Effects<C, H>) -> bool {
        for _ in 0..EXPIRIES_MAX {
            let Some((key, due)) = self.common.deadlines.pop(now) else { return false };
            let done = self.change(&key, now, effects, |queue, common, effects| match due {
                Due::Idle => queue.expire_idle(common, now, effects),
                Due::Parked => queue.unpark(common, now),
                Due::Unsettled(name) => queue.expire_unsettled(name, common, now, effects),
            });
            assert!(done.is_some(), "a queue that is gone has no deadline");
        }
        self.common.deadlines.is_due(now)
    }

    fn found(&mut self, key: &str) -> (&mut Queue<C, H>, &mut Common<C::Session, H>) {
        match self.queues.get_mut(key) {
            Some(queue) => (queue, &mut self.common),
            None => unreachable!("the caller has found it or made it"),
        }
    }

    /// A new queue, which `holder` makes, and what it shares with all others.
    fn add(&mut self, key: Arc<str>, holder: H, now: Tick) -> (&mut Queue<C, H>, &mut Common<C::Session, H>) {
        self.common.bounds.add_contents(holder, Queue::<C, H>::record_weight(&key));
        let place = self.places.insert(key.clone()) as u32;
        let queue = Box::new(Queue::new(key.clone(), place, holder, self.epochs.begin(), now));
        self.queues.insert(key.clone(), queue);
        self.found(&key)
    }

    /// Does what `change` says to a queue, if it is there; then hands out what can be handed out, and forgets the queue if
    /// it is unused.
    fn change<T>(
        &mut self,
        key: &str,
        now: Tick,
        effects: &mut Effects<C, H>,
        change: impl FnOnce(&mut Queue<C, H>, &mut Common<C::Session, H>, &mut Effects<C, H>) -> T,
    ) -> Option<T> {
        let queue = self.queues.get_mut(key)?;
        let result = change(queue, &mut self.common, effects);
        queue.offer(&mut self.common, now, effects);
        queue.watch(&mut self.common);
        if queue.is_unused() {
            queue.unwatch(&mut self.common);
            self.common.bounds.remove_contents(queue.holder, Queue::<C, H>::record_weight(key));
            self.places.remove(queue.place as usize);
            self.queues.remove(key);
            if self.places.is_empty() {
                self.places.shrink_to_fit();
            }
            if self.queues.capacity() > 8 * self.queues.len().max(8) {
                self.queues.shrink_to(2 * self.queues.len());
            }
        }
        Some(result)
    }

    /// Panics if somebody is a consumer of a queue.
    pub fn check_nobody(&self) {
        let (mut contents, mut consumers) = (Vec::new(), Vec::new());
        for queue in self.queues.values() {
            queue.check(&self.common, &mut contents, &mut consumers);
        }
        assert!(consumers.is_empty(), "somebody is left in a queue");
    }

    /// Panics unless counts agree with contents.
    pub fn check(&self) {
        let (mut contents, mut consumers, mut armed) = (Vec::new(), Vec::new(), 0);
        assert_eq!(self.places.len(), self.queues.len());
        for (key, queue) in &self.queues {
            assert_eq!(*key, queue.key);
            assert_eq!(self.places.get(queue.place as usize), Some(key));
            armed += queue.check(&self.common, &mut contents, &mut consumers);
        }
        assert_eq!(armed, self.common.deadlines.len());
        assert_eq!(contents.len(), self.queues.len() + self.messages());
        self.common.bounds.check(&contents, &consumers);
    }
}
