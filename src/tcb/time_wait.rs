//! TIME_WAIT: small records of the connections that this side closed first.
//!
//! A record is 16 bytes, and about 8 in the index by name: a whole [TCB](super) would tell nothing more,
//! because the connection is over. The records are a model for admission and for those who look: the kernel
//! has TIME_WAIT entries of its own, and they are what protects the network. They are in one queue, oldest
//! first, since all wait for the same time.
//!
//! Invariant: the queue is ordered by entry, begins with a record that waits, and every record that waits is
//! in the index, once (`TimeWait::check`).

use std::collections::VecDeque;
use std::num::NonZeroU32;

use hashbrown::HashTable;

use crate::time::Tick;

/// The age, in milliseconds, past which [`Reuse::OlderThan60s`] takes a record.
pub const REUSE_AGE_MS: u32 = 60_000;

/// Records that [`Reuse::PeerDiffers`] looks at for one of another peer. One endpoint can be in several only
/// by connecting to several local addresses or ports, and those are few.
const REUSE_SCAN_MAX: usize = 16;

/// Holes in the queue above which it is rewritten, once they also outnumber the records.
const HOLES_MIN: usize = 1024;

/// How TIME_WAIT is modelled.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Config {
    /// Milliseconds in TIME_WAIT; 0 switches it off. Windows' `TcpTimedWaitDelay`, there in seconds: 30 to
    /// 300, by default 240. Linux: 60 s, fixed.
    pub delay_ms: u32,
    /// Records at which room is made as `reuse` says. Windows' `MaxFreeTWTcbs`; Linux' `tcp_max_tw_buckets`.
    pub records_max: u32,
    /// Which records may give their place to others.
    pub reuse: Reuse,
    /// Whether a record takes one of the table's places, as the TCBs in TIME_WAIT of Windows do. On Linux they
    /// are apart.
    pub counts_against_capacity: bool,
}

impl Default for Config {
    /// As Linux does it.
    fn default() -> Config {
        Config { delay_ms: 60_000, records_max: 65_536, reuse: Reuse::Never, counts_against_capacity: false }
    }
}

/// When a record gives its place to another connection before its delay has passed.
///
/// | | with `records_max` records, and one more | with a full table that records count in |
/// |---|---|---|
/// | `Never` | the new one skips TIME_WAIT (Linux: `TCPTimeWaitOverflow`) | the connection is refused |
/// | `OlderThan60s` | records older than 60 s go; without one, the new one stays all the same, up to the capacity | records older than 60 s go, once there are `records_max` |
/// | `PeerDiffers` | the oldest of another peer goes | the oldest of another peer goes |
///
/// A connection with the very name of a record takes its place under every policy: the kernel has accepted
/// it, so it is plainly not the old one (RFC 6191).
#[derive(Debug, Copy, Clone, PartialEq, Eq, Default)]
pub enum Reuse {
    /// Windows before 2000; Linux.
    #[default]
    Never,
    /// Windows 2000: "when reaching the limit", `MaxFreeTWTcbs`, sockets "that have been in TIME_WAIT state
    /// for more than 60 secs" are free. The number is where that begins, not a bound.
    OlderThan60s,
    /// Windows Server 2003 SP1: a socket is reused if "the other party is different from the old socket". The
    /// party is taken as address and port: TIME_WAIT keeps late segments out of a connection of the same
    /// name, and there can be none with another endpoint.
    PeerDiffers,
}

/// A connection's name in TIME_WAIT, and its peer's: keyed hashes. That two of the former are equal by chance
/// is as likely as 1 in 2^64 for a pair; for the latter the record is passed over. Only [`Reuse::PeerDiffers`] reads the
/// latter, and without it all may be 0.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) tuple: u64,
    pub(super) peer: u32,
}

#[derive(Debug, Copy, Clone)]
struct Record {
    name: u64,
    peer: u32,
    /// The tick of entry, plus one, so that the queue's holes are in the niche.
    entered: NonZeroU32,
}

const _: () = assert!(size_of::<Option<Record>>() == 16);

impl Record {
    fn new(name: Name, entered: Tick) -> Record {
        // Saturates where the clock does.
        let entered = NonZeroU32::MIN.saturating_add(entered.0);
        Record { name: name.tuple, peer: name.peer, entered }
    }

    fn entered(&self) -> Tick {
        Tick(self.entered.get() - 1)
    }
}

/// What became of a connection that was to enter.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// It is in TIME_WAIT.
    pub(super) kept: bool,
    /// Records that have gone for it.
    pub(super) freed: u32,
}

/// Records that went, by reason.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that entered TIME_WAIT.
    pub entered: u64,
    /// Records that waited to the end.
    pub expired: u64,
    /// Records that gave their place to another connection, as [`Reuse`] says.
    pub reused: u64,
    /// Records that gave their place to a connection of the same name.
    pub reopened: u64,
    /// Connections that skipped TIME_WAIT because `records_max` was reached.
    pub overflowed: u64,
}

/// All records of a table.
#[derive(Debug)]
pub(super) struct TimeWait {
    config: Config,
    /// Records that are never passed, whatever the policy.
    bound: u32,
    /// Oldest first. One that left from the middle is a hole until it is the oldest.
    records: VecDeque<Option<Record>>,
    /// The number of the first in `records`; they are numbered in order, and the numbers wrap.
    first: u32,
    /// Numbers of the records, by name.
    numbers: HashTable<u32>,
    /// The latest moment that any call came with: several threads tell the time, and not in order.
    now: Tick,
    totals: Totals,
}

impl TimeWait {
    /// No record yet, for a table of this capacity. It bounds the records where the policy does not.
    pub(super) fn new(config: Config, capacity: u32) -> TimeWait {
        let bound = match config.reuse {
            Reuse::Never | Reuse::PeerDiffers => config.records_max,
            Reuse::OlderThan60s => config.records_max.max(capacity),
        };
        TimeWait {
            config,
            bound,
            records: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
            now: Tick(0),
            totals: Totals::default(),
        }
    }

    /// Records that wait.
    pub(super) fn len(&self) -> u32 {
        self.numbers.len() as u32
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Bytes of the queue and its index.
    pub(super) fn bytes(&self) -> usize {
        self.records.capacity() * size_of::<Option<Record>>() + self.numbers.allocation_size()
    }

    pub(super) fn contains(&self, name: Name) -> bool {
        self.numbers.find(name.tuple, |&number| self.named(number) == Some(name.tuple)).is_some()
    }

    /// A connection that this side closed first enters, if there is room or room can be made. O(1),
    /// amortised.
    pub(super) fn enter(&mut self, name: Name, now: Tick) -> Entry {
        let mut freed = self.expire(now) + u32::from(self.reopen(name));
        if self.config.delay_ms == 0 {
            return Entry { kept: false, freed };
        }
        if self.len() >= self.config.records_max {
            freed += self.make_room(name);
        }
        if self.len() >= self.bound {
            self.totals.overflowed += 1;
            return Entry { kept: false, freed };
        }
        // Numbers go round. Holes are at most as many as records, so all that are in use differ.
        let number = self.first.wrapping_add(self.records.len() as u32);
        self.records.push_back(Some(Record::new(name, self.now)));
        let (records, first) = (&self.records, self.first);
        self.numbers
            .insert_unique(name.tuple, number, |&number| name_at(records, first, number).unwrap_or(0));
        self.totals.entered += 1;
        Entry { kept: true, freed }
    }

    /// A connection of this name was accepted: its record, if there is one, goes. O(1), amortised.
    pub(super) fn reopen(&mut self, name: Name) -> bool {
        let reopened = self.take(name);
        self.totals.reopened += u64::from(reopened);
        reopened
    }

    /// The table is full: records that have waited long enough go, or else those that the policy gives to a
    /// connection of this name. How many went.
    pub(super) fn give_way(&mut self, name: Name, now: Tick) -> u32 {
        match self.expire(now) {
            0 => self.make_room(name),
            freed => freed,
        }
    }

    /// Records that have waited long enough go. How many. O(that).
    pub(super) fn expire(&mut self, now: Tick) -> u32 {
        self.now = self.now.max(now);
        let freed = self.take_while(|this, oldest| {
            oldest.entered().after_ms(u64::from(this.config.delay_ms)) <= this.now
        });
        self.totals.expired += u64::from(freed);
        freed
    }

    /// What the policy gives to a connection of this name. How many went.
    fn make_room(&mut self, name: Name) -> u32 {
        let freed = match self.config.reuse {
            Reuse::Never => 0,
            Reuse::OlderThan60s => self.take_while(|this, oldest| {
                this.len() >= this.config.records_max
                    && oldest.entered().after_ms(u64::from(REUSE_AGE_MS)) < this.now
            }),
            Reuse::PeerDiffers => {
                let mut oldest = self.records.iter().flatten().take(REUSE_SCAN_MAX);
                let other = oldest.find(|record| record.peer != name.peer).copied();
                other.map_or(0, |record| u32::from(self.take(Name { tuple: record.name, peer: record.peer })))
            }
        };
        self.totals.reused += u64::from(freed);
        freed
    }

    /// Takes the oldest records while `goes` says so. How many.
    fn take_while(&mut self, goes: impl Fn(&TimeWait, &Record) -> bool) -> u32 {
        let mut taken = 0;
        while let Some(oldest) = self.records.front().copied().flatten()
            && goes(self, &oldest)
        {
            self.take(Name { tuple: oldest.name, peer: oldest.peer });
            taken += 1;
        }
        taken
    }

    /// Takes the record of this name out. False if there is none.
    fn take(&mut self, name: Name) -> bool {
        let (records, first) = (&self.records, self.first);
        let found = self
            .numbers
            .find_entry(name.tuple, |&number| name_at(records, first, number) == Some(name.tuple));
        let Ok(found) = found else { return false };
        let (number, _) = found.remove();
        self.records[number.wrapping_sub(self.first) as usize] = None;
        while let Some(None) = self.records.front() {
            self.records.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        if self.records.len() - self.numbers.len() > HOLES_MIN.max(self.numbers.len()) {
            self.close_holes();
        }
        true
    }

    /// Rewrites queue and index without the holes. O(records), paid for by as many that left.
    fn close_holes(&mut self) {
        self.records.retain(Option::is_some);
        self.numbers.clear();
        let (records, first) = (&self.records, self.first);
        for (offset, record) in records.iter().flatten().enumerate() {
            let number = first.wrapping_add(offset as u32);
            self.numbers
                .insert_unique(record.name, number, |&number| name_at(records, first, number).unwrap_or(0));
        }
    }

    fn named(&self, number: u32) -> Option<u64> {
        name_at(&self.records, self.first, number)
    }

    /// Verifies the invariant. O(records); for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub(super) fn check(&self) {
        assert!(!matches!(self.records.front(), Some(None)), "the queue begins with a hole");
        let waiting: Vec<&Record> = self.records.iter().flatten().collect();
        assert!(waiting.is_sorted_by_key(|record| record.entered), "the queue is out of order");
        assert_eq!(waiting.len(), self.numbers.len());
        for record in waiting {
            assert!(self.contains(Name { tuple: record.name, peer: record.peer }), "a record is not indexed");
            assert!(record.entered() <= self.now);
        }
        assert!(self.len() <= self.bound);
        let Totals { entered, expired, reused, reopened, .. } = self.totals;
        assert_eq!(entered - expired - reused - reopened, u64::from(self.len()));
    }
}

/// The name of a record by its number; `None` for a hole.
fn name_at(records: &VecDeque<Option<Record>>, first: u32, number: u32) -> Option<u64> {
    let record = records.get(number.wrapping_sub(first) as usize)?;
    record.as_ref().map(|record| record.name)
}

#[cfg(test)]
mod tests;
