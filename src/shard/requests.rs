//! Requests: what this shard does as an owner, and what its sessions do when an owner has answered.
//!
//! The same functions serve local sessions and mail. An owner accepts, gives a message its place, and hands it on to each shard
//! with members; a shard with members appends it to the room's log. A completion of a SUBSCRIBE or UNSUBSCRIBE is written in
//! order with the room's messages, so the subscription begins and ends at the position that the owner named; that of a
//! publication is written behind all messages, so that whoever acts on a RECEIPT comes behind what it is about.
//!
//! Invariant: a request of another shard's session that asks for a completion gets one, now or when what is parked has its
//! place.

use std::num::NonZeroU32;

use smallvec::SmallVec;

use crate::broker::topic::{Parked, Published, Residency};
use crate::conn::Phase;
use crate::conn::hold::Reason;
use crate::mesh::mail::Mail;
use crate::mesh::request::Completion;
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::{ConnKey, Consumer, Holder, Origin, Own};
use crate::message::past::{Past, Start};
use crate::message::{Message, Sequenced};
use crate::shard::Shard;
use crate::time::Tick;

/// Requests and receipts that a session waits for with which it is not read any further.
pub(super) const AWAITED_MAX: usize = 1024;

impl Shard {
    // ---- the turn's share ----

    /// Takes in what other shards have posted, and lets connections go on that nothing holds any more.
    pub fn take_mail(&mut self, now: Tick) {
        self.hand_on_deferred(now);
        if !self.recoveries.is_empty() {
            self.members.forget_runs();
        }
        let mut mail = self.port.take();
        self.counters.mailbox_messages_total += mail.len() as u64;
        for piece in mail.drain(..) {
            self.handle(piece, now);
        }
        self.port.reuse(mail);
        self.take_dead_letters(now);
        self.unpark(now);
        self.continue_recoveries(now);
        for key in self.port.take_waiting() {
            self.release(key, Reason::Credit);
        }
        self.resume(now);
    }

    /// Ends a reason for which a connection is held, if it is there.
    pub(super) fn release(&mut self, key: ConnKey, reason: Reason) {
        if self.is_current(key) {
            self.holds.release(key, &mut self.connections[key.index], reason);
        }
    }

    pub(super) fn handle(&mut self, mail: Mail, now: Tick) {
        match mail {
            Mail::Subscribe { kind: Kind::Topic | Kind::User, .. }
            | Mail::Unsubscribe { origin: Origin { serial: Some(_), .. }, .. }
                if self.port.has_deferred() =>
            {
                // Behind what its session has published before. A queue keeps that, and must not learn of the end of a
                // consumer before its begin.
                self.port.defer(mail);
            }
            Mail::Subscribe { key, kind, origin, consumer, past } => {
                self.subscribe_for(key, kind, origin, consumer, past.map(|past| *past), now);
            }
            Mail::Recover { key, kind, origin, asked } => self.recover_for(key, kind, origin, asked, now),
            Mail::Unsubscribe { key, kind, origin, consumer } => {
                self.unsubscribe_for(key, kind, origin, consumer, now);
            }
            Mail::Publish { origin, message } => {
                if self.port.has_deferred() || self.is_held_up(&message) {
                    // Behind what is held back already, so that nothing overtakes.
                    self.port.defer(Mail::Publish { origin, message });
                } else {
                    self.publish_for(origin, message, now);
                }
            }
            Mail::Deliver(sequenced) => {
                let hash = self.env.hash_of(sequenced.message.key_bytes());
                self.deliver(sequenced, hash);
            }
            Mail::Completed { connection, serial, completion } => {
                self.take_completion(connection, serial, completion, now);
            }
            Mail::Handled { owner, credit } => self.port.give_back(owner, credit),
            Mail::RoomFull { key, shard, is_full } => self.topics.set_full(&key, shard, is_full),
            Mail::Parked { connection, is_parked: true } => self.hold_for_room(connection),
            Mail::Parked { connection, is_parked: false } => self.let_go_of_room(connection),
            Mail::Settle { key, consumer, sequence, settlement } => {
                self.queue_settle(key, consumer, sequence, settlement, now);
            }
            Mail::Offer(offer) => self.take_offer(offer),
            Mail::Inquire(inquiry) => self.inquire(*inquiry, now),
        }
    }

    // ---- an owner's side ----

    /// As the owner: a session, of whatever shard, may have one subscription more. If it asks for the past, returns how that
    /// begins: unless there is none, it has the subscription when it has had that.
    pub(super) fn accept_subscription(
        &mut self,
        key: &str,
        kind: Kind,
        origin: Origin,
        consumer: Consumer,
        past: Option<Past>,
        now: Tick,
    ) -> Result<Option<Start>, Fault> {
        if kind == Kind::Queue {
            return self.queue_join(key, consumer, origin.holder, now).map(|()| None);
        }
        let max = self.env.limits.rooms.rooms_max;
        let accepted = match past {
            None => self.topics.subscribe(key, &origin).map(|_| None),
            Some(past) => {
                let max = self.env.limits.history.recovered_messages_max;
                self.topics.recover(key, &origin, past, max).map(Some)
            }
        };
        accepted.ok_or(Fault::TooManyRooms { max })
    }

    /// As the owner: a session of another shard subscribes, behind what it has parked in the room.
    fn subscribe_for(
        &mut self,
        key: Box<str>,
        kind: Kind,
        origin: Origin,
        consumer: Consumer,
        past: Option<Past>,
        now: Tick,
    ) {
        if kind != Kind::Queue && self.topics.park_begin(&key, kind, origin, past) {
            return;
        }
        self.begin_for(key, kind, origin, consumer, past, now);
    }

    /// As the owner: begins a subscription that nothing holds back, and says so.
    fn begin_for(
        &mut self,
        key: Box<str>,
        kind: Kind,
        origin: Origin,
        consumer: Consumer,
        past: Option<Past>,
        now: Tick,
    ) {
        let completion = match self.accept_subscription(&key, kind, origin, consumer, past, now) {
            Ok(Some(start)) if !start.is_done() => Completion::Recovering { key, start: Box::new(start) },
            Ok(start) => Completion::Subscribed { key, kind, start: start.map(Box::new) },
            Err(fault) => Completion::Refused(fault),
        };
        self.complete(origin, completion, now);
    }

    /// As the owner: a subscription has ended.
    pub(super) fn end_subscription(
        &mut self,
        key: &str,
        kind: Kind,
        origin: Origin,
        consumer: Consumer,
        now: Tick,
    ) {
        if kind == Kind::Queue {
            self.queue_leave(key, consumer, now);
        } else {
            self.topics.unsubscribe(key, origin.shard);
        }
    }

    /// As the owner: a subscription of another shard's session ends, behind what is parked in its room.
    fn unsubscribe_for(&mut self, key: Box<str>, kind: Kind, origin: Origin, consumer: Consumer, now: Tick) {
        let is_awaited = origin.serial.is_some();
        if is_awaited && kind != Kind::Queue && self.topics.park_end(&key, origin) {
            return;
        }
        self.end_subscription(&key, kind, origin, consumer, now);
        if is_awaited {
            self.complete(origin, Completion::Unsubscribed { key }, now);
        }
    }

    /// As the owner: a publication of another shard's session.
    fn publish_for(&mut self, origin: Origin, message: Message, now: Tick) {
        self.port.handle(origin.shard, message.weight());
        match self.accept_publication(origin, message, now) {
            Err(fault) => self.complete(origin, Completion::Refused(fault), now),
            Ok(true) => {}
            Ok(false) => self.published(origin, now),
        }
    }

    /// As the owner: gives a message its place. Returns whether it must wait for that.
    pub(super) fn accept_publication(
        &mut self,
        origin: Origin,
        message: Message,
        now: Tick,
    ) -> Result<bool, Fault> {
        match message.kind() {
            Kind::Queue => return self.queue_publish(message, origin.holder, now).map(|()| false),
            Kind::Reply => {
                self.take_reply(&message);
                return Ok(false);
            }
            Kind::Topic | Kind::User => {}
        }
        let hash = self.env.hash_of(message.key_bytes());
        match self.topics.publish(origin, message, hash, now) {
            Published::Nobody(_) => Ok(false),
            Published::Sequenced(id, message, shards) => {
                if self.port.hand_on(id, &message, shards) {
                    self.deliver(Sequenced { id, message }, hash);
                }
                Ok(false)
            }
            Published::NoRoom => Err(Fault::TooManyRooms { max: self.env.limits.rooms.rooms_max }),
            Published::Refused { max } => {
                self.counters.publications_refused_total += 1;
                Err(Fault::RoomFull { max })
            }
            Published::Parked => {
                self.counters.publications_parked_total += 1;
                if origin.shard == self.env.id {
                    self.hold_for_room(origin.connection);
                } else {
                    let parked = Mail::Parked { connection: origin.connection, is_parked: true };
                    self.port.write(origin.shard, parked);
                }
                Ok(true)
            }
        }
    }

    /// As the owner: gives what is parked in rooms that have room again its place.
    fn unpark(&mut self, now: Tick) {
        for key in self.topics.take_ready() {
            while let Some((origin, parked)) = self.topics.unpark(&key) {
                let message = match parked {
                    Parked::Publication(message) => message,
                    Parked::Begin(kind, past) => {
                        // A session of this shard is held while it has something parked.
                        let nobody = self.no_consumer(origin.connection);
                        self.begin_for(key.clone(), kind, origin, nobody, past, now);
                        continue;
                    }
                    Parked::End => {
                        self.topics.unsubscribe(&key, origin.shard);
                        self.complete(origin, Completion::Unsubscribed { key: key.clone() }, now);
                        continue;
                    }
                };
                if let Published::Sequenced(id, message, shards) =
                    self.topics.publish_parked(origin.holder, message, now)
                    && self.port.hand_on(id, &message, shards)
                {
                    let hash = self.env.hash_of(message.key_bytes());
                    self.deliver(Sequenced { id, message }, hash);
                }
                if origin.shard == self.env.id {
                    self.let_go_of_room(origin.connection);
                } else {
                    let parked = Mail::Parked { connection: origin.connection, is_parked: false };
                    self.port.write(origin.shard, parked);
                }
                self.published(origin, now);
            }
        }
    }

    /// As the owner: a publication has its place; its session is told if it waits for that.
    fn published(&mut self, origin: Origin, now: Tick) {
        let Origin { shard, connection, serial: Some(serial), .. } = origin else { return };
        if shard == self.env.id {
            return self.take_completion(connection, Some(serial), Completion::Published, now);
        }
        let (serial, completion) = (Some(serial), Completion::Published);
        self.port.write_last(shard, Mail::Completed { connection, serial, completion });
    }

    /// As the owner: answers another shard's session, in order with the messages of its rooms; or a service.
    pub(super) fn complete(&mut self, origin: Origin, completion: Completion, now: Tick) {
        let Origin { shard, connection, serial, .. } = origin;
        if shard == self.env.id {
            return self.take_completion(connection, serial, completion, now);
        }
        self.port.write(shard, Mail::Completed { connection, serial, completion });
    }

    /// Hands on what was held back, in order, until one is held up still.
    fn hand_on_deferred(&mut self, now: Tick) {
        while let Some(next) = self.port.next_deferred() {
            if let Mail::Publish { message, .. } = next
                && self.is_held_up(message)
            {
                return;
            }
            match self.port.take_deferred() {
                Some(Mail::Publish { origin, message }) => self.publish_for(origin, message, now),
                Some(Mail::Subscribe { key, kind, origin, consumer, past }) => {
                    self.subscribe_for(key, kind, origin, consumer, past.map(|past| *past), now);
                }
                Some(Mail::Unsubscribe { key, kind, origin, consumer }) => {
                    self.unsubscribe_for(key, kind, origin, consumer, now);
                }
                _ => return,
            }
            // So that the next one is judged by what this one has added.
            self.port.post();
        }
    }

    /// Whether a shard that a message must go to is behind with its mail.
    fn is_held_up(&self, message: &Message) -> bool {
        let shards = self.topics.shards(message.key());
        shards.iter().any(|&Residency { shard, .. }| self.port.is_full(shard))
    }

    // ---- members' side ----

    /// Appends a message to what the members of its room are owed.
    fn deliver(&mut self, sequenced: Sequenced, hash: u64) {
        let Some(room) = self.members.find_hashed(sequenced.message.key_bytes(), hash) else { return };
        if self.members.deliver(room, sequenced, self.env.terms.pending_bytes_max) {
            self.counters.rooms_full_total += 1;
            let key = self.members.key(room).into();
            self.tell_owner(key, true);
        }
    }

    /// Tells owners which rooms have room again.
    pub(super) fn tell_ready(&mut self) {
        for key in self.members.take_ready() {
            self.tell_owner(key, false);
        }
    }

    fn tell_owner(&mut self, key: Box<str>, is_full: bool) {
        let (owner, shard) = (self.env.owner_of(key.as_bytes()), self.env.id);
        if owner == shard {
            self.topics.set_full(&key, shard, is_full);
        } else {
            self.port.write(owner, Mail::RoomFull { key, shard, is_full });
        }
    }

    // ---- a session's side ----

    /// A publication of a session has its place that was parked: if it was the last one, the session goes on.
    fn let_go_of_room(&mut self, key: ConnKey) {
        if self.is_current(key)
            && self.connections.phase(key.index) == Phase::Stomp
            && self.sessions[key.index].unparked()
        {
            self.release(key, Reason::Room);
        }
    }

    /// A session's publication is parked: it says no more until all of them have their place.
    fn hold_for_room(&mut self, key: ConnKey) {
        if self.is_current(key) && self.connections.phase(key.index) == Phase::Stomp {
            self.sessions[key.index].parked();
            self.holds.hold(&mut self.connections[key.index], Reason::Room);
        }
    }

    /// An owner, or a service, has answered a request.
    fn take_completion(
        &mut self,
        connection: ConnKey,
        serial: Option<u32>,
        completion: Completion,
        now: Tick,
    ) {
        let index = connection.index;
        match connection.own() {
            None => {}
            Some(Own::DeadLetters) => {
                return self.dead_letter_answered(serial, completion == Completion::Published, now);
            }
            Some(Own::Inquiries) => return self.publication_answered(serial, completion),
            // What was refused is counted where it was.
            Some(Own::Events) => return,
        }
        let is_there = self.is_current(connection) && self.connections.phase(index).has_session();
        match completion {
            Completion::Subscribed { key, kind, start } => {
                let found = serial.and_then(|serial| self.joining(index, is_there, serial));
                match found {
                    Some((serial, class)) => {
                        if let Some(start) = start {
                            self.answer_past(index, class, &key, &start);
                        }
                        self.join(index, serial, &key);
                        self.completed(index, serial, now);
                    }
                    // The session has ended meanwhile. A queue has been told so.
                    None if kind != Kind::Queue => self.write_end_of(&key, kind, connection),
                    None => {}
                }
            }
            Completion::Recovering { key, start } => {
                if let Some((serial, _)) = serial.and_then(|serial| self.joining(index, is_there, serial)) {
                    self.begin_recovery(index, serial, &key, &start);
                    self.completed(index, serial, now);
                }
            }
            Completion::Page { key, kind, page } => {
                self.take_page(connection, serial.unwrap_or_default(), &key, kind, page, now);
            }
            Completion::Unsubscribed { key } if is_there => {
                let room = self.members.find(&key);
                let gone = room.and_then(|room| self.sessions[index].subscriptions_mut().left(room));
                let request = serial.and_then(NonZeroU32::new);
                let is_owed = gone.is_some_and(|gone| self.leave_place(index, gone, request));
                match serial {
                    Some(serial) if is_owed => {
                        // Its RECEIPT waits until what it is owed is sent; what comes behind it does not.
                        self.sessions[index].answered(serial);
                        self.let_go_on(index);
                    }
                    Some(serial) => self.completed(index, serial, now),
                    None => {}
                }
            }
            Completion::Published if is_there => {
                if let Some(serial) = serial {
                    self.completed(index, serial, now);
                }
            }
            Completion::Identified(identity) if is_there => {
                if let Some(serial) = serial {
                    self.identified(connection, serial, *identity, now);
                }
            }
            // A service may say so of what it has completed before.
            Completion::Refused(_)
                if is_there && serial.is_some_and(|serial| !self.sessions[index].awaits_request(serial)) => {}
            Completion::Refused(fault) if is_there => {
                self.counters.logins_refused_total += u64::from(fault == Fault::Expired);
                self.refuse_earlier(index, serial, fault, now);
            }
            _ => {}
        }
    }

    /// What stands in requests about rooms for the consumer of a queue.
    fn no_consumer(&self, connection: ConnKey) -> Consumer {
        Consumer { shard: self.env.id, connection, class: Symbol(u32::MAX), serial: 0 }
    }

    /// The request of this number and the class of the subscription that waits for it, if one does.
    fn joining(&self, index: u32, is_there: bool, serial: u32) -> Option<(u32, Symbol)> {
        let subscriptions = is_there.then(|| self.sessions[index].subscriptions())?;
        Some((serial, subscriptions.joining(serial)?.class))
    }

    /// Ends a subscription at its owner that the session does not have any more.
    pub(super) fn write_end_of(&mut self, key: &str, kind: Kind, connection: ConnKey) {
        let shard = self.env.id;
        let origin = Origin { shard, connection, serial: None, holder: Holder::Session(shard, connection) };
        let consumer = self.no_consumer(connection);
        let mail = Mail::Unsubscribe { key: key.into(), kind, origin, consumer };
        self.port.write(self.env.owner_of(key.as_bytes()), mail);
    }

    /// A request of a session is done: receipts leave that waited for it.
    pub(super) fn completed(&mut self, index: u32, serial: u32, now: Tick) {
        let mut receipts = SmallVec::new();
        self.sessions[index].completed(serial, &mut receipts);
        for receipt in receipts {
            self.send_receipt(index, &receipt.id, receipt.lasts_until_s);
        }
        match self.connections.phase(index) {
            Phase::Concluding => self.conclude_if_done(index, now),
            _ => self.let_go_on(index),
        }
    }

    /// Lets a session go on that was held for answers of owners, if all have come.
    pub(super) fn let_go_on(&mut self, index: u32) {
        let session = &self.sessions[index];
        if !session.awaits_other_than(None) && session.awaited() <= AWAITED_MAX / 2 {
            self.release(self.connections.key_of(index), Reason::Answer);
        }
    }
}
