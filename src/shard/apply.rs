//! What frames ask for, carried out: subscriptions, publications, settlements, receipts.
//!
//! Invariant: the commands of one frame are carried out in order, and none after one that failed.

use compact_str::CompactString;

use crate::chat::destination::Kind;
use crate::chat::fault::Fault;
use crate::chat::form::AckMode;
use crate::chat::intern::Symbol;
use crate::chat::message::Message;
use crate::chat::queue::Settlement;
use crate::chat::reply;
use crate::chat::room::{Member, Stay, owner_of};
use crate::chat::session::{Command, Subscription, Unsettled};
use crate::conn::Phase;
use crate::shard::mesh::{Consumer, Mail, Origin};
use crate::shard::{Shard, Slot};
use crate::time::Tick;

impl Shard {
    /// The shard that owns a place.
    pub(super) fn owner_of(&self, key: &str) -> u16 {
        owner_of(self.seed, key, self.shards)
    }

    /// Carries out the commands of one frame.
    pub(super) fn apply(&mut self, index: u32, now: Tick) {
        let mut commands = std::mem::take(&mut self.commands);
        let is_confirmed = commands.iter().any(|command| matches!(command, Command::Receipt(_)));
        // One serial number for all publications of the frame: the receipt waits for all.
        let serial = is_confirmed.then(|| self.serial());
        let mut published = 0;
        let mut failed = None;
        let changes_members = commands
            .iter()
            .any(|command| matches!(command, Command::Subscribe { .. } | Command::Unsubscribe(_)));
        let sends_letters =
            changes_members || commands.iter().any(|command| matches!(command, Command::Settle { .. }));
        if changes_members {
            self.catch_up(now);
            if self.phase(index) != Phase::Stomp {
                // A publication before this was refused, and the session has ended by it.
                for command in commands.drain(..) {
                    if let Command::Subscribe { form, .. } = command {
                        self.forms.release(form);
                    }
                }
            }
        }
        for command in commands.drain(..) {
            if let Some((_, receipt)) = &mut failed {
                if let Command::Receipt(id) = command {
                    *receipt = Some(id);
                }
                continue;
            }
            let done = match command {
                Command::Connected => {
                    self.connected(index, now);
                    Ok(())
                }
                Command::Subscribe { form, key, kind, ack } => {
                    self.subscribe(index, form, &key, kind, ack, now)
                }
                Command::Unsubscribe(form) => {
                    self.unsubscribe(index, form, now);
                    Ok(())
                }
                Command::Publish(message) => {
                    self.publish(index, message, serial);
                    published += 1;
                    Ok(())
                }
                Command::Settle { unsettled, is_nack } => {
                    let settlement = if is_nack { Settlement::Nack } else { Settlement::Ack };
                    self.settle(index, unsettled, settlement, now);
                    Ok(())
                }
                Command::Receipt(id) => {
                    self.receipt(index, id, serial, published);
                    Ok(())
                }
                Command::Disconnect => {
                    if self.slots[index as usize].session.finish() {
                        self.disconnect(index, now);
                    }
                    Ok(())
                }
            };
            if let Err(fault) = done {
                failed = Some((fault, None));
            }
        }
        self.commands = commands;
        if changes_members && self.has_sealed_enough() {
            self.put_off(index, true);
        }
        if sends_letters && self.is_any_mailbox_full() {
            self.stall(index);
        }
        if let Some((fault, receipt)) = failed {
            self.fault(index, fault, receipt.as_deref(), now);
        }
    }

    fn connected(&mut self, index: u32, now: Tick) {
        let Slot { connection, session } = &self.slots[index as usize];
        let min = self.limits.stomp.heart_beat_min_ms;
        // The session's name is the connection's: which shard, which place, which use of it.
        let name = [u32::from(self.id), index, connection.generation];
        let version = session.version_or_newest();
        self.say(index, |out| reply::connected(version, name, [min, min], out));
        self.keep_alive(index, now);
    }

    fn subscribe(
        &mut self,
        index: u32,
        form: Symbol,
        key: &str,
        kind: Kind,
        ack: AckMode,
        now: Tick,
    ) -> Result<(), Fault> {
        let room = if kind == Kind::Queue { None } else { self.rooms.find(key) };
        if let Err(fault) = self.may_subscribe(index, key, kind, room) {
            self.forms.release(form);
            return Err(fault);
        }
        let owner = self.owner_of(key);
        let (place, position) = if kind == Kind::Queue {
            let serial = self.serial();
            let place = self.names.acquire(key.into());
            (place.0, serial)
        } else {
            if let Some(room) = room {
                self.seal(room, now);
            }
            let (room, position, stay) = self.rooms.join(key, Member { connection: index, form });
            if let Some(number) = stay {
                let stay = Stay { shard: self.id, number };
                if owner == self.id {
                    self.rooms.add_stay(key, stay);
                } else {
                    self.outboxes[owner as usize].push(Mail::Join { key: key.into(), stay });
                }
            }
            (room, position)
        };
        self.subscriptions += 1;
        self.slots[index as usize].session.subscribed(Subscription { form, place, position, ack, kind });
        self.count_sources(index);
        if kind == Kind::Queue {
            let consumer = self.consumer(index, form, position);
            self.queue_join(key, owner, consumer, now)?;
        }
        Ok(())
    }

    /// Whether a session may have one subscription more to this place. `room` is that, if it is a room that is there.
    fn may_subscribe(&self, index: u32, key: &str, kind: Kind, room: Option<u32>) -> Result<(), Fault> {
        let place = if kind == Kind::Queue { self.names.find(key).map(|name| name.0) } else { room };
        let max = self.limits.rooms.rooms_max;
        if kind != Kind::Queue && place.is_none() && self.rooms.len() >= max as usize {
            return Err(Fault::TooManyRooms { max });
        }
        let max = self.limits.stomp.subscriptions_per_destination_max;
        let subscriptions = self.slots[index as usize].session.subscriptions().iter();
        let is_here = |subscription: &&Subscription| {
            Some(subscription.place) == place && (subscription.kind == Kind::Queue) == (kind == Kind::Queue)
        };
        if subscriptions.filter(is_here).count() >= max as usize {
            return Err(Fault::TooManySubscriptionsHere { max });
        }
        Ok(())
    }

    /// The consumer that a queue subscription is.
    pub(super) fn consumer(&self, index: u32, form: Symbol, serial: u32) -> Consumer {
        Consumer { shard: self.id, connection: self.key_of(index), form, serial }
    }

    /// Notes beside what a delivery looks at whether the session has one subscription.
    fn count_sources(&mut self, index: u32) {
        let Slot { connection, session } = &mut self.slots[index as usize];
        connection.has_one_source = session.subscriptions().len() == 1;
    }

    fn unsubscribe(&mut self, index: u32, form: Symbol, now: Tick) {
        if let Some(gone) = self.slots[index as usize].session.unsubscribed(form) {
            self.count_sources(index);
            self.leave(index, gone, now);
        }
    }

    /// Takes a subscription out of its place.
    fn leave(&mut self, index: u32, gone: Subscription, now: Tick) {
        self.subscriptions -= 1;
        if gone.kind == Kind::Queue {
            let place = Symbol(gone.place);
            let key = self.names.value(place).clone();
            self.names.release(place);
            let consumer = self.consumer(index, gone.form, gone.position);
            self.queue_leave(key, consumer, now);
        } else {
            self.seal(gone.place, now);
            let left = self.rooms.leave(gone.place, gone.position);
            if let Some(moved) = left.moved {
                let last = self.rooms.room(gone.place).members().len() as u32;
                self.slots[moved.connection as usize].session.moved(gone.place, last, gone.position);
            }
            if left.was_last {
                let key: Box<str> = self.rooms.key(gone.place).into();
                let owner = self.owner_of(&key);
                if owner == self.id {
                    self.rooms.left(gone.place);
                    self.rooms.end_stay(&key, self.id);
                } else {
                    self.rooms.left(gone.place);
                    self.outboxes[owner as usize].push(Mail::Leave { key, shard: self.id });
                }
            }
        }
        self.forms.release(gone.form);
    }

    /// Takes a session out of everything it is in.
    pub(super) fn leave_all(&mut self, index: u32, now: Tick) {
        if self.phase(index) != Phase::Stomp {
            return;
        }
        while let Some(gone) = self.slots[index as usize].session.pop_subscription() {
            self.leave(index, gone, now);
        }
        self.count_sources(index);
        let session = &mut self.slots[index as usize].session;
        self.transaction_bytes -= session.transaction_bytes();
        session.end(&mut self.names);
    }

    /// Sends a message to the owner of its place, which may be this shard: then it waits in the shard's own
    /// outbox until the mailbox has been drained. A join that was posted before these bytes were read must
    /// come before them: whoever sent them may have known of it.
    fn publish(&mut self, index: u32, message: Message, serial: Option<u32>) {
        self.counters.messages_published_total += 1;
        let owner = self.owner_of(message.key());
        let connection = self.key_of(index);
        let origin = Origin { shard: self.id, connection, holder: (self.id, connection), serial };
        let under_way = &mut self.under_way[owner as usize];
        under_way.add(message.weight());
        self.rest.published_bytes += message.weight();
        let limits = &self.limits.mesh;
        let is_full = under_way.messages >= limits.messages_max || under_way.bytes >= limits.bytes_max;
        // Behind a full room everybody's messages wait: nobody is to make that a long queue.
        if is_full || self.has_backlog {
            self.stall(index);
        }
        self.outboxes[owner as usize].push(Mail::Publish { origin, message });
    }

    /// Takes no more input from this connection, because of mail, until [`Shard::unstall`] lets it go on.
    fn stall(&mut self, index: u32) {
        if self.hold(index, false) {
            self.counters.publishers_stalled_total += 1;
        }
    }

    /// Takes no more input from this connection until [`Shard::unstall`] lets it go on, after those that were not served in
    /// this turn. `false` if it was so already.
    fn hold(&mut self, index: u32, is_served: bool) -> bool {
        let key = self.key_of(index);
        let connection = &mut self.slots[index as usize].connection;
        if connection.is_stalled || connection.phase != Phase::Stomp {
            return false;
        }
        connection.is_stalled = true;
        if is_served {
            self.stalled_served.push(key)
        } else {
            self.stalled.push(key)
        }
        true
    }

    /// Whether so much was written for comings and goings that no more of them are for this turn: a member that comes or
    /// goes has all that its room owes written to everybody, and a session may say SEND and SUBSCRIBE a thousand times in
    /// one read.
    pub(super) fn has_sealed_enough(&self) -> bool {
        self.sealed >= self.limits.turn.members_max
    }

    /// Takes no more input from this connection in this turn.
    pub(super) fn put_off(&mut self, index: u32, is_served: bool) {
        if self.hold(index, is_served) {
            self.is_put_off = true;
            self.counters.memberships_put_off_total += 1;
        }
    }

    /// Answers a receipt now, or when what it covers has been confirmed.
    fn receipt(&mut self, index: u32, id: CompactString, serial: Option<u32>, published: u32) {
        match serial {
            Some(serial) if published > 0 => {
                self.slots[index as usize].session.await_confirmations(serial, published, id);
            }
            // A receipt also says that all before it was received (STOMP 1.2, RECEIPT), so it does not overtake
            // one that waits.
            Some(serial) if self.slots[index as usize].session.awaits() => {
                self.slots[index as usize].session.await_confirmations(serial, 0, id);
            }
            _ => self.send_receipt(index, &id),
        }
    }

    pub(super) fn send_receipt(&mut self, index: u32, id: &str) {
        let version = self.slots[index as usize].session.version_or_newest();
        self.say(index, |out| reply::receipt(version, id, out));
        self.counters.receipts_sent_total += 1;
    }

    /// Tells a queue what became of one of its messages.
    pub(super) fn settle(&mut self, index: u32, unsettled: Unsettled, settlement: Settlement, now: Tick) {
        let Some(&subscription) = self.slots[index as usize].session.subscription(unsettled.form) else {
            return;
        };
        let key = self.names.value(Symbol(subscription.place)).clone();
        let consumer = self.consumer(index, subscription.form, subscription.position);
        self.queue_settle(key, consumer, unsettled.id.sequence, settlement, now);
    }
}
