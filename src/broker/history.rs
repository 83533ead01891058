//! What one room keeps of its past: its last messages, one behind the other without a gap.
//!
//! Who recovers reads it by [`start`] and [`page`], as much at a time as a page has. Messages are kept by reference:
//! what members are sent and what is kept here is the same memory.
//!
//! Invariant: the messages kept are the last ones of the room's order; `bytes` is what they take.

use std::collections::VecDeque;

use crate::footprint::Part;
use crate::message::past::{Lack, Missing, Page, Past, Start};
use crate::message::{Message, MessageId, Sequenced};
use crate::policy::destinations::Retention;
use crate::time::Tick;

/// Messages of one page, so that what is under way to a shard is small.
pub const PAGE_MESSAGES_MAX: usize = 512;

#[derive(Debug)]
struct Kept {
    message: Message,
    at: Tick,
}

fn weight(message: &Message) -> u64 {
    // What a message counts of itself is where it is kept here.
    message.weight() + (size_of::<Kept>() - size_of::<Message>()) as u64
}

/// See the module.
#[derive(Debug)]
pub struct History {
    kept: VecDeque<Kept>,
    bytes: u64,
    retention: Retention,
}

impl History {
    /// Nothing yet, and no more than this.
    pub fn new(retention: Retention) -> History {
        History { kept: VecDeque::new(), bytes: 0, retention }
    }

    /// Messages that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes of what is kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory of the list; what messages take beyond that is theirs.
    pub fn list_memory(&self) -> Part {
        Part::array(self.kept.len(), self.kept.capacity(), size_of::<Kept>())
    }

    /// Other bounds hold. Returns how many messages were dropped.
    pub fn set_retention(&mut self, retention: Retention) -> u64 {
        self.retention = retention;
        self.trim()
    }

    /// Keeps the next message, and drops what is then too much. Returns how many were dropped.
    pub fn append(&mut self, message: Message, now: Tick) -> u64 {
        self.bytes += weight(&message);
        self.kept.push_back(Kept { message, at: now });
        self.trim()
    }

    fn trim(&mut self) -> u64 {
        let mut dropped = 0;
        while self.kept.len() > self.retention.messages_max.max(1) as usize
            || (self.bytes > self.retention.bytes_max && self.kept.len() > 1)
        {
            self.drop_first();
            dropped += 1;
        }
        dropped
    }

    /// Drops the oldest message. `false` if there is none.
    pub fn drop_first(&mut self) -> bool {
        let Some(first) = self.kept.pop_front() else { return false };
        self.bytes -= weight(&first.message);
        if self.kept.len() * 4 < self.kept.capacity() {
            self.kept.shrink_to(self.kept.len() * 2);
        }
        true
    }

    /// When the oldest message is too old; `None` if there is none, or none gets too old.
    pub fn expires(&self) -> Option<Tick> {
        let ms = u64::from(self.retention.age_max_s) * 1000;
        self.kept.front().filter(|_| ms > 0).map(|first| first.at.after_ms(ms))
    }

    /// Drops what is too old, at most so many messages. Returns how many that were.
    pub fn expire(&mut self, now: Tick, max: u64) -> u64 {
        let mut dropped = 0;
        while dropped < max && self.expires().is_some_and(|at| at <= now) {
            self.drop_first();
            dropped += 1;
        }
        dropped
    }

    /// The sequence number of the oldest message, or of the next one if none is kept; `head` is the last one's.
    fn first(&self, head: u64) -> u64 {
        head + 1 - self.kept.len() as u64
    }

    /// Panics unless the invariant holds.
    pub fn check(&self) {
        assert_eq!(self.bytes, self.kept.iter().map(|kept| weight(&kept.message)).sum::<u64>());
        assert!(self.kept.iter().is_sorted_by_key(|kept| kept.at));
    }
}

/// The sequence number of the oldest message that is kept in a room whose last message is `head`; of the next one if none is.
fn first_of(history: Option<&History>, head: MessageId) -> u64 {
    history.map_or(head.sequence + 1, |history| history.first(head.sequence))
}

/// Why messages of this epoch are not there.
fn lack_in(history: Option<&History>) -> Lack {
    if history.is_some() { Lack::Trimmed } else { Lack::Off }
}

/// A page that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Where it begins.
    pub next: MessageId,
    /// What its messages take at most in bytes, but for a single larger one.
    pub bytes_max: u32,
    /// It is to be the last one, whatever it must leave out: the subscription has had as much as one may.
    pub is_final: bool,
}

/// A page of a room whose last message is `head`; `history` is what it keeps, if it does.
pub fn page(history: Option<&History>, head: MessageId, asked: Asked) -> Page {
    let Asked { next, bytes_max, is_final } = asked;
    let first = first_of(history, head);
    let lack = lack_in(history);
    let (mut from, mut missing) = if next.epoch != head.epoch {
        (first, Some(Missing { lack: Lack::Epoch, from: 1, to: first - 1 }))
    } else if next.sequence < first {
        (first, Some(Missing { lack, from: next.sequence, to: first - 1 }))
    } else {
        (next.sequence.min(head.sequence + 1), None)
    };
    let fits = |bytes: &mut u64, kept: &Kept| {
        let is_first = *bytes == 0;
        *bytes += weight(&kept.message);
        is_first || *bytes <= u64::from(bytes_max)
    };
    let kept = || history.map(|history| &history.kept);
    if is_final {
        let mut bytes = 0;
        let newest = kept().into_iter().flat_map(|kept| kept.iter().rev().take(PAGE_MESSAGES_MAX));
        let count = newest.take_while(|kept| fits(&mut bytes, kept)).count() as u64;
        let nearest = head.sequence + 1 - count;
        if from < nearest {
            let bound = Missing { lack: Lack::Bound, from, to: nearest - 1 };
            missing = Some(bound.after(missing));
            from = nearest;
        }
    }
    let id = |sequence| MessageId { epoch: head.epoch, sequence };
    let mut bytes = 0;
    let rest = kept().into_iter().flat_map(|kept| kept.range((from - first) as usize..));
    let messages: Vec<Sequenced> = (from..)
        .zip(rest.take(PAGE_MESSAGES_MAX).take_while(|kept| fits(&mut bytes, kept)))
        .map(|(sequence, kept)| Sequenced { id: id(sequence), message: kept.message.clone() })
        .collect();
    let next = id(from + messages.len() as u64);
    Page { messages, missing, next, is_last: next.sequence > head.sequence }
}

/// How a recovery begins in a room whose last message is `head`; `history` is what it keeps, if it does. One SUBSCRIBE gets
/// `max` messages at most.
pub fn start(history: Option<&History>, head: MessageId, past: Past, max: u32) -> Start {
    let behind = head.sequence + 1;
    let first = first_of(history, head);
    let lost = |lack, from| Some(Missing { lack, from, to: first - 1 });
    let (mut next, mut missing) = match past {
        Past::Since(since) if since.epoch == head.epoch && since.sequence <= head.sequence => {
            let next = since.sequence + 1;
            (next.max(first), if next < first { lost(lack_in(history), next) } else { None })
        }
        // No such position was ever given in this epoch.
        Past::Since(_) => (first, lost(Lack::Epoch, 1)),
        Past::Last(count) if history.is_some() => (behind.saturating_sub(u64::from(count)).max(first), None),
        Past::Last(0) => (behind, None),
        // Of a room that keeps nothing, nobody knows how much was asked for.
        Past::Last(_) => (behind, Some(Missing { lack: Lack::Off, from: 1, to: 0 })),
    };
    let nearest = behind.saturating_sub(u64::from(max));
    if next < nearest {
        let bound = Missing { lack: Lack::Bound, from: next, to: nearest - 1 };
        missing = Some(bound.after(missing));
        next = nearest;
    }
    Start { position: head, next, missing }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::destination::Destination;

    fn message(bytes: usize) -> Message {
        Message::new(&Destination::parse_send("/topic/a").unwrap(), b"", &vec![0; bytes])
    }

    fn kept(messages: u64, retention: Retention) -> History {
        let mut history = History::new(retention);
        for at in 0..messages {
            history.append(message(10), Tick(at as u32 * 10));
        }
        history
    }

    fn page_of(history: &History, head: MessageId, next: MessageId) -> Page {
        page(Some(history), head, Asked { next, bytes_max: 64 * 1024, is_final: false })
    }

    const MANY: Retention = Retention { messages_max: 1000, bytes_max: 1 << 20, age_max_s: 0 };

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 5, sequence }
    }

    #[test]
    fn each_bound_drops_the_oldest() {
        let mut history = kept(10, Retention { messages_max: 3, ..MANY });
        assert_eq!((history.len(), history.first(10)), (3, 8));
        assert_eq!(history.set_retention(Retention { bytes_max: 1, ..MANY }), 2, "it holds at once");
        assert_eq!(history.append(message(10), Tick(200)), 1);
        assert_eq!(history.len(), 1, "the last one is kept whatever it takes");
        let mut history = kept(10, Retention { age_max_s: 5, ..MANY });
        assert_eq!(history.expires(), Some(Tick(50)));
        assert_eq!(
            (history.expire(Tick(49), 9), history.expire(Tick(70), 2), history.expire(Tick(70), 9)),
            (0, 2, 1)
        );
        assert_eq!((history.expire(Tick(1000), 9), history.expires(), history.bytes()), (7, None, 0));
        history.check();
    }

    #[test]
    fn a_start_names_what_cannot_be_had() {
        let history = kept(10, Retention { messages_max: 4, ..MANY });
        let start = |past, max| {
            let start = start(Some(&history), id(10), past, max);
            assert_eq!((start.position, start.is_done()), (id(10), start.next == 11));
            (start.next, start.missing)
        };
        let missing = |lack, from, to| Some(Missing { lack, from, to });
        assert_eq!(start(Past::Since(id(10)), 100), (11, None));
        assert_eq!(start(Past::Since(id(8)), 100), (9, None));
        assert_eq!(start(Past::Since(id(6)), 100), (7, None));
        assert_eq!(start(Past::Since(id(5)), 100), (7, missing(Lack::Trimmed, 6, 6)));
        assert_eq!(start(Past::Since(id(2)), 2), (9, missing(Lack::Trimmed, 3, 8)));
        assert_eq!(start(Past::Since(id(6)), 2), (9, missing(Lack::Bound, 7, 8)));
        assert_eq!(start(Past::Since(id(11)), 100), (7, missing(Lack::Epoch, 1, 6)));
        let elsewhere = MessageId { epoch: 4, sequence: 9 };
        assert_eq!(start(Past::Since(elsewhere), 100), (7, missing(Lack::Epoch, 1, 6)));
        assert_eq!(start(Past::Last(0), 100), (11, None));
        assert_eq!(start(Past::Last(3), 100), (8, None));
        assert_eq!(start(Past::Last(u32::MAX), 100), (7, None));
        assert_eq!(start(Past::Last(4), 3), (8, missing(Lack::Bound, 7, 7)));
    }

    #[test]
    fn a_room_that_keeps_nothing_says_so() {
        let start = |past, head| {
            let start = start(None, id(head), past, 100);
            assert!(start.is_done());
            start.missing
        };
        let missing = |from, to| Some(Missing { lack: Lack::Off, from, to });
        assert_eq!(start(Past::Since(id(7)), 7), None);
        assert_eq!(start(Past::Since(id(3)), 7), missing(4, 7));
        assert_eq!(start(Past::Last(0), 7), None);
        assert_eq!(start(Past::Last(3), 7), missing(1, 0));
        let elsewhere = Past::Since(MessageId { epoch: 4, sequence: 9 });
        assert_eq!(start(elsewhere, 7), Some(Missing { lack: Lack::Epoch, from: 1, to: 7 }));
        assert_eq!(start(elsewhere, 0), Some(Missing { lack: Lack::Epoch, from: 1, to: 0 }));
    }

    #[test]
    fn a_page_is_bounded_and_says_what_was_dropped_meanwhile() {
        let history_of_many = kept(PAGE_MESSAGES_MAX as u64 + 9, MANY);
        let head = id(history_of_many.len() as u64);
        let page = page_of(&history_of_many, head, id(2));
        assert_eq!((page.messages.len(), page.is_last), (PAGE_MESSAGES_MAX, false));
        assert_eq!((page.messages[0].id, page.missing), (id(2), None));
        let page = page_of(&history_of_many, head, page.next);
        assert_eq!((page.messages.len(), page.is_last), (8, true));
        // The last one that a subscription may have is the newest that there is.
        let last = Asked { next: id(2), bytes_max: 300, is_final: true };
        let page = super::page(Some(&history_of_many), head, last);
        let missing = Missing { lack: Lack::Bound, from: 2, to: head.sequence - page.messages.len() as u64 };
        assert_eq!((page.is_last, page.missing), (true, Some(missing)));
        assert!((1..5).contains(&page.messages.len()));
        let off = super::page(None, head, Asked { is_final: false, ..last });
        assert_eq!((off.is_last, off.missing.map(|missing| missing.lack)), (true, Some(Lack::Off)));
        let mut history = kept(200, MANY);
        while history.len() > 10 {
            history.drop_first();
        }
        let page = page_of(&history, id(200), id(165));
        assert_eq!(page.missing, Some(Missing { lack: Lack::Trimmed, from: 165, to: 190 }));
        assert_eq!((page.messages[0].id, page.messages.len(), page.is_last), (id(191), 10, true));
        let page = page_of(&history, id(200), MessageId { epoch: 4, sequence: 165 });
        assert_eq!(page.missing, Some(Missing { lack: Lack::Epoch, from: 1, to: 190 }));
        // A large message is a page of its own.
        let mut history = History::new(MANY);
        for bytes in [10, 1 << 19, 10] {
            history.append(message(bytes), Tick(0));
        }
        let pages = std::iter::successors(Some(page_of(&history, id(3), id(1))), |page| {
            (!page.is_last).then(|| page_of(&history, id(3), page.next))
        });
        assert!(pages.map(|page| page.messages.len()).eq([1, 1, 1]));
        history.check();
    }

    proptest! {
        /// Whatever is asked, pages and what they say is missing are all messages up to the head, once and in order.
        #[test]
        fn pages_are_without_a_gap(
            sizes in prop::collection::vec(0..40_000usize, 0..120),
            messages_max in 1u32..120,
            bytes_max in 1u64..1_000_000,
            since in 0u64..130,
            drops in prop::collection::vec(0usize..4, 0..40),
        ) {
            let mut history = History::new(Retention { messages_max, bytes_max, age_max_s: 0 });
            for size in &sizes {
                history.append(message(*size), Tick(0));
                history.check();
            }
            let head = id(sizes.len() as u64);
            let since = since.min(head.sequence);
            let Start { mut next, missing, .. } = start(Some(&history), head, Past::Since(id(since)), u32::MAX);
            let mut expected = since + 1;
            if let Some(Missing { from, to, .. }) = missing {
                prop_assert_eq!(from, expected);
                expected = to + 1;
            }
            let mut drops = drops.into_iter();
            while next <= head.sequence {
                for _ in 0..drops.next().unwrap_or(0) {
                    history.drop_first();
                }
                let page = page_of(&history, head, id(next));
                if let Some(Missing { from, to, .. }) = page.missing {
                    prop_assert_eq!(from, expected);
                    expected = to + 1;
                }
                for Sequenced { id, message } in &page.messages {
                    prop_assert_eq!(id.sequence, expected);
                    prop_assert_eq!(message.body().len(), sizes[expected as usize - 1]);
                    expected += 1;
                }
                prop_assert!(page.is_last || !page.messages.is_empty());
                prop_assert_eq!(page.is_last, page.next.sequence > head.sequence);
                next = page.next.sequence;
            }
            prop_assert_eq!(expected, head.sequence + 1);
        }
    }
}
