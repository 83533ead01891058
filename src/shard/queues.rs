//! Queues' messages: to consumers, from consumers, to dead letters.
//!
//! Invariant: a message that was offered is settled, or goes back to its queue when its consumer leaves.

use crate::broker::queue::{Offer, Settlement};
use crate::mesh::mail::Mail;
use crate::message::Message;
use crate::message::destination::Destination;
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::{ConnKey, Consumer, Origin};
use crate::message::reply;
use crate::session::Unsettled;
use crate::shard::Shard;
use crate::time::Tick;

/// Ends of the keys of dead-letter queues, whose own dead letters are dropped.
const DEAD_LETTERS: &str = ".dlq";

impl Shard {
    /// As the owner: takes a message into its queue.
    pub(super) fn queue_publish(&mut self, message: Message, now: Tick) -> Result<(), Fault> {
        let mut offers = Vec::new();
        let taken = self.queues.publish(message, now, &mut offers);
        self.hand_out(offers);
        taken.map_err(|full| {
            self.counters.queue_messages_refused_total += 1;
            Fault::QueueFull { bound: full.bound, max: full.max }
        })
    }

    /// As a consumer: tells a queue what became of one of its messages.
    pub(super) fn settle(&mut self, index: u32, unsettled: Unsettled, settlement: Settlement, now: Tick) {
        let Some(&subscription) = self.sessions[index].subscription(unsettled.class) else { return };
        let key = self.sessions.names().value(Symbol(subscription.place)).clone();
        let consumer = self.consumer(index, subscription.class, subscription.position);
        let (owner, sequence) = (self.env.owner_of(&key), unsettled.id.sequence);
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
        let mut offers = Vec::new();
        let dead = self.queues.settle(&key, consumer, sequence, settlement, now, &mut offers);
        self.hand_out(offers);
        if let Some(message) = dead {
            self.counters.queue_dead_lettered_total += 1;
            self.dead_letter(&key, &message, now);
        }
    }

    /// Moves a dead letter to `<queue>.dlq`; one that is dead there as well is dropped.
    fn dead_letter(&mut self, key: &str, message: &Message, now: Tick) {
        if key.ends_with(DEAD_LETTERS) {
            return;
        }
        let destination = Destination::queue(format!("{key}{DEAD_LETTERS}"));
        let letter = Message::new(&destination, message.lines(), message.body());
        let owner = self.env.owner_of(letter.key());
        let origin = Origin { shard: self.env.id, connection: ConnKey::NOBODY, serial: None };
        if owner == self.env.id {
            if let Err(fault) = self.queue_publish(letter, now) {
                tracing::warn!(queue = key, %fault, "a dead letter is lost");
            }
        } else {
            self.port.spend(owner, letter.weight());
            self.port.write(owner, Mail::Publish { origin, message: letter });
        }
    }

    pub(super) fn hand_out(&mut self, offers: Vec<Offer<Consumer>>) {
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
        if session.subscription(class).is_none_or(|subscription| subscription.position != serial) {
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
