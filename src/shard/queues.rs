//! Queues' messages: to consumers, from consumers, to dead letters.
//!
//! Invariant: a message that was offered is settled, or goes back to its queue when its consumer leaves.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::broker::queue::{DeadLetter, Effects, Full, Offer, Settlement};
use crate::mesh::mail::Mail;
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::{ConnKey, Consumer, Holder, Origin};
use crate::message::reply;
use crate::message::{Message, MessageId};
use crate::session::{Subscription, Unsettled};
use crate::shard::Shard;
use crate::time::Tick;

/// Dead letters that are under way: which queue keeps each, by the number of the request, and those for queues of this shard.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    under_way: HashMap<u32, (Arc<str>, MessageId), FixedState>,
    own: Vec<(u32, Message, Holder)>,
}

impl DeadLetters {
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.own.is_empty()
    }

    /// Whether [`Shard::take_mail`] has some to take.
    pub(super) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }
}

impl Shard {
    /// As the owner: takes a message into its queue.
    pub(super) fn queue_publish(&mut self, message: Message, holder: Holder, now: Tick) -> Result<(), Fault> {
        let mut effects = Effects::default();
        let taken = self.queues.publish(message, holder, now, &mut effects);
        self.act_on(effects);
        taken.map_err(|full| {
            self.counters.queue_messages_refused_total += 1;
            Fault::QueueFull { bound: full.bound, max: full.max }
        })
    }

    /// As the owner: a queue has a consumer more.
    pub(super) fn queue_join(
        &mut self,
        key: &str,
        consumer: Consumer,
        holder: Holder,
        now: Tick,
    ) -> Result<(), Fault> {
        let mut effects = Effects::default();
        let joined = self.queues.join(key, consumer, holder, now, &mut effects);
        self.act_on(effects);
        joined.map_err(|Full { bound, max }| match bound {
            "rooms.rooms_max" => Fault::TooManyRooms { max: self.env.limits.rooms.rooms_max },
            _ => {
                self.counters.rooms_refused_total += 1;
                Fault::QueueFull { bound, max }
            }
        })
    }

    /// As the owner: a queue has a consumer less.
    pub(super) fn queue_leave(&mut self, key: &str, consumer: Consumer, now: Tick) {
        let mut effects = Effects::default();
        self.queues.leave(key, consumer, now, &mut effects);
        self.act_on(effects);
    }

    /// As the owner: does what is due in queues. Returns whether more is due.
    pub(super) fn expire_queues(&mut self, now: Tick) -> bool {
        let mut effects = Effects::default();
        let has_more = self.queues.expire(now, &mut effects);
        self.act_on(effects);
        has_more
    }

    /// As the owner: does what queues have caused.
    fn act_on(&mut self, effects: Effects<Consumer, Holder>) {
        self.counters.queue_ack_timeouts_total += effects.ack_timeouts;
        self.counters.queue_consumers_dismissed_total += effects.dismissed.len() as u64;
        self.counters.queue_messages_expired_total += effects.expired;
        self.counters.queue_dead_lettered_total += effects.dropped;
        self.hand_out(effects.offers);
        for dead_letter in effects.dead_letters {
            self.send_dead_letter(dead_letter);
        }
    }

    /// As the owner: sends a dead letter to the owner of its dead-letter queue. Its queue keeps it until that has answered.
    fn send_dead_letter(&mut self, dead_letter: DeadLetter<Holder>) {
        let DeadLetter { key, id, holder, message } = dead_letter;
        let serial = self.sessions.serial();
        self.dead_letters.under_way.insert(serial, (key, id));
        let owner = self.env.owner_of(message.key_bytes());
        let (shard, connection) = (self.env.id, ConnKey::DEAD_LETTERS);
        let origin = Origin { shard, connection, serial: Some(serial), holder };
        if owner == shard {
            // Answered with the next mail, not from within the queue that it came from.
            self.dead_letters.own.push((serial, message, holder));
        } else {
            self.port.spend(owner, message.weight());
            self.port.write(owner, Mail::Publish { origin, message });
        }
    }

    /// As the owner: takes the dead letters of its own queues into dead-letter queues of its own.
    pub(super) fn take_dead_letters(&mut self, now: Tick) {
        for (serial, message, holder) in std::mem::take(&mut self.dead_letters.own) {
            let taken = self.queue_publish(message, holder, now);
            self.dead_letter_answered(Some(serial), taken.is_ok(), now);
        }
    }

    /// As the owner: a dead letter is in its dead-letter queue, or was refused there.
    pub(super) fn dead_letter_answered(&mut self, serial: Option<u32>, is_taken: bool, now: Tick) {
        let Some((key, id)) = serial.and_then(|serial| self.dead_letters.under_way.remove(&serial)) else {
            return;
        };
        if !is_taken {
            return self.queues.dead_letter_refused(&key, id, now);
        }
        self.counters.queue_dead_lettered_total += 1;
        let mut effects = Effects::default();
        self.queues.dead_lettered(&key, id, now, &mut effects);
        self.act_on(effects);
    }

    /// As a consumer: tells a queue what became of one of its messages.
    pub(super) fn settle(&mut self, index: u32, unsettled: Unsettled, settlement: Settlement, now: Tick) {
        let Some(&subscription) = self.sessions[index].subscriptions().get(unsettled.class) else { return };
        let key = self.sessions.names().value(Symbol(subscription.place)).clone();
        let consumer = self.consumer(index, subscription.class, subscription.position);
        let (owner, sequence) = (self.env.owner_of(key.as_bytes()), unsettled.id.sequence);
        if owner == self.env.id {
            self.queue_settle(key, consumer, sequence, settlement, now);
        } else {
            self.ask(index, owner, Mail::Settle { key, consumer, sequence, settlement });
        }
    }

    /// As the owner: a message was settled.
    pub(super) fn queue_settle(
        &mut self,
        key: Box<str>,
        consumer: Consumer,
        sequence: u64,
        settlement: Settlement,
        now: Tick,
    ) {
        let mut effects = Effects::default();
        self.queues.settle(&key, consumer, sequence, settlement, now, &mut effects);
        self.act_on(effects);
    }

    fn hand_out(&mut self, offers: Vec<Offer<Consumer>>) {
        for offer in offers {
            self.counters.queue_redelivered_total += u64::from(offer.is_redelivered);
            match offer.consumer.shard {
                shard if shard == self.env.id => self.take_offer(offer),
                shard => self.port.write(shard, Mail::Offer(offer)),
            }
        }
    }

    /// A queue's message for one of this shard's sessions. A consumer that has gone is ignored: its owner
    /// gets, or has, the mail that says so, and offers the message to another.
    pub(super) fn take_offer(&mut self, offer: Offer<Consumer>) {
        let Consumer { connection, class, serial, .. } = offer.consumer;
        if !self.is_current(connection) {
            return;
        }
        let index = connection.index;
        let session = &self.sessions[index];
        // A room's place among members is no number of a consumer, though it may have the same value.
        let is_it =
            |subscription: &Subscription| subscription.kind == Kind::Queue && subscription.position == serial;
        if !session.subscriptions().get(class).is_some_and(is_it) {
            return;
        }
        let mut bytes = Vec::with_capacity(offer.message.body().len() + 256);
        let wanted = self.members.classes().value(class);
        reply::message(wanted, offer.id, &offer.message, offer.is_redelivered, &mut bytes);
        self.counters.messages_delivered_total += 1;
        self.push_vec(index, bytes);
        let ends_at = self.connections[index].output.answers_end();
        self.sessions[index].delivered(Unsettled { id: offer.id, class }, ends_at);
    }
}
