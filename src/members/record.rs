//! What one shard keeps of one room that it has members in.
//!
//! A server that needs fifty descriptor tables has fifty shards, and then a room of a hundred has a record in most of
//! them, for two members each. So a record is one cache line: a short key and two members lie in it, and the log, which
//! few rooms have at any time, lies in a table beside.
//!
//! Invariant: what is asserted below: the sizes.

use std::num::NonZeroU32;

use compact_str::CompactString;
use smallvec::{Array, SmallVec};

use crate::message::interner::Symbol;

/// One subscription as the room sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The connection's index in its shard.
    pub connection: u32,
    /// How MESSAGEs must look to this subscription.
    pub class: Symbol,
}

// Every subscription to a room has one; eight are a cache line of a walk.
const _: () = assert!(size_of::<Member>() == 8);

/// One room, as one shard knows it.
#[derive(Debug)]
pub struct Room {
    /// Without an allocation up to 24 bytes.
    pub(super) key: CompactString,
    /// Without an allocation up to two.
    pub(super) members: SmallVec<[Member; 2]>,
    /// The log and the walk, while something is owed.
    pub(super) pending: Option<Beside>,
    /// Its messages may wait for more.
    pub(super) is_delayed: bool,
}

const _: () = assert!(size_of::<Room>() <= 64);

impl Room {
    /// Local members, in no order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

/// A place in a table beside the rooms, with a niche so that to have none costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside(NonZeroU32);

impl Beside {
    pub(super) fn new(place: usize) -> Beside {
        // The table has no more entries than there are rooms, whose indices are 32 bits.
        Beside(NonZeroU32::MIN.saturating_add(place as u32))
    }

    pub(super) fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Adds to a list that grows by a quarter: doubling would leave a third of all such lists empty, and there are as many as
/// rooms times shards.
pub(super) fn push<A: Array>(list: &mut SmallVec<A>, item: A::Item) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 4 + 1);
    }
    list.push(item);
}

/// Gives back the memory of a list that is mostly empty.
pub(super) fn shrink<A: Array>(list: &mut SmallVec<A>) {
    if list.spilled() && list.len() * 4 <= list.capacity() {
        list.shrink_to_fit();
    }
}
