//! A subscription's past: a SUBSCRIBE that asks for it, and the pages that it gets before it is a member.
//!
//! The owner says where the recovery begins, then gives a page at a time. With the last page the session is a member, in order
//! with the room's messages: so nothing is left out between the past and what comes, and nothing comes twice. What it gets
//! of the past are answers, which leave before what it is owed as a member.
//!
//! Invariant: a subscription that recovers is in no room; each of its pages is asked for when the one before has left.

use crate::broker::history::Asked;
use crate::conn::output::Debt;
use crate::mesh::mail::Mail;
use crate::mesh::request::Completion;
use crate::message::destination::{Destination, Kind};
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::{ConnKey, Origin};
use crate::message::past::{Lack, Marker, Missing, Page, Start};
use crate::message::{MessageId, reply};
use crate::session::recoveries::Recovery;
use crate::session::{State, Subscription};
use crate::shard::Shard;
use crate::shard::events::Event;
use crate::time::Tick;
use crate::wire::stomp::StompFrame;

/// Bytes of pages of owners on this shard that are encoded in one turn, about: whoever comes later has his in the next one.
const BYTES_PER_TURN: usize = 4 * 1024 * 1024;

/// What a page counts for at least, however little is in it.
const PAGE_WORTH: usize = 4 * 1024;

impl Shard {
    /// A SUBSCRIBE that asked for the past is answered, and gets it before it is a member.
    pub(super) fn begin_recovery(&mut self, index: u32, serial: u32, key: &str, start: &Start) {
        let Some(&Subscription { class, .. }) = self.sessions[index].subscriptions().joining(serial) else {
            return;
        };
        let name = self.sessions.names_mut().acquire(key.into());
        self.sessions[index].subscriptions_mut().recovers(serial, name);
        self.begin_past(index, class, key, start);
        self.recoveries.begin(index, class, start);
        self.tell(index, Event::Subscribed { destination: key });
    }

    /// A SUBSCRIBE that asked for the past is answered: there is nothing to get, and what comes next is new.
    pub(super) fn answer_past(&mut self, index: u32, class: Symbol, key: &str, start: &Start) {
        self.begin_past(index, class, key, start);
        self.end_past(index, class, key, start.position, start.missing);
    }

    fn begin_past(&mut self, index: u32, class: Symbol, key: &str, start: &Start) {
        self.counters.recoveries_total += 1;
        self.mark_past(index, class, key, &Marker::Position(start.position));
        if let Some(missing) = start.missing {
            self.mark_gap(index, class, key, start.position.epoch, missing);
        }
    }

    /// Says what is left out here. Of what nobody knows, the last marker says that it is missing.
    fn mark_gap(&mut self, index: u32, class: Symbol, key: &str, epoch: u64, missing: Missing) {
        if missing.from <= missing.to {
            self.mark_past(index, class, key, &Marker::Gap(epoch, missing));
        }
    }

    fn end_past(
        &mut self,
        index: u32,
        class: Symbol,
        key: &str,
        position: MessageId,
        missing: Option<Missing>,
    ) {
        let counters = &mut self.counters;
        match missing.map(|missing| missing.lack) {
            Some(Lack::Bound | Lack::Trimmed) => counters.recoveries_incomplete_total += 1,
            Some(Lack::Epoch) => counters.recoveries_anew_total += 1,
            Some(Lack::Off) | None => {}
        }
        self.mark_past(index, class, key, &Marker::Recovered(position, missing));
    }

    fn mark_past(&mut self, index: u32, class: Symbol, key: &str, marker: &Marker) {
        self.counters.recovery_markers_total += 1;
        let id = MessageId { epoch: self.env.markers, sequence: self.counters.recovery_markers_total };
        let class = self.members.classes().value(class).clone();
        let destination = Destination::shown_of(key);
        self.say(index, |out| reply::marker(&class, &destination, id, marker, out));
    }

    /// Asks for pages for those whose turn it is.
    pub(super) fn continue_recoveries(&mut self, now: Tick) {
        let mut left = BYTES_PER_TURN;
        while left > 0 && self.recoveries.has_ready() {
            let serial = self.sessions.serial();
            let Some((index, Recovery { class, next, had, .. })) = self.recoveries.take_ready(serial) else {
                return;
            };
            let subscription = *self.sessions[index].subscriptions().get(class).expect("it recovers");
            self.sessions[index].subscriptions_mut().asks(class, serial);
            let (key, kind) = (self.key_of(&subscription), subscription.kind);
            let origin = Origin { holder: self.holder(index), ..self.origin(index, Some(serial)) };
            let limits = &self.env.limits.history;
            // To the room of who has had as much as one may, and is behind still, more is published than it reads.
            let is_final = had >= limits.recovered_messages_max;
            let asked = Asked { next, bytes_max: limits.page_bytes_max, is_final };
            let owner = self.env.owner_of(key.as_bytes());
            if owner == self.env.id {
                let page = self.page_of(&key, &origin, asked);
                let bytes = self.take_page(origin.connection, serial, &key, kind, page, now);
                left = left.saturating_sub(bytes.max(PAGE_WORTH));
            } else {
                self.port.write(owner, Mail::Recover { key, kind, origin, asked });
                left = left.saturating_sub(PAGE_WORTH);
            }
        }
    }

    fn page_of(&mut self, key: &str, origin: &Origin, asked: Asked) -> Result<Box<Page>, Fault> {
        let max = self.env.limits.rooms.rooms_max;
        self.topics.page(key, origin, asked).map(Box::new).ok_or(Fault::TooManyRooms { max })
    }

    /// As the owner: a session of another shard asks for the next page of its recovery.
    pub(super) fn recover_for(&mut self, key: Box<str>, kind: Kind, origin: Origin, asked: Asked, now: Tick) {
        let page = self.page_of(&key, &origin, asked);
        self.complete(origin, Completion::Page { key, kind, page }, now);
    }

    /// A page has come. Returns the bytes that it has queued.
    pub(super) fn take_page(
        &mut self,
        connection: ConnKey,
        serial: u32,
        key: &str,
        kind: Kind,
        page: Result<Box<Page>, Fault>,
        now: Tick,
    ) -> usize {
        let index = connection.index;
        self.recoveries.answered(index, serial);
        let is_there = self.is_current(connection) && self.connections.phase(index).has_session();
        let found =
            if is_there { self.sessions[index].subscriptions().joining(serial).copied() } else { None };
        let (page, subscription) = match (page, found) {
            (Ok(page), Some(subscription)) => (page, subscription),
            (Err(fault), Some(_)) => {
                self.refuse_earlier(index, Some(serial), fault, now);
                return 0;
            }
            // It has ended meanwhile.
            (page, None) => {
                if page.is_ok_and(|page| page.is_last) {
                    self.write_end_of(key, kind, connection);
                }
                return 0;
            }
        };
        let class = subscription.class;
        if let Some(missing) = page.missing {
            self.mark_gap(index, class, key, page.next.epoch, missing);
            self.recoveries.miss(index, class, missing);
        }
        self.counters.recovered_messages_total += page.messages.len() as u64;
        let bytes = self.members.answer_with(class, &page.messages, &mut self.connections[index].output);
        self.queued(index, bytes);
        if !page.is_last {
            self.sessions[index].subscriptions_mut().asks(class, 0);
            self.recoveries.go_on(index, class, page.next, page.messages.len());
            return bytes;
        }
        let missing = self.recoveries.end(index, class).and_then(|recovery| recovery.missing);
        let position = MessageId { sequence: page.next.sequence - 1, ..page.next };
        self.end_past(index, class, key, position, missing);
        self.sessions.names_mut().release(Symbol(subscription.place));
        self.join(index, serial, key);
        bytes
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

    /// Whether a SUBSCRIBE asks for the past with the id of one that has ended and is owed something still. What it gets are answers,
    /// which would pass that, and the client could not tell the two apart.
    pub(super) fn would_pass_its_past(&self, index: u32, stomp_frame: &StompFrame<'_>) -> bool {
        let debts = self.connections[index].output.debts();
        if !debts.iter().any(|debt| debt.is_left) {
            return false;
        }
        let [id, destination, history, since] = stomp_frame.values(["id", "destination", "history", "since"]);
        let id = id.or(destination);
        let is_it = |debt: &Debt| id.as_deref() == Some(&*self.members.classes().value(debt.class).id);
        (history.is_some() || since.is_some()) && debts.iter().any(|debt| debt.is_left && is_it(debt))
    }

    /// A subscription that recovers ends.
    pub(super) fn end_recovery(&mut self, index: u32, gone: &Subscription) {
        debug_assert_eq!(gone.state, State::Recovering);
        self.recoveries.end(index, gone.class);
        self.sessions.names_mut().release(Symbol(gone.place));
    }
}
