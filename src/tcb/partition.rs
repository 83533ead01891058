//! One partition of the table: a slab of TCBs and an index over them. The table locks it.
//!
//! Does not know the capacity, which is one number over all partitions, nor TIME_WAIT. Invariant: the index
//! holds exactly the TCBs of the slab, and the count of each state is right ([`Partition::check`]).

use slab::Slab;

use super::index::{Index, Link, Links, Vacancy};
use super::state::{self, Closer, Event, State};
use super::table::{Error, TableStats, TcbView};
use super::tuple::FourTuple;
use crate::time::Tick;

/// Bytes of one TCB of an IPv4 connection, its place in the slab included; an IPv6 connection has 44 more in
/// a box, for its addresses.
pub const TCB_BYTES: usize = size_of::<Option<Tcb>>();
const _: () = assert!(TCB_BYTES <= 40);
// The slab adds nothing: whether a place is taken is in a niche.
const _: () = assert!(size_of::<Tcb>() == TCB_BYTES);

/// A TCP control block.
#[derive(Debug)]
struct Tcb {
    tuple: FourTuple,
    /// What the index puts into a bucket; kept, so that closing hashes nothing and comparing starts cheap.
    hash: u32,
    /// The chain that this TCB is in.
    next: Link,
    generation: u32,
    opened: Tick,
    since: Tick,
    state: State,
}

impl Links for Slab<Tcb> {
    fn next(&self, node: u32) -> Link {
        self[node as usize].next
    }

    fn set_next(&mut self, node: u32, next: Link) {
        self[node as usize].next = next;
    }
}

#[derive(Debug)]
pub(super) struct Partition {
    tcbs: Slab<Tcb>,
    index: Index,
    /// By [`State`]; only the three that have TCBs are used.
    counts: [u32; 3],
    /// Admissions so far; it is the generation of the last.
    admitted: u64,
}

/// The place of a state in `Partition::counts`; `None` for the states without a TCB.
fn slot(state: State) -> Option<usize> {
    match state {
        State::HalfOpen => Some(0),
        State::Established => Some(1),
        State::Closing => Some(2),
        State::TimeWait | State::Closed => None,
    }
}

impl Partition {
    pub(super) fn new(reserve: u32, buckets: u32) -> Partition {
        Partition {
            tcbs: Slab::with_capacity(reserve as usize),
            index: Index::new(buckets),
            counts: [0; 3],
            admitted: 0,
        }
    }

    /// TCBs.
    pub(super) fn len(&self) -> u32 {
        self.tcbs.len() as u32
    }

    pub(super) fn tuples(&self) -> impl Iterator<Item = &FourTuple> {
        self.tcbs.iter().map(|(_, tcb)| &tcb.tuple)
    }

    /// The TCB of a connection, or where it would go.
    pub(super) fn find(&self, hash: u32, tuple: &FourTuple) -> Result<u32, Vacancy> {
        self.index.find(hash, &self.tcbs, |node| {
            let tcb = &self.tcbs[node as usize];
            tcb.hash == hash && tcb.tuple == *tuple
        })
    }

    /// The index that the next TCB gets.
    pub(super) fn vacant_index(&self) -> u32 {
        u32::try_from(self.tcbs.vacant_key()).unwrap_or(u32::MAX)
    }

    /// A new TCB at [`vacant_index`](Self::vacant_index), half-open. Its generation.
    pub(super) fn insert(&mut self, vacancy: Vacancy, tuple: FourTuple, hash: u32, now: Tick) -> u32 {
        self.admitted += 1;
        // Begins again after 2^32: a key would have to be kept for as many admissions to be mistaken.
        let generation = self.admitted as u32;
        let state = State::HalfOpen;
        let tcb = Tcb { tuple, hash, next: None, generation, opened: now, since: now, state };
        let node = self.tcbs.insert(tcb) as u32;
        self.index.insert(vacancy, node, &mut self.tcbs);
        self.recount(None, Some(state));
        generation
    }

    pub(super) fn transition(
        &mut self,
        index: u32,
        generation: u32,
        event: Event,
        now: Tick,
    ) -> Result<State, Error> {
        let tcb = self.tcbs.get_mut(index as usize).filter(|tcb| tcb.generation == generation);
        let tcb = tcb.ok_or(Error::Stale)?;
        let (before, after) = (tcb.state, state::next(tcb.state, event).map_err(Error::Illegal)?);
        if before != after {
            (tcb.state, tcb.since) = (after, now);
            self.recount(Some(before), Some(after));
        }
        Ok(after)
    }

    /// Takes a TCB out. Its name and the state that its connection is in then.
    pub(super) fn remove(
        &mut self,
        index: u32,
        generation: u32,
        closed_by: Closer,
    ) -> Option<(FourTuple, State)> {
        let tcb = self.get(index, generation)?;
        let (hash, before) = (tcb.hash, tcb.state);
        let after = state::next(before, Event::Done { closed_by }).ok()?;
        let indexed = self.index.remove(hash, index, &mut self.tcbs);
        debug_assert!(indexed, "a TCB is in no chain");
        self.recount(Some(before), None);
        Some((self.tcbs.remove(index as usize).tuple, after))
    }

    pub(super) fn view(&self, index: u32, generation: u32) -> Option<TcbView> {
        self.get(index, generation).map(|tcb| TcbView {
            tuple: tcb.tuple.clone(),
            state: tcb.state,
            opened: tcb.opened,
            since: tcb.since,
        })
    }

    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        self.tcbs.get(index as usize).map(|tcb| tcb.generation)
    }

    pub(super) fn state(&self, index: u32) -> Option<State> {
        self.tcbs.get(index as usize).map(|tcb| tcb.state)
    }

    pub(super) fn add_to(&self, stats: &mut TableStats) {
        let [half_open, established, closing] = self.counts;
        stats.half_open += half_open;
        stats.established += established;
        stats.closing += closing;
        stats.admitted_total += self.admitted;
        stats.chains.add(&self.index.chain_lengths());
        stats.tcb_bytes += (self.tcbs.capacity() * TCB_BYTES) as u64;
        stats.index_bytes += self.index.bytes() as u64;
    }

    fn get(&self, index: u32, generation: u32) -> Option<&Tcb> {
        self.tcbs.get(index as usize).filter(|tcb| tcb.generation == generation)
    }

    fn recount(&mut self, before: Option<State>, after: Option<State>) {
        if let Some(slot) = before.and_then(slot) {
            self.counts[slot] -= 1;
        }
        if let Some(slot) = after.and_then(slot) {
            self.counts[slot] += 1;
        }
    }

    /// Verifies the invariant. `hash_of` gives a connection's hash, for the index.
    pub(super) fn check(&self, hash_of: impl Fn(&FourTuple) -> u32) {
        let nodes = self.index.check(&self.tcbs, |node| self.tcbs[node as usize].hash);
        assert!(nodes.into_iter().eq(self.tcbs.iter().map(|(node, _)| node as u32)), "the index has others");
        let mut counts = [0; 3];
        for (_, tcb) in &self.tcbs {
            assert_eq!(hash_of(&tcb.tuple), tcb.hash, "{}: wrong hash", tcb.tuple);
            counts[slot(tcb.state).expect("a state without a TCB has one")] += 1;
        }
        assert_eq!(counts, self.counts);
    }
}
