//! What the application's programs may hear of sessions: `/system/events`.
//!
//! An event is a message in JSON to a room whose members have the role `service`. While no shard has a member of that room,
//! nothing is made for it. An event that the room has no space for is counted, and lost.
//!
//! Invariant: a session that is connected has one `connected` and, at its end, one `disconnected`, for members that stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;

use crate::mesh::mail::Mail;
use crate::message::Message;
use crate::message::destination::{Destination, EVENTS};
use crate::message::origin::{ConnKey, Holder, Origin};
use crate::session::Subscription;
use crate::shard::Shard;
use crate::tcb::FourTuple;
use crate::time::Tick;
use crate::wire::stomp::Version;

/// Whether anybody listens.
#[derive(Debug)]
pub(super) struct Audience {
    /// Shards with members.
    shards: Arc<AtomicU32>,
    /// This one has some.
    is_here: bool,
}

impl Audience {
    /// Of all shards with this number.
    pub(super) fn new(shards: Arc<AtomicU32>) -> Audience {
        Audience { shards, is_here: false }
    }

    fn is_any(&self) -> bool {
        self.shards.load(Ordering::Relaxed) > 0
    }

    fn set_here(&mut self, is_here: bool) {
        match (self.is_here, is_here) {
            (false, true) => drop(self.shards.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.shards.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.is_here = is_here;
    }

    /// Whether nobody listens here.
    pub(super) fn is_empty_here(&self) -> bool {
        !self.is_here
    }
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// It was answered CONNECTED.
    Connected,
    /// It has ended.
    Disconnected {
        /// The fault's name, or how else it ended.
        reason: &'a str,
    },
    /// It gets what is sent to a destination.
    Subscribed {
        /// The destination, as the server names it.
        destination: &'a str,
    },
    /// It gets no more of that.
    Unsubscribed {
        /// The destination, as the server names it.
        destination: &'a str,
    },
    /// The server has refused it, or something that it asked for.
    Refused {
        /// The fault's name.
        fault: &'a str,
    },
}

/// An event as its message's body.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    event: Event<'a>,
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    at: u64,
}

impl Shard {
    /// A session has joined a room: it may be that of events.
    pub(super) fn note_audience(&mut self, key: &str) {
        if key == EVENTS {
            self.audience.set_here(true);
        }
    }

    /// Looks whether anybody still listens; once a turn, while somebody did.
    pub(super) fn look_for_audience(&mut self) {
        if !self.audience.is_empty_here() && self.members.find(EVENTS).is_none() {
            self.audience.set_here(false);
        }
    }

    /// Tells an event of a session, if anybody listens.
    pub(super) fn tell(&mut self, index: u32, event: Event<'_>) {
        if !self.audience.is_any() {
            return;
        }
        let address = self.connections.client_of(index).filter(|address| !FourTuple::is_unix(*address));
        let told = Told {
            event,
            session: self.session_name(index),
            login: self.login(index),
            address: address.map(|address| address.to_string()),
            at: self.timers.wall_ms(),
        };
        let Ok(body) = serde_json::to_vec(&told) else { return };
        let Ok(destination) = Destination::parse_subscribe(EVENTS, None) else { return };
        let message = Message::new(&destination, b"content-type:application/json\n", &body);
        self.counters.events_told_total += 1;
        let (shard, connection) = (self.env.id, ConnKey::EVENTS);
        let origin = Origin { shard, connection, serial: None, holder: Holder::Session(shard, connection) };
        let owner = self.env.owner_of(message.key_bytes());
        if owner != shard {
            self.port.spend(owner, message.weight());
            return self.port.write(owner, Mail::Publish { origin, message });
        }
        // What is refused is counted there.
        let now = self.timers.now();
        drop(self.accept_publication(origin, message, now));
    }

    /// Tells that a subscription ends whose session goes on.
    pub(super) fn tell_unsubscribed(&mut self, index: u32, gone: &Subscription) {
        if self.audience.is_any() {
            let destination = self.key_of(gone);
            self.tell(index, Event::Unsubscribed { destination: &destination });
        }
    }

    /// Tells that a session ends, and takes it out of everything it is in. Returns the version that it had agreed to.
    pub(super) fn depart(&mut self, index: u32, reason: &str, now: Tick) -> Option<Version> {
        let agreed = self.sessions[index].agreed_version();
        if self.connections.phase(index).has_session() && agreed.is_some() {
            self.tell(index, Event::Disconnected { reason });
        }
        self.leave_all(index, now);
        agreed
    }
}
