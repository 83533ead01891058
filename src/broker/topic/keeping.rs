//! Rooms that keep their last messages: which do, how much all of them keep, and what of it is too old.
//!
//! All rooms of a shard share one bound. Past three quarters of it, the room that keeps most of those of whoever made most
//! drops its oldest messages. So a room's past falls to its own size, or to that of its maker's other rooms.
//!
//! Invariant: `held` is the sum over all rooms; a room whose oldest message will be too old is in `expiries`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{Beside, Topics};
use crate::broker::history::{self, History};
use crate::message::origin::{Holder, Origin};
use crate::message::past::{Page, Past, Start};
use crate::message::{Message, MessageId};
use crate::policy::destinations::Destinations;
use crate::share::Shares;
use crate::time::Tick;

/// Rooms that are looked at for messages that are too old, in one go.
const EXPIRED_ROOMS_MAX: usize = 256;

/// What all rooms that keep messages share.
#[derive(Debug)]
pub(super) struct Keeping {
    destinations: Arc<Destinations>,
    /// One of them keeps something.
    is_any: bool,
    /// Bytes kept, by room, on the account of who made it.
    held: Shares<u32, Holder>,
    messages: u64,
    /// Messages that were dropped, and those of them that had to because all rooms kept too much.
    dropped: u64,
    relieved: u64,
    /// Rooms by the moment at which they are to be looked at: place and epoch. An entry may be of a room that is no more.
    expiries: BinaryHeap<Reverse<(Tick, u32, u64)>>,
}

impl Default for Keeping {
    fn default() -> Self {
        Keeping {
            destinations: Arc::default(),
            is_any: false,
            held: Shares::new(0),
            messages: 0,
            dropped: 0,
            relieved: 0,
            expiries: BinaryHeap::new(),
        }
    }
}

impl Keeping {
    /// Whether the room with this key keeps messages.
    pub(super) fn keeps(&self, key: &str) -> bool {
        self.is_any && self.destinations.retention(key).is_some()
    }

    /// What a new room has for that.
    pub(super) fn of_new(&self, key: &str) -> Option<Box<Beside>> {
        if !self.is_any {
            return None;
        }
        let history = History::new(*self.destinations.retention(key)?);
        Some(Box::new(Beside { history: Some(history), ..Beside::default() }))
    }

    /// The room at this place, which keeps nothing, is no more.
    pub(super) fn forget(&mut self, at: u32) {
        debug_assert_eq!(self.held.held_by(at), 0);
        if self.held.is_empty() {
            self.expiries = BinaryHeap::new();
        }
    }
}

/// What all rooms keep together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
    /// Messages dropped so far, for a bound or their age.
    pub dropped: u64,
    /// Those of them that had to go because all rooms together kept too much.
    pub relieved: u64,
}

impl Topics {
    /// From here on rooms keep what `destinations` says, and all together at most `bytes_max`. What is kept already is dropped
    /// where nothing is to be kept any more.
    pub fn set_destinations(&mut self, destinations: Arc<Destinations>, bytes_max: u64) {
        self.keeping.held.set_max(bytes_max);
        self.keeping.is_any = destinations.keep_any();
        self.keeping.destinations = destinations;
        self.keeping.expiries.clear();
        let places: Vec<u32> = self.topics.iter().map(|(at, _)| at as u32).collect();
        for at in places {
            let topic = &mut self.topics[at as usize];
            let retention = self.keeping.destinations.retention(&topic.key).copied();
            match retention {
                Some(retention) => {
                    let beside = topic.beside.get_or_insert_default();
                    let history = beside.history.get_or_insert_with(|| History::new(retention));
                    history.set_retention(retention);
                    beside.is_watched = false;
                    self.watch_age(at);
                }
                None if topic.history().is_some() => {
                    self.drop_oldest(at, u64::MAX);
                    let topic = &mut self.topics[at as usize];
                    topic.beside.as_mut().expect("it has a history").history = None;
                    topic.tidy();
                    self.tidy(at);
                }
                None => {}
            }
        }
        self.relieve();
    }

    /// Whether any room may keep messages.
    pub fn keep_any(&self) -> bool {
        self.keeping.is_any
    }

    /// Whether there is no room but for what it keeps.
    pub fn has_nobody(&self) -> bool {
        self.topics.iter().all(|(_, topic)| topic.shards.is_empty() && topic.parking().is_none())
    }

    /// What all rooms keep.
    pub fn kept(&self) -> Kept {
        let Keeping { held, messages, dropped, relieved, .. } = &self.keeping;
        Kept { messages: *messages, bytes: held.total(), dropped: *dropped, relieved: *relieved }
    }

    /// Keeps a message that has its place, if its room does so. The room may be no more after it.
    pub(super) fn keep(&mut self, at: u32, message: &mut Message, now: Tick) {
        let topic = &mut self.topics[at as usize];
        let maker = topic.maker;
        let Some(history) = topic.history_mut() else { return };
        message.set_kept();
        let dropped = history.append(message.clone(), now);
        let bytes = history.bytes();
        self.keeping.messages = self.keeping.messages + 1 - dropped;
        self.keeping.dropped += dropped;
        self.keeping.held.set(at, bytes, || maker);
        self.watch_age(at);
        self.relieve();
    }

    /// Puts a room on the list of those that will have something too old, unless it is there.
    fn watch_age(&mut self, at: u32) {
        let topic = &mut self.topics[at as usize];
        let epoch = topic.epoch;
        let Some(beside) = topic.beside.as_mut().filter(|beside| !beside.is_watched) else { return };
        if let Some(expires) = beside.history.as_ref().and_then(History::expires) {
            beside.is_watched = true;
            self.keeping.expiries.push(Reverse((expires, at, epoch)));
        }
    }

    /// Drops oldest messages of a room, at most so many.
    fn drop_oldest(&mut self, at: u32, count: u64) {
        let Some(history) = self.topics[at as usize].history_mut() else { return };
        let mut dropped = 0;
        while dropped < count && history.drop_first() {
            dropped += 1;
        }
        let bytes = history.bytes();
        self.note_dropped(at, bytes, dropped);
    }

    fn note_dropped(&mut self, at: u32, bytes: u64, dropped: u64) {
        self.keeping.messages -= dropped;
        self.keeping.dropped += dropped;
        let maker = self.topics[at as usize].maker;
        self.keeping.held.set(at, bytes, || maker);
    }

    /// While all rooms keep too much, the room that keeps most drops its oldest messages.
    fn relieve(&mut self) {
        while self.keeping.held.is_scarce()
            && let Some(worst) = self.keeping.held.worst()
        {
            self.drop_oldest(worst, 1);
            self.keeping.relieved += 1;
            self.tidy(worst);
        }
    }

    /// When [`Topics::expire`] is to be called, if at any time.
    pub fn next_expiry(&self) -> Option<Tick> {
        self.keeping.expiries.peek().map(|Reverse((at, ..))| *at)
    }

    /// Drops messages that are too old; of many rooms some. Returns whether there are more.
    pub fn expire(&mut self, now: Tick) -> bool {
        for _ in 0..EXPIRED_ROOMS_MAX {
            if self.next_expiry().is_none_or(|at| at > now) {
                return false;
            }
            let Some(Reverse((_, at, epoch))) = self.keeping.expiries.pop() else { return false };
            let Some(topic) = self.topics.get_mut(at as usize).filter(|topic| topic.epoch == epoch) else {
                continue;
            };
            let Some(beside) = topic.beside.as_mut() else { continue };
            beside.is_watched = false;
            let Some(history) = beside.history.as_mut() else { continue };
            let dropped = history.expire(now);
            let bytes = history.bytes();
            self.note_dropped(at, bytes, dropped);
            self.watch_age(at);
            self.tidy(at);
        }
        self.next_expiry().is_some_and(|at| at <= now)
    }

    /// A session asks for a room's past, of which one SUBSCRIBE gets `max` messages at most. If there is nothing to recover, its
    /// shard has a member more from here on. `None` as for [`Topics::subscribe`].
    pub fn recover(&mut self, key: &str, origin: &Origin, past: Past, max: u32) -> Option<Start> {
        let at = self.find_or_insert(key, origin.holder)?;
        let topic = &self.topics[at as usize];
        let start = history::start(topic.history(), topic.id(), past, max);
        if start.is_done() {
            self.subscribe(key, origin)?;
        }
        Some(start)
    }

    /// The next page of a recovery, whose messages take `bytes_max` at most, but for a single larger one. If it is the last one,
    /// the shard of `origin` has a member more from here on. `None` as for [`Topics::subscribe`].
    pub fn page(&mut self, key: &str, origin: &Origin, next: MessageId, bytes_max: u32) -> Option<Page> {
        let at = self.find_or_insert(key, origin.holder)?;
        let topic = &self.topics[at as usize];
        let page = history::page(topic.history(), topic.id(), next, bytes_max);
        if page.is_last {
            self.subscribe(key, origin)?;
        }
        Some(page)
    }

    pub(super) fn check_keeping(&self) {
        let (mut messages, mut bytes) = (0, 0);
        for (at, topic) in &self.topics {
            let Some(history) = topic.history() else { continue };
            history.check();
            assert_eq!(self.keeping.held.held_by(at as u32), history.bytes());
            messages += history.len() as u64;
            bytes += history.bytes();
            let is_watched = topic.beside.as_ref().is_some_and(|beside| beside.is_watched);
            if let Some(expires) = history.expires() {
                assert!(is_watched, "{}: nobody will look at its age", topic.key);
                let is_it = |entry: &Reverse<(Tick, u32, u64)>| {
                    entry.0.0 <= expires && (entry.0.1, entry.0.2) == (at as u32, topic.epoch)
                };
                assert!(
                    self.keeping.expiries.iter().any(is_it),
                    "{}: nobody will look at its age",
                    topic.key
                );
            }
        }
        self.keeping.held.check();
        assert_eq!((messages, bytes), (self.keeping.messages, self.keeping.held.total()));
    }
}
