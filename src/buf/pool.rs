//! Leases of buffers for incomplete input, in size classes of 1 KiB, 2 KiB, 4 KiB and so on.
//!
//! A connection leases while a frame is incomplete and releases when it is not, so that memory follows the
//! frames under way and not the connections. The pool is a single reactor's: it has no lock. It knows nothing
//! of frames, and does not wait: past its bound it refuses.
//!
//! Invariant: the bytes leased are the sum over all leases not yet released and never above the bound
//! ([`Pool::check`]). Every lease ends in [`Pool::release`]; dropping one is a bug, caught in debug builds.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::limits;

/// Bytes of the smallest lease, and of the article's `appReadBufSize`.
pub const LEASE_BYTES_MIN: usize = 1024;

/// Released buffers above this size go back to the allocator at once: they are rare, and one of them would
/// take the room of many small ones.
pub const KEPT_LEASE_BYTES_MAX: usize = 64 * 1024;

/// Size classes; the largest is 2 GiB, above any frame that can be configured.
const CLASSES: usize = 22;

/// Classes of which released buffers are kept.
const KEPT_CLASSES: usize = class_of(KEPT_LEASE_BYTES_MAX) + 1;

// A connection holds an `Option<Lease>` even when idle.
const _: () = assert!(size_of::<Option<Lease>>() == 8);
const _: () = assert!(size_of::<Buffer>() <= 40);

/// The smallest class with room for `bytes`.
const fn class_of(bytes: usize) -> usize {
    if bytes <= LEASE_BYTES_MIN {
        0
    } else {
        (bytes - 1).ilog2() as usize + 1 - LEASE_BYTES_MIN.ilog2() as usize
    }
}

const fn class_bytes(class: usize) -> usize {
    LEASE_BYTES_MIN << class
}

/// A buffer of fixed capacity, on loan from a [`Pool`]: bytes are appended at its end and consumed from its
/// front.
///
/// 8 bytes, as is `Option<Lease>`; the rest is with the buffer.
pub struct Lease(Box<Buffer>);

struct Buffer {
    /// Its capacity is that of the class and never changes.
    bytes: Vec<u8>,
    /// Bytes at the front that are consumed.
    start: usize,
    class: u8,
    /// On loan, not in the pool.
    leased: bool,
}

impl Lease {
    fn new(class: usize) -> Lease {
        Lease(Box::new(Buffer {
            bytes: Vec::with_capacity(class_bytes(class)),
            start: 0,
            class: class as u8,
            leased: false,
        }))
    }

    fn class(&self) -> usize {
        usize::from(self.0.class)
    }

    /// Bytes that fit in, those already there included.
    #[must_use]
    pub fn capacity(&self) -> usize {
        class_bytes(self.class())
    }

    /// Appends `bytes`. If they fit only in place of bytes that are consumed, what is left moves to the
    /// front first; a reader that consumes whole frames leaves less than its last read, so the moves cost
    /// no more than the reads.
    ///
    /// # Panics
    /// If `len() + bytes.len()` is above the capacity.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.capacity() - self.len(), "a lease does not grow by itself");
        if bytes.len() > self.capacity() - self.0.bytes.len() {
            let start = std::mem::take(&mut self.0.start);
            self.0.bytes.drain(..start);
        }
        self.0.bytes.extend_from_slice(bytes);
    }

    /// Drops the first `n` bytes. O(1).
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed {n} of {} bytes", self.len());
        self.0.start += n;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Drops all bytes.
    pub fn clear(&mut self) {
        self.0.bytes.clear();
        self.0.start = 0;
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes[self.0.start..]
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.0.start;
        &mut self.0.bytes[start..]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        debug_assert!(!self.0.leased || std::thread::panicking(), "a lease was dropped, not released");
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

/// The pool's bound does not allow the lease that was asked for.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct PoolExhausted {
    /// Bytes that the lease would have taken.
    pub asked_bytes: u64,
    /// Bytes on loan.
    pub leased_bytes: u64,
    /// The bound: `buffers.reactor_bytes_max`.
    pub bytes_max: u64,
}

impl fmt::Display for PoolExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no lease of {} bytes for incomplete input: {} of {} bytes are leased",
            self.asked_bytes, self.leased_bytes, self.bytes_max
        )
    }
}

impl std::error::Error for PoolExhausted {}

/// What a pool has out and has kept.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Leases not released yet.
    pub leased: u64,
    /// Their capacities.
    pub leased_bytes: u64,
    /// Capacities of the released buffers that are kept for reuse.
    pub kept_bytes: u64,
    /// Leases ever made.
    pub leases_total: u64,
    /// Leases ever refused.
    pub exhausted_total: u64,
}

/// The buffers of one reactor.
#[derive(Debug)]
pub struct Pool {
    bytes_max: u64,
    kept_bytes_max: u64,
    /// Released buffers by class, empty, the last released on top: it is the likeliest to be in the cache.
    kept: [Vec<Lease>; KEPT_CLASSES],
    /// The fewest of each class that were there at any moment since the last [`decay`](Pool::decay): so many were
    /// not needed.
    unneeded: [usize; KEPT_CLASSES],
    stats: PoolStats,
}

impl Pool {
    /// An empty pool; it allocates nothing before the first lease.
    #[must_use]
    pub fn new(limits: &limits::Buffers) -> Pool {
        Pool {
            bytes_max: limits.reactor_bytes_max,
            kept_bytes_max: limits.reactor_bytes_kept_max,
            kept: std::array::from_fn(|_| Vec::new()),
            unneeded: [0; KEPT_CLASSES],
            stats: PoolStats::default(),
        }
    }

    /// Lends an empty buffer with room for `bytes`, rounded up to its size class.
    ///
    /// # Errors
    /// If more bytes would be on loan than `buffers.reactor_bytes_max`.
    pub fn lease(&mut self, bytes: usize) -> Result<Lease, PoolExhausted> {
        let class = class_of(bytes);
        let asked_bytes = if class < CLASSES { class_bytes(class) as u64 } else { bytes as u64 };
        if class >= CLASSES || asked_bytes > self.bytes_max - self.stats.leased_bytes {
            self.stats.exhausted_total += 1;
            let PoolStats { leased_bytes, .. } = self.stats;
            return Err(PoolExhausted { asked_bytes, leased_bytes, bytes_max: self.bytes_max });
        }
        Ok(self.lend(class))
    }

    /// Appends `bytes`, leasing first if there is no lease, and moving to a larger one if there is no room.
    /// Both are on loan during a move, and the bound holds for both. Nothing is leased for no bytes.
    ///
    /// # Errors
    /// As [`lease`](Self::lease); the lease and its content stay as they were.
    pub fn append(&mut self, lease: &mut Option<Lease>, bytes: &[u8]) -> Result<(), PoolExhausted> {
        if bytes.is_empty() {
            return Ok(());
        }
        match lease {
            None => lease.insert(self.lease(bytes.len())?).extend_from_slice(bytes),
            Some(held) => {
                let needed = held.len() + bytes.len();
                if needed > held.capacity() {
                    let larger = self.lease(needed)?;
                    self.exchange(held, larger);
                }
                held.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Gives back what a lease has too much: all of it if it is empty, and the larger part if its content
    /// fits in a quarter, so that one large frame does not leave its buffer with the start of the next.
    pub fn trim(&mut self, lease: &mut Option<Lease>) {
        if lease.as_ref().is_some_and(|held| held.is_empty()) {
            lease.take().into_iter().for_each(|held| self.release(held));
        } else if let Some(held) = lease
            && class_of(held.len()) + 2 <= held.class()
        {
            // Not refused, though both are on loan during the copy: it is what gives room in a full pool.
            let smaller = self.lend(class_of(held.len()));
            self.exchange(held, smaller);
        }
    }

    /// Takes a buffer back. Its content is gone.
    ///
    /// # Panics
    /// If the lease is not one of this pool's, as far as that shows in its sums.
    pub fn release(&mut self, mut lease: Lease) {
        assert!(lease.0.leased, "a lease is released once");
        let bytes = lease.capacity() as u64;
        self.stats.leased_bytes =
            self.stats.leased_bytes.checked_sub(bytes).expect("a lease goes back to its own pool");
        self.stats.leased -= 1;
        lease.0.leased = false;
        lease.clear();
        if let Some(kept) = self.kept.get_mut(lease.class())
            && bytes <= self.kept_bytes_max.saturating_sub(self.stats.kept_bytes)
        {
            self.stats.kept_bytes += bytes;
            kept.push(lease);
        }
    }

    /// Drops the kept buffers that were not needed since the last call. The bytes dropped.
    pub fn decay(&mut self) -> u64 {
        let before = self.stats.kept_bytes;
        for (class, kept) in self.kept.iter_mut().enumerate() {
            let unneeded = std::mem::take(&mut self.unneeded[class]);
            self.stats.kept_bytes -= (unneeded * class_bytes(class)) as u64;
            // From below: what was released last is on top.
            kept.drain(..unneeded);
            if kept.is_empty() {
                *kept = Vec::new();
            }
            self.unneeded[class] = kept.len();
        }
        before - self.stats.kept_bytes
    }

    /// The sums.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.stats
    }

    /// Lends a buffer of a class, whatever the bound.
    fn lend(&mut self, class: usize) -> Lease {
        let bytes = class_bytes(class) as u64;
        let mut lease = match self.kept.get_mut(class).and_then(Vec::pop) {
            Some(lease) => {
                self.stats.kept_bytes -= bytes;
                self.unneeded[class] = self.unneeded[class].min(self.kept[class].len());
                lease
            }
            None => Lease::new(class),
        };
        debug_assert!(lease.is_empty() && !lease.0.leased);
        lease.0.leased = true;
        self.stats.leased += 1;
        self.stats.leased_bytes += bytes;
        self.stats.leases_total += 1;
        lease
    }

    /// Moves the content of `held` to `other`, and releases the lease it was in.
    fn exchange(&mut self, held: &mut Lease, mut other: Lease) {
        other.extend_from_slice(held);
        self.release(std::mem::replace(held, other));
    }

    /// Verifies the invariant, as far as it shows without the leases; for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub fn check(&self) {
        let mut kept_bytes = 0;
        for (class, kept) in self.kept.iter().enumerate() {
            for lease in kept {
                assert!(!lease.0.leased, "a kept buffer is on loan");
                assert!(lease.is_empty() && lease.0.start == 0, "a kept buffer has content");
                assert_eq!(lease.class(), class);
                assert!(lease.0.bytes.capacity() >= class_bytes(class), "a buffer has shrunk");
                kept_bytes += class_bytes(class) as u64;
            }
        }
        assert!(self.unneeded.iter().zip(&self.kept).all(|(unneeded, kept)| *unneeded <= kept.len()));
        assert_eq!(kept_bytes, self.stats.kept_bytes);
        assert!(kept_bytes <= self.kept_bytes_max);
        assert!(self.stats.leased_bytes <= self.bytes_max);
        assert!(self.stats.leased_bytes >= self.stats.leased * LEASE_BYTES_MIN as u64);
    }
}

#[cfg(test)]
mod tests;
