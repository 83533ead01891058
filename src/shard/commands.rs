//! What frames ask for, carried out: sessions, subscriptions, publications, receipts.
//!
//! What concerns a room or a queue is a request to its owner. An owner that is this shard completes in place; any other gets
//! mail, and the session waits for the completion (`requests`).
//!
//! Invariant: the commands of one frame are carried out in order, and none after one that failed.

use std::num::NonZeroU32;

use compact_str::CompactString;

use crate::broker::queue::Settlement;
use crate::conn::Phase;
use crate::conn::hold::Reason;
use crate::mesh::mail::Mail;
use crate::message::Message;
use crate::message::class::AckMode;
use crate::message::destination::{Destination, Kind};
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::{Consumer, Holder, Origin};
use crate::message::past::Past;
use crate::message::reply;
use crate::session::{Awaited, Command, End, Question, Receipt, State, Subscription};
use crate::shard::Shard;
use crate::shard::events::Event;
use crate::shard::requests::AWAITED_MAX;
use crate::time::Tick;
use crate::wire::stomp::{self, StompFrame};

/// What a frame's receipt waits for.
#[derive(Default)]
pub(super) struct Covered {
    /// The number of its requests, if it asks for a receipt.
    pub(super) serial: Option<u32>,
    /// Requests that are not done in place.
    left: u32,
    /// The owner of the destination that it subscribes to, or unsubscribes from, if that is another shard.
    owner: Option<u16>,
    /// The hash of a room that it joins there.
    joins: Option<u64>,
}

impl Shard {
    /// Whether a frame must not be taken before the completions of SUBSCRIBEs and UNSUBSCRIBEs have come: it takes effect at
    /// another owner than they, and would overtake them.
    pub(super) fn must_wait(&self, index: u32, stomp_frame: &StompFrame<'_>) -> bool {
        let session = &self.sessions[index];
        match stomp_frame.command {
            stomp::Command::Subscribe if self.would_pass_its_past(index, stomp_frame) => true,
            _ if !session.awaits_other_than(None) => false,
            stomp::Command::Send if stomp_frame.header("transaction").is_none() => {
                let destination = stomp_frame.header("destination");
                let owner = destination.as_deref().and_then(|text| {
                    Destination::parse_send(text).ok().map(|destination| {
                        self.env.owner_of_message(destination.kind(), destination.key().as_bytes())
                    })
                });
                session.awaits_other_than(owner)
            }
            stomp::Command::Commit => true,
            stomp::Command::Subscribe if self.is_question(index, stomp_frame) => {
                let destination = stomp_frame.header("destination").unwrap_or_default();
                session.awaits_other_than(Some(self.env.owner_of(destination.as_bytes())))
            }
            // Its owner may refuse it yet.
            stomp::Command::Unsubscribe => session.subscriptions().is_joining(),
            // Two with one id are not in one room at once.
            stomp::Command::Subscribe => {
                let id = stomp_frame.header("id").or_else(|| stomp_frame.header("destination"));
                id.is_some_and(|id| session.subscriptions().is_leaving(&id, self.members.classes()))
            }
            _ => false,
        }
    }

    /// Carries out the commands of one frame, which has this command.
    pub(super) fn apply(&mut self, index: u32, frame: stomp::Command, now: Tick) {
        let mut commands = self.sessions.take_commands();
        let is_confirmed = commands.iter().any(|command| matches!(command, Command::Receipt(_)));
        // One number for all requests of the frame: the receipt waits for all.
        let mut covered =
            Covered { serial: is_confirmed.then(|| self.sessions.serial()), ..Covered::default() };
        // All of it or nothing, of a transaction too.
        let mut failed = self.forbidden(index, &commands).map(|fault| (fault, None));
        for command in commands.drain(..) {
            if let Some((_, receipt)) = &mut failed {
                match command {
                    Command::Receipt(id) => *receipt = Some(id),
                    Command::Subscribe { class, .. } | Command::Ask(Question { class, .. }) => {
                        self.members.classes_mut().release(class)
                    }
                    _ => {}
                }
                continue;
            }
            let done = match command {
                Command::Connected => match self.ban_of(index) {
                    Some(reason) => Err(Fault::Banned { reason }),
                    None => {
                        self.connected(index, now);
                        Ok(())
                    }
                },
                Command::Authenticate(credentials) => {
                    self.authenticate(index, credentials);
                    Ok(())
                }
                Command::Renew(token) => {
                    let serial = *covered.serial.get_or_insert_with(|| self.sessions.serial());
                    covered.left += 1;
                    self.renew(index, serial, token.0);
                    Ok(())
                }
                Command::Subscribe { class, key, kind, ack, past } => {
                    self.subscribe(index, class, key, kind, ack, past, &mut covered, now)
                }
                Command::Ask(question) => self.ask_application(index, question, &mut covered, now),
                Command::Unsubscribe(class) => {
                    self.unsubscribe(index, class, &mut covered, now);
                    Ok(())
                }
                Command::Publish(message) => self.publish(index, message, &mut covered, now),
                Command::Settle { unsettled, is_nack } => {
                    let settlement = if is_nack { Settlement::Nack } else { Settlement::Ack };
                    self.settle(index, unsettled, settlement, now);
                    Ok(())
                }
                Command::Receipt(id) => {
                    self.receipt(index, Some(id), &mut covered);
                    Ok(())
                }
                Command::Disconnect => {
                    self.end(index, End::Disconnect, now);
                    Ok(())
                }
            };
            if let Err(fault) = done {
                failed = Some((fault, None));
            }
        }
        self.sessions.reuse(commands);
        if covered.left > 0 {
            // The frame asked for no receipt, and something must be waited for all the same.
            self.receipt(index, None, &mut covered);
        }
        if let Some((fault, receipt)) = failed {
            self.refuse(index, frame, fault, receipt, now);
        }
    }

    /// Answers CONNECTED.
    pub(super) fn connected(&mut self, index: u32, now: Tick) {
        let session = &self.sessions[index];
        let min = self.env.limits.stomp.heart_beat_min_ms;
        let name = self.session_numbers(index);
        let version = session.version_or_newest();
        let proved = session.principal().filter(|_| self.is_guarded());
        let login: Option<Box<str>> = proved.map(|who| self.sessions.principals().login(who).into());
        self.say_stomp(index, |out| reply::connected(version, name, [min, min], login.as_deref(), out));
        self.keep_alive(index, now);
        self.note_connected(index);
        self.tell(index, Event::Connected);
    }

    /// The session as the origin of a request.
    pub(super) fn origin(&self, index: u32, serial: Option<u32>) -> Origin {
        let (shard, connection) = (self.env.id, self.connections.key_of(index));
        Origin { shard, connection, serial, holder: Holder::Session(shard, connection) }
    }

    /// On whose account a session's share of a bound is.
    pub(super) fn holder(&self, index: u32) -> Holder {
        self.connections.holder_of(index, self.env.id, &self.env.limits.trusted_proxies)
    }

    /// The consumer that a queue subscription is.
    pub(super) fn consumer(&self, index: u32, class: Symbol, serial: u32) -> Consumer {
        Consumer { shard: self.env.id, connection: self.connections.key_of(index), class, serial }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of the command")]
    fn subscribe(
        &mut self,
        index: u32,
        class: Symbol,
        key: Box<str>,
        kind: Kind,
        ack: AckMode,
        past: Option<Past>,
        covered: &mut Covered,
        now: Tick,
    ) -> Result<(), Fault> {
        let hash = self.env.hash_of(key.as_bytes());
        if let Err(fault) = self.may_subscribe(index, &key, kind, hash) {
            self.members.classes_mut().release(class);
            return Err(fault);
        }
        let serial = match covered.serial {
            Some(serial) => serial,
            None => self.sessions.serial(),
        };
        let place = match kind {
            Kind::Queue => self.sessions.names_mut().acquire((&*key).into()).0,
            _ => u32::MAX,
        };
        let state = State::Joining;
        self.sessions.count_subscription();
        self.sessions[index].subscriptions_mut().add(Subscription {
            class,
            place,
            position: serial,
            ack,
            kind,
            state,
        });
        self.count_sources(index);
        let owner = self.env.owner_of(key.as_bytes());
        let origin = Origin { holder: self.holder(index), ..self.origin(index, Some(serial)) };
        let consumer = self.consumer(index, class, serial);
        if owner == self.env.id {
            match self.accept_subscription(&key, kind, origin, consumer, past, now) {
                Err(fault) => {
                    if let Some(gone) = self.sessions[index].unsubscribed(class) {
                        self.leave_place(index, gone, None);
                    }
                    return Err(fault);
                }
                Ok(Some(start)) if !start.is_done() => self.begin_recovery(index, serial, &key, &start),
                Ok(start) => {
                    if let Some(start) = start {
                        self.answer_past(index, class, &key, &start);
                    }
                    self.join(index, serial, &key);
                }
            }
        } else {
            let past = past.map(Box::new);
            self.ask(index, owner, Mail::Subscribe { key, kind, origin, consumer, past });
            (covered.serial, covered.owner) = (Some(serial), Some(owner));
            covered.joins = (kind != Kind::Queue).then_some(hash);
            covered.left += 1;
        }
        Ok(())
    }

    /// Whether a session may have one subscription more to this place.
    pub(super) fn may_subscribe(&self, index: u32, key: &str, kind: Kind, hash: u64) -> Result<(), Fault> {
        let room = if kind == Kind::Queue { None } else { self.members.find(key) };
        let max = self.env.limits.rooms.rooms_max;
        // Owners keep the bound, each for who makes its rooms. All of them together may have members here.
        let here_max = max as usize * usize::from(self.env.shards);
        if kind != Kind::Queue && room.is_none() && self.members.len() >= here_max {
            return Err(Fault::TooManyRooms { max });
        }
        let max = self.env.limits.stomp.subscriptions_per_destination_max;
        let name = self.sessions.names().find(key);
        if self.sessions[index].subscriptions_to(kind, room, name, hash) >= max as usize {
            return Err(Fault::TooManySubscriptionsHere { max });
        }
        Ok(())
    }

    /// Notes beside what a delivery looks at whether the session has one subscription.
    pub(super) fn count_sources(&mut self, index: u32) {
        self.connections[index].has_one_source = self.sessions[index].subscriptions().len() == 1;
    }

    fn unsubscribe(&mut self, index: u32, class: Symbol, covered: &mut Covered, now: Tick) {
        let Some(&gone) = self.sessions[index].subscriptions().get(class) else { return };
        if gone.state == State::Recovering {
            self.sessions[index].unsubscribed(class);
            self.leave_place(index, gone, None);
            return;
        }
        if gone.state.is_question() {
            return self.forget_question(index, class);
        }
        let key = self.key_of(&gone);
        let owner = self.env.owner_of(key.as_bytes());
        let serial = match covered.serial {
            Some(serial) => serial,
            None => self.sessions.serial(),
        };
        let origin = self.origin(index, Some(serial));
        let is_parked =
            owner == self.env.id && gone.kind != Kind::Queue && self.topics.park_end(&key, origin);
        if owner == self.env.id && !is_parked {
            self.sessions[index].unsubscribed(class);
            let (origin, consumer) = (self.origin(index, None), self.consumer(index, class, gone.position));
            self.end_subscription(&key, gone.kind, origin, consumer, now);
            let request = covered.serial.and_then(NonZeroU32::new);
            let is_owed = self.leave_place(index, gone, request);
            covered.left += u32::from(is_owed && request.is_some());
            return;
        }
        let consumer = self.consumer(index, class, gone.position);
        let kind = gone.kind;
        if kind == Kind::Queue {
            // Its messages are no more taken; those that are under way go back to the queue.
            self.sessions[index].unsubscribed(class);
            self.leave_place(index, gone, None);
        } else {
            self.sessions[index].leaving(class);
        }
        if !is_parked {
            self.ask(index, owner, Mail::Unsubscribe { key, kind, origin, consumer });
        }
        (covered.serial, covered.owner) = (Some(serial), Some(owner));
        covered.left += 1;
    }

    /// Sends a message to the shard that gives it its place.
    pub(super) fn publish(
        &mut self,
        index: u32,
        message: Message,
        covered: &mut Covered,
        now: Tick,
    ) -> Result<(), Fault> {
        self.counters.messages_published_total += 1;
        self.rest.published_bytes += message.weight();
        let owner = self.env.owner_of_message(message.kind(), message.key_bytes());
        let mut origin = self.origin(index, covered.serial);
        if message.kind() == Kind::Queue || self.topics.keeps(&message) {
            // Another room keeps nothing on anybody's account, and the address takes a look at the table of all connections.
            origin.holder = self.holder(index);
        }
        if owner != self.env.id {
            covered.left += u32::from(covered.serial.is_some());
            if self.port.spend(owner, message.weight()) {
                self.wait_for_credit(index);
            }
            self.port.write(owner, Mail::Publish { origin, message });
            return Ok(());
        }
        if self.accept_publication(origin, message, now)? {
            covered.left += u32::from(covered.serial.is_some());
        }
        Ok(())
    }

    /// Sends a request that has no credit of its own: it must not be lost, so who asks waits while that mailbox is full.
    pub(super) fn ask(&mut self, index: u32, owner: u16, mail: Mail) {
        self.rest.asked += 1;
        self.port.write(owner, mail);
        if self.port.is_full(owner) {
            self.wait_for_credit(index);
        }
    }

    /// Takes no more input from this connection before credit has come back.
    pub(super) fn wait_for_credit(&mut self, index: u32) {
        let connection = &mut self.connections[index];
        if connection.phase == Phase::Stomp && self.holds.hold(connection, Reason::Credit) {
            self.counters.publishers_stalled_total += 1;
            self.port.wait(self.connections.key_of(index));
        }
    }

    /// Answers a receipt now, or when what it covers is done and no earlier receipt waits.
    fn receipt(&mut self, index: u32, id: Option<CompactString>, covered: &mut Covered) {
        let left = std::mem::take(&mut covered.left);
        match (id, covered.serial) {
            (Some(id), _) if left == 0 && !self.sessions[index].awaits() => {
                self.send_receipt(index, &id, None)
            }
            (id, Some(serial)) => {
                let receipt = id.map(|id| Receipt { id, lasts_until_s: None });
                let (owner, joins) = (covered.owner, covered.joins);
                self.sessions[index].wait_for(Awaited { serial, left, receipt, owner, joins });
                if self.sessions[index].awaited() > AWAITED_MAX {
                    self.holds.hold(&mut self.connections[index], Reason::Answer);
                }
            }
            // Nothing waits: what is waited for has a number.
            (_, None) => {}
        }
    }

    pub(super) fn send_receipt(&mut self, index: u32, id: &str, lasts_until_s: Option<u64>) {
        let version = self.sessions[index].version_or_newest();
        self.say_stomp(index, |out| reply::receipt(version, id, lasts_until_s, out));
        self.counters.receipts_sent_total += 1;
    }
}
