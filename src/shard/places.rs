//! Rooms and queues across shards: what an owner does, what it tells others, what others tell it.
//!
//! The same functions serve local callers and mail. Joins, leaves and settlements of a place whose owner is
//! this shard are handled at once, any other by a letter in the owner's outbox, posted at the next flush before
//! any socket is written. Publications are always letters, also to this shard itself.
//!
//! Invariant: letters to one shard are in the order of the events that caused them.

use smallvec::SmallVec;

use crate::chat::destination::Kind;
use crate::chat::fault::Fault;
use crate::chat::message::Message;
use crate::chat::queue::{ConsumerKey, DeadLetter, Effects, Full, Offer, Settlement};
use crate::chat::reply;
use crate::chat::room::{Sequenced, Stay};
use crate::chat::session::Unsettled;
use crate::conn::Phase;
use crate::shard::mesh::{Consumer, Credit, Holder, Mail, Origin};
use crate::shard::{ConnKey, Shard};
use crate::time::Tick;

/// The part of `outbound.reactor_bytes_max` that members' queues may be given in a turn before anything is written.
const COPIED_PART: u64 = 16;

/// The connection that the answers to dead letters are for: of no generation, so no session has it.
const DEAD_LETTER_ORIGIN: ConnKey = ConnKey { index: u32::MAX, generation: u32::MAX };

impl Shard {
    /// Takes in what other shards have posted, and lets held-up connections go on.
    pub fn drain_mailbox(&mut self, now: Tick) {
        self.hand_on_deferred(now);
        self.take_mail(now);
        self.drain_own(now);
        self.has_backlog = !self.unhandled.is_empty()
            || !self.outboxes[usize::from(self.id)].is_empty()
            // Otherwise a mailbox holds them up, and whoever empties it wakes this shard.
            || (self.must_flush() && !self.deferred.is_empty());
        self.unstall();
        self.resume(now);
    }

    /// Takes in what other shards have posted, and gives what this one has published to places of its own its place in
    /// their order. Before a session's membership changes: one that says SEND, then UNSUBSCRIBE, means them in this
    /// order, and whoever subscribes after somebody else had the RECEIPT of a SEND is not to have that message. And before a
    /// session ends: what it said before has its RECEIPT. Mail
    /// comes first, as always: a join in it may be older than the publications.
    pub(super) fn catch_up(&mut self, now: Tick) {
        if self.has_mail() {
            self.is_catching_up = true;
            self.take_mail(now);
            self.drain_own(now);
            self.is_catching_up = false;
        }
    }

    /// Whether a change of members must wait for the flush: what was said before it is for a full room. To catch up would
    /// be to put all of that into the queues of members who share little.
    pub(super) fn must_flush_first(&mut self, now: Tick) -> bool {
        if self.has_mail() {
            self.take_mail(now);
            self.drain_own(now);
        }
        self.must_flush()
    }

    /// Whether letters to this shard wait: in its mailbox, taken out of it, or written by itself.
    pub(super) fn has_mail(&self) -> bool {
        self.mesh.bytes(self.id) > 0
            || !self.unhandled.is_empty()
            || !self.outboxes[usize::from(self.id)].is_empty()
    }

    /// Whether no letter is to be handled before rooms have been written to: one has more waiting for its members than it
    /// may have, and put into their queues it would be there once for each who cannot share it, which is too much.
    fn must_flush(&self) -> bool {
        self.has_full_room && !self.is_catching_up
    }

    /// Takes in what other shards have posted since the mailbox was drained, unless that is more than `bytes_left`. For
    /// the midst of a flush: what it causes in rooms that were written before, or not listed, leaves in the next turn, all
    /// else in this one.
    ///
    /// Publishers that are held up are not looked at here. The next turn does, and there is one: whoever posted has woken
    /// this shard, and that wake-up has not been seen yet.
    pub(super) fn take_late_mail(&mut self, bytes_left: &mut u64, now: Tick) {
        let bytes = self.mesh.bytes(self.id);
        if bytes == 0 || bytes > *bytes_left || self.must_flush() {
            return;
        }
        // More may have come since: the bound is one on when to stop looking.
        *bytes_left -= bytes;
        self.take_mail(now);
        self.drain_own(now);
        self.post_mail();
    }

    fn take_mail(&mut self, now: Tick) {
        while !self.must_flush()
            && let Some(letter) = self.unhandled.pop_front()
        {
            self.handle_mail(letter, now);
        }
        if self.must_flush() {
            return;
        }
        let mut mail = std::mem::take(&mut self.mail);
        self.mesh.take(self.id, &mut mail);
        self.counters.mailbox_messages_total += mail.len() as u64;
        let mut letters = mail.drain(..);
        while !self.must_flush()
            && let Some(letter) = letters.next()
        {
            self.handle_mail(letter, now);
        }
        self.unhandled.extend(letters);
        self.mail = mail;
    }

    /// Handles what this shard has published to places of its own, unless mail that came before waits.
    fn drain_own(&mut self, now: Tick) {
        let me = usize::from(self.id);
        let mut mail = std::mem::take(&mut self.mail);
        while self.unhandled.is_empty() && !self.must_flush() && !self.outboxes[me].is_empty() {
            std::mem::swap(&mut self.outboxes[me], &mut mail);
            let mut letters = mail.drain(..);
            while !self.must_flush()
                && let Some(letter) = letters.next()
            {
                self.handle_mail(letter, now);
            }
            // What is left comes before what was written meanwhile.
            self.outboxes[me].splice(..0, letters);
        }
        self.mail = mail;
        let credit = std::mem::take(&mut self.handled[me]);
        self.under_way[me].subtract(credit);
    }

    fn handle_mail(&mut self, mail: Mail, now: Tick) {
        match mail {
            Mail::Join { key, stay } => self.rooms.add_stay(&key, stay),
            Mail::Leave { key, shard } => self.rooms.end_stay(&key, shard),
            Mail::Publish { origin, message } => {
                let room = self.room_of(&message);
                if !self.deferred.is_empty() || self.is_held_up(room) {
                    // Behind what is held back already, so that nothing overtakes.
                    self.deferred.push_back((origin, message));
                } else {
                    self.publish_for(origin, room, message, now);
                }
            }
            Mail::Deliver { sequenced, stay } => {
                if let Some(room) = self.room_of(&sequenced.message) {
                    self.deliver(room, sequenced, stay, now);
                }
            }
            Mail::Confirmed { connection: DEAD_LETTER_ORIGIN, serial } => {
                self.dead_letter_answered(serial, true, now);
            }
            Mail::Rejected { connection: DEAD_LETTER_ORIGIN, serial: Some(serial), .. } => {
                self.dead_letter_answered(serial, false, now);
            }
            Mail::Confirmed { connection, serial } => {
                if self.is_current(connection) && self.phase(connection.index) == Phase::Stomp {
                    self.confirmed(connection.index, serial, now);
                }
            }
            Mail::Rejected { connection, serial, fault } => {
                if self.is_current(connection) {
                    let index = connection.index;
                    let session = &mut self.slots[index as usize].session;
                    let receipt = serial.and_then(|serial| session.take_awaited(serial));
                    self.fault(index, fault, receipt.as_deref(), now);
                }
            }
            Mail::Handled { owner, credit } => self.under_way[owner as usize].subtract(credit),
            Mail::QueueJoin { key, consumer } => {
                if let Err(fault) = self.queue_join(&key, self.id, consumer, now) {
                    unreachable!("{fault}: a refusal of another shard's consumer is a letter");
                }
            }
            Mail::QueueLeave { key, consumer } => self.queue_leave(key, consumer, now),
            Mail::QueueSettle { key, consumer, sequence, settlement } => {
                self.queue_settle(key, consumer, sequence, settlement, now);
            }
            Mail::QueueOffer(offer) => self.take_offer(offer),
        }
    }

    // ---- publications ----

    /// The room that a message is for, if it is for one and that has members or an owner here. Good until somebody
    /// joins or leaves.
    fn room_of(&self, message: &Message) -> Option<u32> {
        if message.kind() == Kind::Queue { None } else { self.rooms.find(message.key()) }
    }

    /// A publication that another shard has sent to this one, the owner.
    fn publish_for(&mut self, origin: Origin, room: Option<u32>, message: Message, now: Tick) {
        self.handled[origin.shard as usize].add(message.weight());
        let answer = match (self.publish_here(origin.holder, room, message, now), origin.serial) {
            (Err(fault), serial) => Mail::Rejected { connection: origin.connection, serial, fault },
            (Ok(()), Some(serial)) => Mail::Confirmed { connection: origin.connection, serial },
            (Ok(()), None) => return,
        };
        self.answer(origin.shard, answer);
    }

    /// Tells a session of `shard` what became of what it asked for.
    fn answer(&mut self, shard: u16, answer: Mail) {
        if shard == self.id {
            self.outboxes[shard as usize].push(answer);
        } else {
            self.answers.push((shard, answer));
        }
    }

    /// Hands on what was held back, in order, until one is held up still.
    fn hand_on_deferred(&mut self, now: Tick) {
        while !self.must_flush()
            && let Some((origin, message)) = self.deferred.pop_front()
        {
            let room = self.room_of(&message);
            if self.is_held_up(room) {
                return self.deferred.push_front((origin, message));
            }
            self.publish_for(origin, room, message, now);
            // So that the next one is judged by what this one has added.
            self.post_mail();
        }
    }

    /// Whether a shard that a message of this room must go to is behind.
    fn is_held_up(&self, room: Option<u32>) -> bool {
        let bytes_max = self.limits.mesh.bytes_max;
        let stays = room.map_or(&[][..], |room| self.rooms.stays(room));
        stays.iter().any(|stay| stay.shard != self.id && self.mesh.is_full(stay.shard, bytes_max))
    }

    /// Gives a message its place, as the owner.
    fn publish_here(
        &mut self,
        holder: Holder,
        room: Option<u32>,
        message: Message,
        now: Tick,
    ) -> Result<(), Fault> {
        if message.kind() == Kind::Queue {
            let mut effects = Effects::default();
            let taken = self.queues.publish(message, holder, now, &mut effects);
            self.act_on(effects);
            return taken.map_err(|full| {
                self.counters.queue_messages_refused_total += 1;
                Fault::QueueFull { bound: full.bound, max: full.max }
            });
        }
        // Nobody in the room: there is no order to have a place in.
        let Some(room) = room else { return Ok(()) };
        let Some(id) = self.rooms.sequence(room) else { return Ok(()) };
        let sequenced = Sequenced { id, message };
        let mut own = None;
        for &Stay { shard, number: stay } in self.rooms.stays(room) {
            if shard == self.id {
                own = Some(stay);
            } else {
                let letter = Mail::Deliver { sequenced: sequenced.clone(), stay };
                self.outboxes[shard as usize].push(letter);
            }
        }
        if let Some(stay) = own {
            // The last, so that with one shard the message is moved: a first copy of it allocates.
            self.deliver(room, sequenced, stay, now);
        }
        Ok(())
    }

    /// Leaves a message for the local members of its room.
    fn deliver(&mut self, room: u32, sequenced: Sequenced, stay: u32, now: Tick) {
        let bytes = self.rooms.deliver(room, sequenced, stay);
        if bytes <= self.limits.turn.room_bytes_max {
            return;
        }
        // What the members' queues will hold, if as many copies are made as there can be.
        let copied = self.copied.saturating_add(bytes.saturating_mul(self.rooms.runs(room) as u64));
        let is_cheap = copied <= self.limits.outbound.reactor_bytes_max / COPIED_PART;
        if is_cheap || self.is_catching_up {
            self.copied = copied;
            let members = self.fan_out_to_queues(room, now);
            // Somebody's end has made these copies: no more comings and goings are to add theirs in this turn.
            self.sealed = self.sealed.saturating_add(if is_cheap { 0 } else { members });
        } else if !std::mem::replace(&mut self.has_full_room, true) {
            self.counters.rooms_full_total += 1;
        }
    }

    /// Fans out what a room has pending before its members change, so that each gets exactly what was
    /// sequenced while it was in.
    pub(super) fn seal(&mut self, room: u32, now: Tick) {
        if self.rooms.has_backlog(room) {
            let members = self.fan_out_to_queues(room, now);
            self.sealed = self.sealed.saturating_add(members);
        }
    }

    fn confirmed(&mut self, index: u32, serial: u32, now: Tick) {
        let mut receipts = SmallVec::new();
        let is_finished = self.slots[index as usize].session.confirmed(serial, &mut receipts);
        for receipt in receipts {
            self.send_receipt(index, &receipt);
        }
        if is_finished {
            self.disconnect(index, now);
        }
    }

    /// Whether another shard is behind with its mail. Comings, goings and settlements have no credit of their own, as they
    /// must never be lost: who causes them waits.
    pub(super) fn is_any_mailbox_full(&self) -> bool {
        let bytes_max = self.limits.mesh.bytes_max;
        (0..self.shards).any(|shard| shard != self.id && self.mesh.is_full(shard, bytes_max))
    }

    /// Lets stalled sessions go on if nothing is held up any more.
    fn unstall(&mut self) {
        self.is_put_off = false;
        let is_nobody = self.stalled.is_empty() && self.stalled_served.is_empty();
        if is_nobody || self.has_backlog || !self.deferred.is_empty() {
            return;
        }
        let limits = &self.limits.mesh;
        // Half the bound, so that publishers do not stop and go for every message.
        let is_over = |credit: &Credit| {
            credit.messages > limits.messages_max / 2 || credit.bytes > limits.bytes_max / 2
        };
        if self.under_way.iter().any(is_over) || self.is_any_mailbox_full() {
            return;
        }
        // However many come and go, somebody who waited does.
        self.is_one_due = true;
        let mut stalled = std::mem::take(&mut self.stalled);
        stalled.append(&mut self.stalled_served);
        for key in stalled {
            if self.is_current(key) {
                self.slots[key.index as usize].connection.is_stalled = false;
                self.resumable.push(key);
            }
        }
    }

    /// Puts all letters into their mailboxes. Done before sockets are written: whoever reads an answer and
    /// acts on it comes behind what the answer was about. So answers are posted last, when that is in the mailboxes of
    /// all shards.
    pub(super) fn post_mail(&mut self) {
        self.post_outboxes();
        if !self.answers.is_empty() {
            for (shard, answer) in self.answers.drain(..) {
                self.outboxes[shard as usize].push(answer);
            }
            self.post_outboxes();
        }
    }

    fn post_outboxes(&mut self) {
        for shard in (0..self.shards).filter(|shard| *shard != self.id) {
            let credit = std::mem::take(&mut self.handled[shard as usize]);
            if credit != Credit::default() {
                self.outboxes[shard as usize].push(Mail::Handled { owner: self.id, credit });
            }
            self.mesh.post(shard, &mut self.outboxes[shard as usize]);
        }
    }

    // ---- queues ----

    pub(super) fn queue_join(
        &mut self,
        key: &str,
        owner: u16,
        consumer: Consumer,
        now: Tick,
    ) -> Result<(), Fault> {
        if owner != self.id {
            self.outboxes[owner as usize].push(Mail::QueueJoin { key: key.into(), consumer });
            return Ok(());
        }
        let mut effects = Effects::default();
        let joined = self.queues.join(key, consumer, consumer.session(), now, &mut effects);
        self.act_on(effects);
        let Err(Full { bound, max }) = joined else { return Ok(()) };
        let fault = if bound == "rooms.rooms_max" {
            Fault::TooManyRooms { max: self.limits.rooms.rooms_max }
        } else {
            self.counters.rooms_refused_total += 1;
            Fault::QueueFull { bound, max }
        };
        if consumer.shard == self.id {
            return Err(fault);
        }
        self.answer(consumer.shard, Mail::Rejected { connection: consumer.connection, serial: None, fault });
        Ok(())
    }

    pub(super) fn queue_leave(&mut self, key: Box<str>, consumer: Consumer, now: Tick) {
        let owner = self.owner_of(&key);
        if owner != self.id {
            self.outboxes[owner as usize].push(Mail::QueueLeave { key, consumer });
            return;
        }
        let mut effects = Effects::default();
        self.queues.leave(&key, consumer, now, &mut effects);
        self.act_on(effects);
    }

    pub(super) fn queue_settle(
        &mut self,
        key: Box<str>,
        consumer: Consumer,
        sequence: u64,
        settlement: Settlement,
        now: Tick,
    ) {
        let owner = self.owner_of(&key);
        if owner != self.id {
            let letter = Mail::QueueSettle { key, consumer, sequence, settlement };
            self.outboxes[owner as usize].push(letter);
            return;
        }
        let mut effects = Effects::default();
        self.queues.settle(&key, consumer, sequence, settlement, now, &mut effects);
        self.act_on(effects);
    }

    /// Does what is due in queues.
    pub(super) fn expire_queues(&mut self, now: Tick) {
        let mut effects = Effects::default();
        self.queues.expire(now, &mut effects);
        self.act_on(effects);
    }

    /// Does what queues of this shard have caused.
    fn act_on(&mut self, effects: Effects<Consumer, Holder>) {
        self.counters.queue_ack_timeouts_total += effects.ack_timeouts;
        self.counters.queue_messages_expired_total += effects.expired;
        self.counters.queue_dead_lettered_total += effects.dropped;
        self.hand_out(effects.offers);
        for dead_letter in effects.dead_letters {
            self.send_dead_letter(dead_letter);
        }
    }

    /// Publishes a dead letter to the owner of its dead-letter queue.
    fn send_dead_letter(&mut self, dead_letter: DeadLetter<Holder>) {
        let DeadLetter { key, id, holder, message } = dead_letter;
        let serial = self.serial();
        self.dead_letters.insert(serial, (key, id));
        let owner = self.owner_of(message.key());
        self.under_way[owner as usize].add(message.weight());
        let origin = Origin { shard: self.id, connection: DEAD_LETTER_ORIGIN, holder, serial: Some(serial) };
        self.outboxes[owner as usize].push(Mail::Publish { origin, message });
    }

    fn dead_letter_answered(&mut self, serial: u32, is_taken: bool, now: Tick) {
        let Some((key, id)) = self.dead_letters.remove(&serial) else { return };
        if !is_taken {
            return self.queues.dead_letter_refused(&key, id, now);
        }
        self.counters.queue_dead_lettered_total += 1;
        let mut effects = Effects::default();
        self.queues.dead_lettered(&key, id, now, &mut effects);
        self.act_on(effects);
    }

    fn hand_out(&mut self, offers: Vec<Offer<Consumer>>) {
        for offer in offers {
            self.counters.queue_redelivered_total += u64::from(offer.is_redelivered);
            match offer.consumer.shard {
                shard if shard == self.id => self.take_offer(offer),
                shard => self.outboxes[shard as usize].push(Mail::QueueOffer(offer)),
            }
        }
    }

    /// A queue's message for one of this shard's sessions. A consumer that has gone is ignored: its owner
    /// gets, or has, the letter that says so, and offers the message to another.
    fn take_offer(&mut self, offer: Offer<Consumer>) {
        let Consumer { connection, form, serial, .. } = offer.consumer;
        if !self.is_current(connection) {
            return;
        }
        let session = &mut self.slots[connection.index as usize].session;
        if session.subscription(form).is_none_or(|subscription| subscription.position != serial) {
            return;
        }
        session.delivered(Unsettled { id: offer.id, form });
        let mut bytes = Vec::with_capacity(offer.message.body().len() + 256);
        reply::message(self.forms.value(form), offer.id, &offer.message, offer.is_redelivered, &mut bytes);
        self.counters.messages_delivered_total += 1;
        self.push_vec(connection.index, bytes);
    }
}
