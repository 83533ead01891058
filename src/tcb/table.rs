//! The table of TCP control blocks: the ledger of all connections, in all states.
//!
//! It is shared by all reactors and touched when a connection opens, changes its state or closes, and by
//! whoever looks one up; never for a message. It knows no sockets.
//!
//! Locks: one per partition, and one for TIME_WAIT, which is taken last and only by those who open or close.
//! The places taken are one atomic number over all partitions, so the capacity is exact.
//!
//! Invariant: a connection's name is in one state at a time, and the places taken are the TCBs plus, if they
//! count, the records in TIME_WAIT; at most the capacity ([`TcbTable::check`]).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::index::ChainLengths;
use super::partition::Partition;
use super::sketch::Sketch;
use super::state::{Closer, Event, IllegalTransition, State};
use super::time_wait::{self, Name, TimeWait, Totals};
use super::tuple::FourTuple;
use crate::share;
use crate::time::Tick;

/// The most that a table can be asked to hold: Windows' `TcpNumConnections`, 16,777,214.
pub const CAPACITY_MAX: u32 = 0x00FF_FFFE;

/// The most partitions.
pub const PARTITIONS_MAX: u32 = 1024;

/// The shape of a table.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Connections, in all states but, depending on [`time_wait`](Self::time_wait), TIME_WAIT. At most
    /// [`CAPACITY_MAX`]. Windows' `MaxFreeTcbs`.
    pub capacity: u32,
    /// Buckets of the index, over all partitions; at least one for each. Windows' `MaxHashTableSize`.
    pub hash_buckets: u32,
    /// Partitions, each with a lock and an index of its own; 1 to [`PARTITIONS_MAX`]. Windows'
    /// `NumTcbTablePartitions`.
    pub partitions: u32,
    /// TIME_WAIT.
    pub time_wait: time_wait::Config,
}

impl TableConfig {
    /// A bucket per connection, four partitions per core (at most one per connection), TIME_WAIT as on Linux.
    ///
    /// With a bucket per connection, a lookup in a full table compares 1.5 TCBs. Four times as many buckets save a
    /// third of a comparison, which is a fifth of the time at most; a twelfth of them double the time at 50,000
    /// connections, a fifteenth treble it at a million, because each comparison misses the cache (measured by
    /// `bench hash-table`: `docs/BENCHMARKS.md`). Buckets are 4 bytes beside 40 of a TCB: too few to save on.
    #[must_use]
    pub fn sized(capacity: u32, cores: u32) -> TableConfig {
        TableConfig {
            capacity,
            hash_buckets: capacity,
            partitions: cores.saturating_mul(4).min(capacity).clamp(1, PARTITIONS_MAX),
            time_wait: time_wait::Config::default(),
        }
    }
}

/// A TCB's place and the admission that it belongs to: a key that outlives its connection finds nothing.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct TcbKey {
    /// Index in the partition's slab, times the number of partitions, plus the partition; and one, so that no key
    /// takes no more bytes than a key.
    place: NonZeroU32,
    /// Admissions to the partition, wrapping.
    generation: u32,
}

const _: () = assert!(size_of::<Option<TcbKey>>() == 8);

/// What a TCB says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbView {
    /// The connection's name.
    pub tuple: FourTuple,
    /// Its state; never TIME_WAIT or closed, because those have no TCB.
    pub state: State,
    /// When it was admitted.
    pub opened: Tick,
    /// When it came into its state.
    pub since: Tick,
}

/// Why a connection was not admitted.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Refused {
    /// All places are taken, and TIME_WAIT gives none.
    Full,
    /// A connection of this name is open. The kernel does not allow two, so the end of the first has not been
    /// told to the table.
    Duplicate,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Full => "the TCB table is full",
            Refused::Duplicate => "a connection of this name is open",
        })
    }
}

impl std::error::Error for Refused {}

/// Why a TCB did not change its state.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Error {
    /// The key's connection has been released.
    Stale,
    /// The state does not allow the event.
    Illegal(IllegalTransition),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Stale => f.write_str("the connection has been released"),
            Error::Illegal(illegal) => illegal.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// What a table holds and has refused. While connections come and go its numbers are of slightly different
/// moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableStats {
    /// Places.
    pub capacity: u32,
    /// Places taken.
    pub in_use: u32,
    /// Connections in [`State::HalfOpen`].
    pub half_open: u32,
    /// Connections in [`State::Established`].
    pub established: u32,
    /// Connections in [`State::Closing`].
    pub closing: u32,
    /// Records in [`State::TimeWait`].
    pub time_wait: u32,
    /// Records that entered and left TIME_WAIT.
    pub time_wait_totals: Totals,
    /// Connections ever admitted.
    pub admitted_total: u64,
    /// Connections ever refused because the table was full.
    pub refused_total: u64,
    /// Connections ever refused because one of that name was open.
    pub duplicate_total: u64,
    /// Partitions.
    pub partitions: u32,
    /// Buckets, in all partitions.
    pub buckets: u64,
    /// Connections per bucket.
    pub load_factor: f64,
    /// How long the chains behind the buckets are.
    pub chains: ChainLengths,
    /// Bytes reserved for TCBs; the kernel gives memory for those that have been used.
    pub tcb_bytes: u64,
    /// Bytes reserved for buckets.
    pub index_bytes: u64,
    /// Bytes reserved for records in TIME_WAIT.
    pub time_wait_bytes: u64,
}

/// A partition on cache lines of its own, so that one reactor's lock does not slow its neighbour's.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(Mutex<Partition>);

/// The table. All methods take `&self`; see the [module](super) for what it is about.
///
/// Its hash is keyed at random: clients choose their ports, and must not choose their chains with them.
#[derive(Debug)]
pub struct TcbTable<S = RandomState> {
    config: TableConfig,
    hasher: S,
    partitions: Box<[Padded]>,
    /// Places taken.
    in_use: AtomicU32,
    /// Of these, who has how many, without those in TIME_WAIT.
    sketch: Sketch,
    refused_total: AtomicU64,
    duplicate_total: AtomicU64,
    time_wait: Mutex<TimeWait>,
    /// Records in TIME_WAIT, so that who opens need not lock to see that there are none. Written under the
    /// lock.
    waiting: AtomicU32,
}

impl TcbTable {
    /// An empty table with memory reserved for its capacity.
    ///
    /// # Panics
    /// See [`with_hasher`](Self::with_hasher).
    #[must_use]
    pub fn new(config: TableConfig) -> TcbTable {
        TcbTable::with_hasher(config, RandomState::new())
    }
}

impl<S: BuildHasher> TcbTable<S> {
    /// The same with a hash of the caller's: for measurements, whose chains must be the same in each run. A server
    /// needs one that its clients cannot foresee.
    ///
    /// Reserved is what a partition of a full table practically never passes: its mean share and six standard
    /// deviations. One that does grows.
    ///
    /// # Panics
    /// If `capacity` is above [`CAPACITY_MAX`] or `partitions` not in 1 to [`PARTITIONS_MAX`].
    #[must_use]
    pub fn with_hasher(config: TableConfig, hasher: S) -> TcbTable<S> {
        let TableConfig { capacity, hash_buckets, partitions, time_wait } = config;
        assert!(capacity <= CAPACITY_MAX, "a capacity of {capacity} is above {CAPACITY_MAX}");
        assert!(
            (1..=PARTITIONS_MAX).contains(&partitions),
            "{partitions} partitions are not 1 to {PARTITIONS_MAX}"
        );
        let mean = f64::from(capacity) / f64::from(partitions);
        let reserve = ((mean + 6.0 * mean.sqrt()).ceil() as u32).min(capacity);
        let buckets =
            |partition| hash_buckets / partitions + u32::from(partition < hash_buckets % partitions);
        TcbTable {
            config,
            hasher,
            partitions: (0..partitions)
                .map(|partition| Padded(Mutex::new(Partition::new(reserve, buckets(partition)))))
                .collect(),
            in_use: AtomicU32::new(0),
            sketch: Sketch::new(),
            refused_total: AtomicU64::new(0),
            duplicate_total: AtomicU64::new(0),
            time_wait: Mutex::new(TimeWait::new(time_wait, capacity)),
            waiting: AtomicU32::new(0),
        }
    }

    /// The shape that the table was made with.
    #[must_use]
    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    /// A connection was accepted: it gets a TCB, in [`State::HalfOpen`].
    ///
    /// If a connection of that name is in TIME_WAIT, its record goes, with the place it may take.
    /// O(chain length).
    ///
    /// # Errors
    /// [`Refused`]; counted here.
    pub fn admit(&self, tuple: FourTuple, now: Tick) -> Result<TcbKey, Refused> {
        let hash = self.hash(&tuple);
        let mut partition = self.partition(hash).lock();
        let Err(vacancy) = partition.find(bucket_hash(hash), &tuple) else {
            self.duplicate_total.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Duplicate);
        };
        // The partition's share of the key's 32 bits bounds it too: at 4 million TCBs with the most partitions,
        // a thousand times what it gets.
        let index = partition.vacant_index();
        if index > (u32::MAX - 1 - self.place(0, hash)) / self.config.partitions
            || !self.take_place(hash, &tuple, now)
        {
            self.refused_total.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        if let Some(account) = tuple.remote_account() {
            self.sketch.add(account);
        }
        let generation = partition.insert(vacancy, tuple, bucket_hash(hash), now);
        Ok(self.key(index, hash, generation))
    }

    /// Whether a connection more from this address would be above its share, from `percent` of the places on
    /// ([`share::is_above_share`]). Loopback addresses never are: a proxy may be behind them. O(1), without a lock.
    ///
    /// Addresses are counted by a count-min sketch: one of a few places may be taken for one of a few more.
    #[must_use]
    pub fn is_above_share(&self, address: IpAddr, percent: u32) -> bool {
        let time_wait::Config { counts_against_capacity, reuse, .. } = self.config.time_wait;
        let gives_way = counts_against_capacity && reuse != time_wait::Reuse::Never;
        // A place in TIME_WAIT that gives way is as good as free.
        let waiting = if gives_way { self.waiting.load(Ordering::Relaxed) } else { 0 };
        let taken = self.in_use.load(Ordering::Relaxed).saturating_sub(waiting).into();
        let max = self.config.capacity.into();
        // Who is not judged need not be looked up.
        share::is_above_share(taken, u64::MAX, max, percent)
            && FourTuple::account(address).is_some_and(|account| {
                share::is_above_share(taken, self.sketch.at_most(account).into(), max, percent)
            })
    }

    /// Something happened to a connection: its state after it. [`Event::Done`] is [`release`](Self::release).
    /// O(1).
    ///
    /// # Errors
    /// If the key is stale, or the state does not allow the event. Nothing has changed then.
    pub fn transition(&self, key: TcbKey, event: Event, now: Tick) -> Result<State, Error> {
        if let Event::Done { closed_by } = event {
            return self.release(key, closed_by, now).ok_or(Error::Stale);
        }
        let (partition, index) = self.locate(key);
        partition.lock().transition(index, key.generation, event, now)
    }

    /// A connection's socket is closed: its TCB is free, and its name in TIME_WAIT if this side closed first
    /// and the configuration has it so. The state after it, [`State::TimeWait`] or [`State::Closed`]; `None`
    /// for a stale key. O(chain length).
    pub fn release(&self, key: TcbKey, closed_by: Closer, now: Tick) -> Option<State> {
        let (partition, index) = self.locate(key);
        let mut partition = partition.lock();
        let (tuple, state) = partition.remove(index, key.generation, closed_by)?;
        if let Some(account) = tuple.remote_account() {
            self.sketch.remove(account);
        }
        if state == State::Closed {
            self.free_places(1);
            return Some(state);
        }
        if FourTuple::is_unix(tuple.remote().ip()) {
            // TIME_WAIT is TCP's.
            self.free_places(1);
            return Some(State::Closed);
        }
        let name = self.name(self.hash(&tuple), &tuple);
        let mut time_wait = self.time_wait.lock();
        let entry = time_wait.enter(name, now);
        self.waiting.store(time_wait.len(), Ordering::Relaxed);
        if self.config.time_wait.counts_against_capacity {
            self.free_places(entry.freed + u32::from(!entry.kept));
        } else {
            self.free_places(1);
        }
        Some(if entry.kept { State::TimeWait } else { State::Closed })
    }

    /// What the TCB of this key says; `None` for a stale key. O(1).
    #[must_use]
    pub fn get(&self, key: TcbKey) -> Option<TcbView> {
        let (partition, index) = self.locate(key);
        partition.lock().view(index, key.generation)
    }

    /// The connection of this name, if it has a TCB. O(chain length).
    #[must_use]
    pub fn find(&self, tuple: &FourTuple) -> Option<(TcbKey, TcbView)> {
        let hash = self.hash(tuple);
        let partition = self.partition(hash).lock();
        let index = partition.find(bucket_hash(hash), tuple).ok()?;
        let generation = partition.generation(index)?;
        let view = partition.view(index, generation)?;
        Some((self.key(index, hash, generation), view))
    }

    /// The state of the connection of this name, TIME_WAIT included. O(chain length).
    #[must_use]
    pub fn state_of(&self, tuple: &FourTuple) -> State {
        let hash = self.hash(tuple);
        let partition = self.partition(hash).lock();
        match partition.find(bucket_hash(hash), tuple) {
            Ok(index) => partition.state(index).unwrap_or(State::Closed),
            Err(_) if self.time_wait.lock().contains(self.name(hash, tuple)) => State::TimeWait,
            Err(_) => State::Closed,
        }
    }

    /// Records that have been in TIME_WAIT for the delay go. How many. O(that).
    ///
    /// Needs no hurry: who finds the table full looks himself.
    pub fn expire_time_wait(&self, now: Tick) -> usize {
        let mut time_wait = self.time_wait.lock();
        let freed = time_wait.expire(now);
        self.waiting.store(time_wait.len(), Ordering::Relaxed);
        if self.config.time_wait.counts_against_capacity {
            self.free_places(freed);
        }
        freed as usize
    }

    /// Whether anything is in TIME_WAIT. O(1), without a lock.
    #[must_use]
    pub fn has_time_wait(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// The numbers. O(partitions × longest chain).
    #[must_use]
    pub fn stats(&self) -> TableStats {
        let mut stats = TableStats {
            capacity: self.config.capacity,
            in_use: self.in_use.load(Ordering::Relaxed),
            refused_total: self.refused_total.load(Ordering::Relaxed),
            duplicate_total: self.duplicate_total.load(Ordering::Relaxed),
            partitions: self.config.partitions,
            ..TableStats::default()
        };
        for partition in &self.partitions {
            partition.0.lock().add_to(&mut stats);
        }
        stats.buckets = stats.chains.buckets();
        stats.load_factor = stats.chains.load_factor();
        let time_wait = self.time_wait.lock();
        stats.time_wait = time_wait.len();
        stats.time_wait_totals = time_wait.totals();
        stats.time_wait_bytes = time_wait.bytes() as u64;
        stats
    }

    /// Takes a place for a new connection: that of its own name in TIME_WAIT, a free one, or one that TIME_WAIT
    /// gives. False if there is none.
    fn take_place(&self, hash: u64, tuple: &FourTuple, now: Tick) -> bool {
        let counts = self.config.time_wait.counts_against_capacity;
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let mut time_wait = self.time_wait.lock();
            let reopened = time_wait.reopen(self.name(hash, tuple));
            self.waiting.store(time_wait.len(), Ordering::Relaxed);
            if reopened && counts {
                return true;
            }
        }
        let capacity = self.config.capacity;
        let one_more = |in_use: u32| (in_use < capacity).then_some(in_use + 1);
        if self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
            return true;
        }
        if !counts || self.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut time_wait = self.time_wait.lock();
        let freed = time_wait.give_way(self.name(hash, tuple), now);
        self.waiting.store(time_wait.len(), Ordering::Relaxed);
        // One of the places freed passes on without being free in between.
        self.free_places(freed.saturating_sub(1));
        freed > 0
    }

    fn free_places(&self, places: u32) {
        let before = self.in_use.fetch_sub(places, Ordering::Relaxed);
        // A sum that wrapped would refuse everybody from then on.
        assert!(before >= places, "{places} places freed of {before}");
    }

    fn hash(&self, tuple: &FourTuple) -> u64 {
        self.hasher.hash_one(tuple)
    }

    /// The name of a connection as TIME_WAIT keeps it. The peer's is hashed for the one policy that looks at it.
    fn name(&self, hash: u64, tuple: &FourTuple) -> Name {
        let peer = match self.config.time_wait.reuse {
            time_wait::Reuse::PeerDiffers => self.hasher.hash_one(tuple.remote()) as u32,
            time_wait::Reuse::Never | time_wait::Reuse::OlderThan60s => 0,
        };
        Name { tuple: hash, peer }
    }

    /// The partition comes from the upper half of the hash, the bucket in it from the lower.
    fn partition_number(&self, hash: u64) -> u32 {
        (((hash >> 32) * u64::from(self.config.partitions)) >> 32) as u32
    }

    fn partition(&self, hash: u64) -> &Mutex<Partition> {
        &self.partitions[self.partition_number(hash) as usize].0
    }

    fn place(&self, index: u32, hash: u64) -> u32 {
        index * self.config.partitions + self.partition_number(hash)
    }

    fn key(&self, index: u32, hash: u64, generation: u32) -> TcbKey {
        // `admit` refuses an index whose place has no successor: a saturated one would name another's TCB.
        let place = self.place(index, hash).checked_add(1).and_then(NonZeroU32::new);
        TcbKey { place: place.expect("a place below 2^32 - 1"), generation }
    }

    fn locate(&self, key: TcbKey) -> (&Mutex<Partition>, u32) {
        let partitions = self.config.partitions;
        let place = key.place.get() - 1;
        (&self.partitions[(place % partitions) as usize].0, place / partitions)
    }

    /// Verifies the invariant. O(buckets + connections), with all locks held; for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub fn check(&self) {
        let partitions: Vec<MutexGuard<'_, Partition>> =
            self.partitions.iter().map(|partition| partition.0.lock()).collect();
        let mut places = 0;
        for (number, partition) in partitions.iter().enumerate() {
            partition.check(|tuple| {
                let hash = self.hash(tuple);
                assert_eq!(self.partition_number(hash) as usize, number, "{tuple} is in a wrong partition");
                bucket_hash(hash)
            });
            places += partition.len();
        }
        let time_wait = self.time_wait.lock();
        time_wait.check();
        for tuple in partitions.iter().flat_map(|partition| partition.tuples()) {
            assert!(!time_wait.contains(self.name(self.hash(tuple), tuple)), "{tuple} is in two states");
        }
        let tuples = partitions.iter().flat_map(|partition| partition.tuples());
        let counted = tuples.filter(|tuple| tuple.remote_account().is_some()).count();
        assert_eq!(self.sketch.total(), counted as u64);
        if self.config.time_wait.counts_against_capacity {
            places += time_wait.len();
        }
        assert_eq!(self.waiting.load(Ordering::Relaxed), time_wait.len());
        assert_eq!(self.in_use.load(Ordering::Relaxed), places);
        assert!(places <= self.config.capacity);
    }
}

/// What a partition's index sees of a connection's hash.
fn bucket_hash(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests;
