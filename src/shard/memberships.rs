//! Subscriptions begin and end here: what a session, its place and what programs hear must then agree on.
//!
//! An owner has answered, or need not be asked. A room's member, a queue's name, a class and the session's record come and go
//! together.
//!
//! Invariant: a subscription that is gone holds no class and no name, and is in no room.

use std::num::NonZeroU32;

use crate::conn::hold::Reason;
use crate::members::Member;
use crate::mesh::mail::Mail;
use crate::message::destination::Kind;
use crate::message::interner::Symbol;
use crate::session::{State, Subscription};
use crate::shard::Shard;
use crate::shard::events::Event;
use crate::shard::flush::DEBTS_MAX;
use crate::time::Tick;

impl Shard {
    /// A subscription begins here: what its owner sequences from here on is for it.
    pub(super) fn join(&mut self, index: u32, serial: u32, key: &str) {
        let Some(&Subscription { class, kind, state, .. }) =
            self.sessions[index].subscriptions().joining(serial)
        else {
            return;
        };
        let room = (kind != Kind::Queue).then(|| self.members.join(key, Member { connection: index, class }));
        self.sessions[index].subscriptions_mut().joined(serial, room);
        self.note_audience(key);
        if state == State::Joining {
            self.tell(index, Event::Subscribed { destination: key });
        }
    }

    /// A subscription ends here, and its session goes on: what it is owed stays a debt, with the request that waits for it.
    /// Returns whether there is any.
    pub(super) fn leave_place(
        &mut self,
        index: u32,
        gone: Subscription,
        request: Option<NonZeroU32>,
    ) -> bool {
        if gone.state != State::Joining && !gone.state.is_question() {
            self.tell_unsubscribed(index, &gone);
        }
        self.sessions.uncount_subscription();
        self.count_sources(index);
        if gone.state == State::Recovering {
            self.end_recovery(index, &gone);
        } else if gone.kind == Kind::Queue {
            self.sessions.names_mut().release(Symbol(gone.place));
        }
        if !gone.is_member() {
            self.members.classes_mut().release(gone.class);
            return false;
        }
        let connection = &mut self.connections[index];
        let left = self.members.leave(gone.place, gone.position, &mut connection.output, request);
        if connection.is_writable && left.is_owed {
            self.flush.mark(index, connection);
        }
        if connection.phase.is_open() && connection.output.debts().len() > DEBTS_MAX {
            self.holds.hold(connection, Reason::Output);
        }
        self.tell_moves();
        left.is_owed
    }

    /// Takes a session out of the queues that it has joined: what it is given from here on it would not settle.
    pub(super) fn leave_queues(&mut self, index: u32, now: Tick) {
        let subscriptions = self.sessions[index].subscriptions().iter();
        let is_joined_queue = |subscription: &&Subscription| {
            subscription.kind == Kind::Queue && subscription.state == State::Joined
        };
        let queues: Vec<Subscription> = subscriptions.filter(is_joined_queue).copied().collect();
        for gone in queues {
            let key = self.key_of(&gone);
            let (origin, consumer) =
                (self.origin(index, None), self.consumer(index, gone.class, gone.position));
            self.sessions[index].unsubscribed(gone.class);
            self.leave_place(index, gone, None);
            let (owner, kind) = (self.env.owner_of(key.as_bytes()), gone.kind);
            if owner == self.env.id {
                self.end_subscription(&key, kind, origin, consumer, now);
            } else {
                self.port.write(owner, Mail::Unsubscribe { key, kind, origin, consumer });
            }
        }
    }

    /// Takes a session out of everything it is in, at once.
    pub(super) fn leave_all(&mut self, index: u32, now: Tick) {
        if !self.connections.phase(index).has_session() {
            return;
        }
        self.note_over(index);
        self.drop_debts(index, true);
        while let Some(gone) = self.sessions[index].subscriptions_mut().pop() {
            self.sessions.uncount_subscription();
            let is_queue = gone.kind == Kind::Queue;
            let key =
                if is_queue { Some(self.sessions.names().value(Symbol(gone.place)).clone()) } else { None };
            // One that is joining is ended when its owner has answered; one that is leaving has asked. Of a question no owner knows.
            if (is_queue || gone.state == State::Joined) && !gone.state.is_question() {
                let key = key.as_deref().unwrap_or_else(|| self.members.key(gone.place));
                let owner = self.env.owner_of(key.as_bytes());
                let (origin, consumer) =
                    (self.origin(index, None), self.consumer(index, gone.class, self.serial_of(&gone)));
                let kind = gone.kind;
                if owner != self.env.id {
                    let key = key.into();
                    self.port.write(owner, Mail::Unsubscribe { key, kind, origin, consumer });
                } else if is_queue {
                    let key: Box<str> = key.into();
                    self.end_subscription(&key, kind, origin, consumer, now);
                } else {
                    self.topics.unsubscribe(key, origin.shard);
                }
            }
            if gone.state == State::Recovering {
                self.end_recovery(index, &gone);
            } else if is_queue {
                self.sessions.names_mut().release(Symbol(gone.place));
            }
            if !gone.is_member() {
                self.members.classes_mut().release(gone.class);
            } else {
                self.members.forget(gone.place, gone.position);
                self.tell_moves();
            }
        }
        self.count_sources(index);
        self.counters.receipts_lost_total += self.sessions[index].receipts_due() as u64;
        self.rates.end(index);
        self.logins.leave(index);
        if let Some(number) = self.sessions.end(index) {
            self.authorizer.release(number);
        }
        let key = self.connections.key_of(index);
        self.holds.release_all(key, &mut self.connections[index]);
    }

    /// The number by which a queue knows a subscription.
    fn serial_of(&self, subscription: &Subscription) -> u32 {
        if subscription.kind == Kind::Queue { subscription.position } else { 0 }
    }

    /// The key of the destination of a subscription that has joined or recovers, or of a queue.
    pub(super) fn key_of(&self, subscription: &Subscription) -> Box<str> {
        if subscription.is_named() {
            self.sessions.names().value(Symbol(subscription.place)).clone()
        } else {
            self.members.key(subscription.place).into()
        }
    }

    /// Tells subscriptions where their members are.
    pub(super) fn tell_moves(&mut self) {
        let moved = self.members.take_moved();
        for place in &moved {
            self.sessions[place.connection].subscriptions_mut().moved(place.room, place.from, place.to);
        }
        self.members.reuse_moved(moved);
    }
}
