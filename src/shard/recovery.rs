//! A subscription's past: a SUBSCRIBE that asks for it, and the pages that it gets before it is a member.
//!
//! The owner says where the recovery begins, then gives a page at a time. With the last page the session is a member, in order
//! with the room's messages: so nothing is left out between the past and what comes, and nothing comes twice. What it gets
//! of the past are answers, which leave before what it is owed as a member.
//!
//! Invariant: a subscription that recovers is in no room; each of its pages is asked for when the one before has left.

use crate::mesh::mail::Mail;
use crate::mesh::request::Completion;
use crate::message::destination::{Destination, Kind};
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::{ConnKey, Origin};
use crate::message::past::{Marker, Missing, Page, Start};
use crate::message::{MessageId, reply};
use crate::session::{State, Subscription};
use crate::shard::Shard;
use crate::shard::events::Event;
use crate::time::Tick;

/// Pages that are asked for in one turn, so that those of owners on this shard are bounded, too.
const PAGES_PER_TURN: usize = 256;

impl Shard {
    /// A SUBSCRIBE that asked for the past is answered, and gets it before it is a member.
    pub(super) fn begin_recovery(&mut self, index: u32, serial: u32, key: &str, start: &Start) {
        let Some(&Subscription { class, .. }) = self.sessions[index].subscriptions().joining(serial) else {
            return;
        };
        let name = self.sessions.names_mut().acquire(key.into());
        self.sessions[index].subscriptions_mut().recovers(serial, name);
        self.counters.recoveries_total += 1;
        self.mark_past(index, class, key, &Marker::Position(start.position));
        let next = MessageId { sequence: start.next, ..start.position };
        self.recoveries.begin(index, class, next, start.missing);
        self.tell(index, Event::Subscribed { destination: key });
    }

    /// A SUBSCRIBE that asked for the past is answered: there is nothing to get, and what comes next is new.
    pub(super) fn answer_past(&mut self, index: u32, class: Symbol, key: &str, start: &Start) {
        self.counters.recoveries_total += 1;
        self.mark_past(index, class, key, &Marker::Position(start.position));
        self.end_past(index, class, key, start.position, start.missing);
    }

    fn end_past(
        &mut self,
        index: u32,
        class: Symbol,
        key: &str,
        position: MessageId,
        missing: Option<Missing>,
    ) {
        self.counters.recoveries_incomplete_total += u64::from(missing.is_some());
        self.mark_past(index, class, key, &Marker::Recovered(position, missing));
    }

    fn mark_past(&mut self, index: u32, class: Symbol, key: &str, marker: &Marker) {
        self.counters.recovery_markers_total += 1;
        let number = self.counters.recovery_markers_total;
        let class = self.members.classes().value(class).clone();
        let destination = Destination::shown_of(key);
        self.say(index, |out| reply::marker(&class, &destination, number, marker, out));
    }

    /// Asks for pages for those whose turn it is.
    pub(super) fn continue_recoveries(&mut self, now: Tick) {
        for _ in 0..PAGES_PER_TURN {
            let Some((index, class, next)) = self.recoveries.take_ready() else { return };
            let subscription = *self.sessions[index].subscriptions().get(class).expect("it recovers");
            let serial = self.sessions.serial();
            self.sessions[index].subscriptions_mut().asks(class, serial);
            let (key, kind) = (self.key_of(&subscription), subscription.kind);
            let origin = Origin { holder: self.holder(index), ..self.origin(index, Some(serial)) };
            let owner = self.env.owner_of(key.as_bytes());
            if owner == self.env.id {
                let page = self.page_of(&key, &origin, next);
                self.take_page(origin.connection, serial, &key, kind, page, now);
            } else {
                self.port.write(owner, Mail::Recover { key, kind, origin, next });
            }
        }
    }

    fn page_of(&mut self, key: &str, origin: &Origin, next: MessageId) -> Result<Box<Page>, Fault> {
        let max = self.env.limits.rooms.rooms_max;
        let page = self.topics.page(key, origin, next, self.env.limits.history.page_bytes_max);
        page.map(Box::new).ok_or(Fault::TooManyRooms { max })
    }

    /// As the owner: a session of another shard asks for the next page of its recovery.
    pub(super) fn recover_for(
        &mut self,
        key: Box<str>,
        kind: Kind,
        origin: Origin,
        next: MessageId,
        now: Tick,
    ) {
        let page = self.page_of(&key, &origin, next);
        self.complete(origin, Completion::Page { key, kind, page }, now);
    }

    /// A page has come.
    pub(super) fn take_page(
        &mut self,
        connection: ConnKey,
        serial: u32,
        key: &str,
        kind: Kind,
        page: Result<Box<Page>, Fault>,
        now: Tick,
    ) {
        self.recoveries.answered();
        let index = connection.index;
        let is_there = self.is_current(connection) && self.connections.phase(index).has_session();
        let found =
            if is_there { self.sessions[index].subscriptions().joining(serial).copied() } else { None };
        let (page, subscription) = match (page, found) {
            (Ok(page), Some(subscription)) => (page, subscription),
            (Err(fault), Some(_)) => return self.refuse_earlier(index, Some(serial), fault, now),
            // It has ended meanwhile.
            (Ok(page), None) if page.is_last => return self.write_end_of(key, kind, connection),
            (_, None) => return,
        };
        let class = subscription.class;
        if let Some(missing) = page.missing {
            self.mark_past(index, class, key, &Marker::Gap(missing));
            self.recoveries.miss(index, class, missing);
        }
        self.counters.recovered_messages_total += page.messages.len() as u64;
        let bytes = self.members.answer_with(class, &page.messages, &mut self.connections[index].output);
        self.queued(index, bytes);
        if !page.is_last {
            self.sessions[index].subscriptions_mut().asks(class, 0);
            return self.recoveries.go_on(index, class, page.next);
        }
        let missing = self.recoveries.end(index, class).and_then(|recovery| recovery.missing);
        let position = MessageId { sequence: page.next.sequence - 1, ..page.next };
        self.end_past(index, class, key, position, missing);
        self.sessions.names_mut().release(Symbol(subscription.place));
        self.join(index, serial, key);
    }

    /// A connection has been written to: what of the past it waits for may come, if it has little unsent.
    pub(super) fn wake_recoveries(&mut self, index: u32) {
        let connection = &self.connections[index];
        if connection.output.answer_bytes() <= self.env.limits.outbound.low_water_bytes
            && connection.phase.is_open()
        {
            self.recoveries.wake(index);
        }
    }

    /// A subscription that recovers ends.
    pub(super) fn end_recovery(&mut self, index: u32, gone: &Subscription) {
        debug_assert_eq!(gone.state, State::Recovering);
        self.recoveries.end(index, gone.class);
        self.sessions.names_mut().release(Symbol(gone.place));
    }
}
