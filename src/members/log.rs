//! What a shard's members of one room are owed, kept once: messages in the room's order.
//!
//! A message has a *position*, which counts from the log's begin in this shard. It stays in the log while the walk under way, or
//! the next one, or a debt needs it. A debt is counted at the message that it needs next; what is in front of all walks and all
//! debts is dropped.
//!
//! The log knows no members. It is there only while there is something in it.
//!
//! Invariant: positions from `start` on are needed by walks, so nothing behind `start` is dropped; the first message that is
//! kept is needed; `start <= end <=` the position behind the last message.

use std::collections::VecDeque;

use crate::message::Sequenced;

/// Bytes of messages that one walk covers, but for a single larger message. So a walk's run fits the encoder's scratch.
pub const WALK_BYTES_MAX: u64 = 256 * 1024;

/// What an entry takes beside its message.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

#[derive(Debug)]
struct Entry {
    sequenced: Sequenced,
    /// Weight of all messages before it, since the log began.
    offset: u64,
    /// Debts whose next message this is.
    readers: u32,
}

/// Messages for which the memory of a log is worth keeping.
const ENTRIES_KEPT_MAX: usize = 64;

/// The memory of a log.
#[derive(Debug)]
pub struct Entries(VecDeque<Entry>);

/// See the module.
#[derive(Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// Position of the first entry.
    base: u64,
    /// Weight of all messages since the log began.
    weight: u64,
    /// Members in step have everything before it.
    start: u64,
    /// Where the walk under way ends; `start` if there is none.
    end: u64,
}

impl Log {
    /// An empty log in the memory of another one.
    pub fn in_memory_of(entries: Entries) -> Log {
        debug_assert!(entries.0.is_empty());
        Log { entries: entries.0, ..Log::default() }
    }

    /// The memory of a log that is empty, if another one may have use for it.
    pub fn into_memory(self) -> Option<Entries> {
        let capacity = self.entries.capacity();
        (self.entries.is_empty() && (1..=ENTRIES_KEPT_MAX).contains(&capacity))
            .then_some(Entries(self.entries))
    }

    /// The position behind the last message.
    pub fn head(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// Where the walk under way began; else where the next one will.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where the walk under way ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether a walk is under way.
    pub fn is_walking(&self) -> bool {
        self.start < self.end
    }

    /// Whether members in step have everything.
    pub fn is_walked(&self) -> bool {
        self.start == self.head()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Weight in bytes of the messages from one position up to another, both in the log.
    pub fn weight(&self, from: u64, to: u64) -> u64 {
        self.offset(to) - self.offset(from)
    }

    fn offset(&self, position: u64) -> u64 {
        match self.entries.get((position - self.base) as usize) {
            Some(entry) => entry.offset,
            None => self.weight,
        }
    }

    /// Weight in bytes of what members in step have not been sent.
    pub fn unwalked_bytes(&self) -> u64 {
        self.weight(self.start, self.head())
    }

    /// What the log holds in bytes, its own records included.
    pub fn held_bytes(&self) -> u64 {
        self.weight(self.base, self.head()) + self.entries.len() as u64 * ENTRY_BYTES
    }

    /// `count` messages from a position on.
    pub fn messages(&self, from: u64, count: u32) -> impl ExactSizeIterator<Item = &Sequenced> + Clone {
        let at = (from - self.base) as usize;
        self.entries.range(at..at + count as usize).map(|entry| &entry.sequenced)
    }

    /// How many messages from `from` on, at most `max` of them, weigh no more than `bytes`; at least one.
    pub fn count_within(&self, from: u64, max: u32, bytes: u64) -> u32 {
        let limit = self.offset(from).saturating_add(bytes);
        let at = (from - self.base) as usize;
        let within = self
            .entries
            .range(at..at + max as usize)
            .take_while(|entry| entry.offset + entry.sequenced.message.weight() <= limit);
        (within.count() as u32).clamp(1, max.max(1))
    }

    /// Appends a message. Returns what the log has grown by, in bytes.
    pub fn append(&mut self, sequenced: Sequenced) -> u64 {
        let weight = sequenced.message.weight();
        self.entries.push_back(Entry { sequenced, offset: self.weight, readers: 0 });
        self.weight += weight;
        weight + ENTRY_BYTES
    }

    /// Begins the next walk, over at most [`WALK_BYTES_MAX`] bytes.
    ///
    /// # Panics
    /// If one is under way, or there is nothing to walk.
    pub fn begin_walk(&mut self) {
        assert!(!self.is_walking() && !self.is_walked());
        let pending = (self.head() - self.start) as u32;
        self.end = self.start + u64::from(self.count_within(self.start, pending, WALK_BYTES_MAX));
    }

    /// All members in step have what the walk was for.
    pub fn end_walk(&mut self) {
        self.start = self.end;
    }

    /// Nobody is in step: nothing is owed to such any more.
    pub fn skip_walks(&mut self) {
        (self.start, self.end) = (self.head(), self.head());
    }

    /// A debt begins at this position.
    pub fn add_reader(&mut self, position: u64) {
        let at = (position - self.base) as usize;
        self.entries[at].readers += 1;
    }

    /// A debt that was at this position has gone on, or is no more. Returns whether [`Log::trim`] has something to drop then.
    ///
    /// # Panics
    /// If no debt was there.
    pub fn remove_reader(&mut self, position: u64) -> bool {
        let at = (position - self.base) as usize;
        let readers = &mut self.entries[at].readers;
        *readers = readers.checked_sub(1).expect("a debt is counted where it is");
        at == 0 && *readers == 0 && self.base < self.start
    }

    /// Drops what nobody needs. Returns what the log has shrunk by, in bytes.
    pub fn trim(&mut self) -> u64 {
        let (mut dropped, mut weight) = (0, 0);
        while self.base < self.start
            && let Some(first) = self.entries.front()
            && first.readers == 0
        {
            weight += first.sequenced.message.weight();
            dropped += 1;
            self.entries.pop_front();
            self.base += 1;
        }
        if self.entries.len() * 4 < self.entries.capacity() && self.entries.capacity() > 64 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        weight + dropped * ENTRY_BYTES
    }

    /// Debts that are counted here.
    pub fn readers(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.readers)).sum()
    }

    /// Panics unless the invariant holds.
    pub fn check(&self) {
        assert!(self.start <= self.end && self.end <= self.head());
        assert!(self.base <= self.start);
        let mut offset = self.entries.front().map_or(self.weight, |entry| entry.offset);
        for entry in &self.entries {
            assert_eq!(entry.offset, offset);
            offset += entry.sequenced.message.weight();
        }
        assert_eq!(offset, self.weight);
        if let Some(first) = self.entries.front() {
            assert!(first.readers > 0 || self.base >= self.start, "a message is kept for nobody");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::destination::Destination;
    use crate::message::{Message, MessageId};

    fn sequenced(sequence: u64, bytes: usize) -> Sequenced {
        let room = Destination::parse_send("/topic/a").unwrap();
        Sequenced { id: MessageId { epoch: 1, sequence }, message: Message::new(&room, b"", &vec![0; bytes]) }
    }

    #[test]
    fn a_walk_covers_what_fits_and_at_least_one_message() {
        let mut log = Log::default();
        for bytes in [100, 100, WALK_BYTES_MAX as usize, 10] {
            log.append(sequenced(0, bytes));
        }
        for end in [2, 3, 4] {
            log.begin_walk();
            assert_eq!(log.end(), end);
            log.end_walk();
            log.trim();
            log.check();
        }
        assert!(log.is_empty() && log.is_walked() && log.held_bytes() == 0);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Append(usize),
        Begin,
        End,
        /// A debt begins at the walk's start.
        Owe,
        /// The oldest debt goes on by one message, or ends.
        Pay,
        Skip,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..3000usize).prop_map(Op::Append),
            3 => Just(Op::Begin),
            3 => Just(Op::End),
            3 => Just(Op::Owe),
            4 => Just(Op::Pay),
            1 => Just(Op::Skip),
        ]
    }

    proptest! {
        /// The model keeps all messages, and says which are needed.
        #[test]
        fn what_is_needed_is_kept_and_nothing_else(ops in prop::collection::vec(op(), 0..200)) {
            let mut log = Log::default();
            let mut all: Vec<u64> = Vec::new();
            let mut debts: Vec<u64> = Vec::new();
            let mut held = 0;
            for op in ops {
                match op {
                    Op::Append(bytes) => {
                        held += log.append(sequenced(all.len() as u64, bytes));
                        all.push(sequenced(0, bytes).message.weight());
                    }
                    Op::Begin if !log.is_walking() && !log.is_walked() => log.begin_walk(),
                    Op::End => log.end_walk(),
                    Op::Owe if log.is_walking() => {
                        log.add_reader(log.start());
                        debts.push(log.start());
                    }
                    Op::Pay if !debts.is_empty() => {
                        let at = debts.remove(0);
                        log.remove_reader(at);
                        if at + 1 < log.head() {
                            log.add_reader(at + 1);
                            debts.push(at + 1);
                        }
                    }
                    Op::Skip => log.skip_walks(),
                    _ => {}
                }
                held -= log.trim();
                log.check();
                prop_assert_eq!(held, log.held_bytes());
                prop_assert_eq!(log.readers(), debts.len() as u64);
                let first = debts.iter().copied().chain([log.start()]).min().unwrap();
                prop_assert_eq!(log.head() - log.base, all.len() as u64 - first.min(all.len() as u64));
                prop_assert_eq!(log.weight(first, log.head()), all[first as usize..].iter().sum::<u64>());
                let sequences: Vec<u64> =
                    log.messages(first, (log.head() - first) as u32).map(|message| message.id.sequence).collect();
                prop_assert!(sequences.into_iter().eq(first..all.len() as u64));
            }
        }
    }
}
