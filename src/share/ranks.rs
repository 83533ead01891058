//! Entries of a slab by the power of two of what they hold. To put one in, to take it out and to find the highest is O(1).
//!
//! Invariant: every entry that holds something is in the ring of its rank, and in no other; no ring is empty.

use slab::Slab;
use smallvec::SmallVec;

/// Neighbours in a ring of entries of the same rank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    /// Of an entry that is in no ring yet.
    pub(super) const NONE: Links = Links { previous: 0, next: 0 };
}

/// An entry that can be in a ring.
pub(super) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// The power of two that `bytes` are in: 1 for one byte, 2 for two or three, 0 for none.
pub(super) const fn rank(bytes: u64) -> u8 {
    (u64::BITS - bytes.leading_zeros()) as u8
}

/// Rings of entries, one for each rank that has any, the highest last. Who came first is the first of its ring.
#[derive(Debug, Default)]
pub(super) struct Ranks(SmallVec<[(u8, u32); 1]>);

impl Ranks {
    /// Moves an entry from one rank to another; rank 0 has no ring.
    pub(super) fn moved<T: Linked>(&mut self, index: u32, from: u8, to: u8, entries: &mut Slab<T>) {
        if from == to {
            return;
        }
        if from > 0 {
            self.take(index, from, entries);
        }
        if to > 0 {
            self.put(index, to, entries);
        }
    }

    fn put<T: Linked>(&mut self, index: u32, rank: u8, entries: &mut Slab<T>) {
        match self.0.binary_search_by_key(&rank, |ring| ring.0) {
            Ok(at) => {
                let next = self.0[at].1;
                let previous = std::mem::replace(&mut entries[next as usize].links_mut().previous, index);
                entries[previous as usize].links_mut().next = index;
                *entries[index as usize].links_mut() = Links { previous, next };
            }
            Err(at) => {
                self.0.insert(at, (rank, index));
                *entries[index as usize].links_mut() = Links { previous: index, next: index };
            }
        }
    }

    fn take<T: Linked>(&mut self, index: u32, rank: u8, entries: &mut Slab<T>) {
        let Ok(at) = self.0.binary_search_by_key(&rank, |ring| ring.0) else {
            unreachable!("an entry that holds something is in the ring of its rank");
        };
        let Links { previous, next } = *entries[index as usize].links();
        if next == index {
            self.0.remove(at);
            return;
        }
        entries[previous as usize].links_mut().next = next;
        entries[next as usize].links_mut().previous = previous;
        if self.0[at].1 == index {
            self.0[at].1 = next;
        }
    }

    pub(super) fn first_of_highest(&self) -> Option<u32> {
        self.0.last().map(|ring| ring.1)
    }

    /// All that is in the rings, with the rank of each ring.
    ///
    /// # Panics
    /// When the rings are not in order.
    pub(super) fn members<T: Linked>(&self, entries: &Slab<T>) -> Vec<(u8, usize)> {
        assert!(self.0.is_sorted_by(|a, b| a.0 < b.0));
        let mut members = Vec::new();
        for &(rank, first) in &self.0 {
            let mut at = first;
            loop {
                members.push((rank, at as usize));
                at = entries[at as usize].links().next;
                if at == first {
                    break;
                }
            }
        }
        members
    }

    pub(super) fn heap_bytes(&self) -> u64 {
        if self.0.spilled() { (self.0.capacity() * size_of::<(u8, u32)>()) as u64 } else { 0 }
    }
}
