//! Rooms that keep their last messages: which do, how much all of them keep, and what of it is too old.
//!
//! All rooms of a shard share one bound. What a room keeps is on its maker's account while nobody else comes to it, and then on its
//! own. Past three quarters of the bound, the largest room of the account that has most drops its oldest messages.
//!
//! Invariant: `held` is the sum over all rooms; a room whose oldest message will be too old has a deadline, and one that keeps
//! nothing has none.

use std::sync::Arc;

use super::{Beside, Topic, Topics};
use crate::broker::history::{self, Asked, History};
use crate::footprint::Part;
use crate::message::Message;
use crate::message::origin::{Holder, Origin};
use crate::message::past::{Page, Past, Start};
use crate::policy::destinations::{Destinations, Retention};
use crate::share::Shares;
use crate::time::{BYTES_PER_KEY, LazyWheel, Tick};

/// Rooms that are looked at for messages that are too old, in one go.
const EXPIRED_ROOMS_MAX: usize = 256;

/// Messages that are dropped in one go, so that no turn is long by that.
const DROPPED_MAX: u64 = 16 * 1024;

/// What a room that keeps something takes beside its messages, about: its record, its places in the tables, its first list.
const ROOM_BYTES: u64 = (size_of::<Topic>() + size_of::<Beside>()) as u64 + 256;

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
    /// When which room is to be looked at, by its place: not later than its oldest message is too old.
    expiries: LazyWheel,
    fired: Vec<u32>,
    /// The past of a room that keeps messages and has none.
    nothing: History,
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
            expiries: LazyWheel::default(),
            fired: Vec::new(),
            nothing: History::new(Retention { messages_max: 1, bytes_max: 0, age_max_s: 0 }),
        }
    }
}

impl Keeping {
    /// Whether the room with this key keeps messages.
    pub(super) fn keeps(&self, key: &str) -> bool {
        self.is_any && self.destinations.retention(key).is_some()
    }

    /// The room at this place, which keeps nothing, is no more.
    pub(super) fn forget(&mut self, at: u32) {
        debug_assert_eq!(self.held.held_by(at), 0);
        self.expiries.cancel(at);
        if self.held.is_empty() {
            self.expiries.clear();
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
    pub fn set_destinations(&mut self, destinations: Arc<Destinations>, bytes_max: u64, now: Tick) {
        self.keeping.held.set_max(bytes_max);
        self.keeping.is_any = destinations.keep_any();
        self.keeping.destinations = destinations;
        let places: Vec<u32> = self.topics.iter().map(|(at, _)| at as u32).collect();
        for at in places {
            let topic = &mut self.topics[at as usize];
            let retention = self.keeping.destinations.retention(&topic.key).copied();
            topic.keeps = retention.is_some();
            match (retention, topic.history_mut()) {
                (Some(retention), Some(history)) => {
                    let dropped = history.set_retention(retention);
                    self.note_dropped(at, dropped);
                    self.watch_age(at, now);
                }
                (None, Some(_)) => {
                    self.drop_oldest(at, u64::MAX);
                    let topic = &mut self.topics[at as usize];
                    topic.beside.as_mut().expect("it has a history").history = None;
                    topic.tidy();
                }
                (_, None) => {}
            }
            self.tidy(at);
        }
        self.relieve();
    }

    /// Whether the room of this message keeps it, here or at another owner.
    #[inline]
    pub fn keeps(&self, message: &Message) -> bool {
        self.keeping.is_any && self.keeping.keeps(message.key())
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

    /// Keeps a message that has its place, in a room that does so. The room may be no more after it.
    pub(super) fn keep(&mut self, at: u32, message: &mut Message, now: Tick) {
        let topic = &mut self.topics[at as usize];
        let history = &mut topic.beside.get_or_insert_default().history;
        if history.is_none() {
            *history = self.keeping.destinations.retention(&topic.key).copied().map(History::new);
        }
        let Some(history) = history else { return };
        message.set_kept();
        let was_empty = history.is_empty();
        let dropped = history.append(message.clone(), now);
        self.keeping.messages += 1;
        self.note_dropped(at, dropped);
        if was_empty {
            self.watch_age(at, now);
        }
        self.relieve();
    }

    /// Somebody has come to a room that keeps messages, or publishes to it. What it keeps is on the account of its maker for as
    /// long as nobody else has: so who makes many rooms has one account, and who came first to a room of many cannot have it
    /// emptied by rooms of his own.
    pub(super) fn note_holder(&mut self, at: u32, holder: Holder) {
        let topic = &mut self.topics[at as usize];
        if topic.is_shared || topic.maker == holder {
            return;
        }
        topic.is_shared = true;
        let bytes = self.keeping.held.release_all(at);
        self.keeping.held.charge(at, Holder::Room(self.topics[at as usize].epoch), bytes);
    }

    /// A room is looked at when its oldest message is too old.
    fn watch_age(&mut self, at: u32, now: Tick) {
        match self.topics[at as usize].history().and_then(History::expires) {
            Some(expires) => self.keeping.expiries.arm(at, expires, now),
            None => self.keeping.expiries.cancel(at),
        }
    }

    /// Drops oldest messages of a room, at most so many.
    fn drop_oldest(&mut self, at: u32, count: u64) {
        let Some(history) = self.topics[at as usize].history_mut() else { return };
        let mut dropped = 0;
        while dropped < count && history.drop_first() {
            dropped += 1;
        }
        self.note_dropped(at, dropped);
    }

    /// A room keeps something else, and has dropped so many messages.
    fn note_dropped(&mut self, at: u32, dropped: u64) {
        let topic = &self.topics[at as usize];
        let holder = if topic.is_shared { Holder::Room(topic.epoch) } else { topic.maker };
        let history = topic.history().filter(|history| !history.is_empty());
        let bytes = history.map_or(0, |history| history.bytes() + ROOM_BYTES);
        self.keeping.messages -= dropped;
        self.keeping.dropped += dropped;
        self.keeping.held.set(at, bytes, || holder);
        if bytes == 0 {
            self.keeping.expiries.cancel(at);
        }
    }

    /// While all rooms keep too much, the room that keeps most drops its oldest messages. Returns whether there is more to do.
    fn relieve(&mut self) -> bool {
        for _ in 0..DROPPED_MAX {
            if !self.keeping.held.is_scarce() {
                return false;
            }
            let Some(worst) = self.keeping.held.worst() else { return false };
            self.drop_oldest(worst, 1);
            self.keeping.relieved += 1;
            self.tidy(worst);
        }
        self.keeping.held.is_scarce()
    }

    /// When [`Topics::expire`] is to be called, if at any time.
    pub fn next_expiry(&self) -> Option<Tick> {
        self.keeping.expiries.next_deadline()
    }

    /// Drops messages that are too old, or too many after a bound was lowered; of many some. Returns whether there are more.
    pub fn expire(&mut self, now: Tick) -> bool {
        if self.keeping.held.is_empty() {
            return false;
        }
        let mut fired = std::mem::take(&mut self.keeping.fired);
        let mut has_more = self.keeping.expiries.expire(now, EXPIRED_ROOMS_MAX, &mut fired);
        let mut left = DROPPED_MAX;
        for at in fired.drain(..) {
            let Some(history) = self.topics[at as usize].history_mut() else { continue };
            let dropped = history.expire(now, left);
            left -= dropped;
            // One that has more to drop is due at once.
            has_more |= history.expires().is_some_and(|expires| expires <= now);
            self.note_dropped(at, dropped);
            self.watch_age(at, now);
            self.tidy(at);
        }
        self.keeping.fired = fired;
        self.relieve() | has_more
    }

    /// A session asks for a room's past, of which one SUBSCRIBE gets `max` messages at most. If there is nothing to recover, its
    /// shard has a member more from here on. `None` as for [`Topics::subscribe`].
    pub fn recover(&mut self, key: &str, origin: &Origin, past: Past, max: u32) -> Option<Start> {
        let at = self.find_or_insert(key, origin.holder)?;
        let topic = &self.topics[at as usize];
        let start = history::start(self.past_of(topic), topic.id(), past, max);
        if start.is_done() {
            self.subscribe(key, origin)?;
        }
        Some(start)
    }

    /// A page of a recovery. If it is the last one, the shard of `origin` has a member more from here on. `None` as for
    /// [`Topics::subscribe`].
    pub fn page(&mut self, key: &str, origin: &Origin, asked: Asked) -> Option<Page> {
        let at = self.find_or_insert(key, origin.holder)?;
        let topic = &self.topics[at as usize];
        let page = history::page(self.past_of(topic), topic.id(), asked);
        if page.is_last {
            self.subscribe(key, origin)?;
        }
        Some(page)
    }

    /// What a room keeps, which may be nothing yet; `None` if it never keeps anything.
    fn past_of<'a>(&'a self, topic: &'a Topic) -> Option<&'a History> {
        topic.history().or(topic.keeps.then_some(&self.keeping.nothing))
    }

    /// What the histories take beside their messages.
    pub(super) fn history_memory(&self) -> Part {
        let of_one = |topic: &Topic| {
            let beside = topic.beside.as_ref().map(|_| Part::exact(size_of::<Beside>()));
            beside.into_iter().chain(topic.history().map(History::list_memory)).sum::<Part>()
        };
        let (expiries, room) = self.keeping.expiries.size();
        let expiries = Part::array(expiries, room, BYTES_PER_KEY);
        self.topics.iter().map(|(_, topic)| of_one(topic)).chain([expiries]).sum()
    }

    pub(super) fn check_keeping(&self) {
        let (mut messages, mut bytes) = (0, 0);
        for (at, topic) in &self.topics {
            let Some(history) = topic.history() else { continue };
            assert!(topic.keeps, "{} keeps what it should not", topic.key);
            history.check();
            let held = if history.is_empty() { 0 } else { history.bytes() + ROOM_BYTES };
            assert_eq!(self.keeping.held.held_by(at as u32), held);
            messages += history.len() as u64;
            bytes += held;
            if let Some(expires) = history.expires() {
                let next = self.keeping.expiries.next_deadline();
                assert!(
                    next.is_some_and(|next| next <= expires),
                    "{}: nobody will look at its age",
                    topic.key
                );
            }
        }
        self.keeping.held.check();
        assert_eq!((messages, bytes), (self.keeping.messages, self.keeping.held.total()));
    }
}
