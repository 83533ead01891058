//! What holders have of one bound, without their sessions.
//!
//! Invariant: the bytes of all holders and the total are the same sum, and nobody who holds nothing has an entry.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

use super::{Account, Counted, Held, admits, is_scarce};

/// Who holds how much of one bound in one shard, where nobody is ever cut back: what is refused is refused before.
#[derive(Debug)]
pub struct Holdings<H> {
    max: u64,
    total: Account<Held>,
    // Hashed with random keys, as peers may choose their addresses. No answer depends on the order.
    held: HashMap<H, u64, RandomState>,
}

impl<H: Copy + Eq + Hash> Holdings<H> {
    /// Nobody holds anything of a bound of `max` bytes.
    pub fn new(max: u64) -> Self {
        Holdings { max, total: Account::new(), held: HashMap::default() }
    }

    /// The bound, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Bytes that all hold together.
    pub fn total(&self) -> u64 {
        self.total.get()
    }

    /// Holders that hold something.
    pub fn holders(&self) -> usize {
        self.held.len()
    }

    /// Bytes that a holder holds.
    pub fn held_for(&self, holder: H) -> u64 {
        self.held.get(&holder).copied().unwrap_or(0)
    }

    /// Whether a holder may have so many bytes more, by [`admits`].
    pub fn admits(&self, holder: H, bytes: u64) -> bool {
        let total = self.total.get();
        match total.checked_add(bytes) {
            // Who is not judged need not be looked up.
            Some(sum) if !is_scarce(sum, self.max) => true,
            _ => admits(total, self.held_for(holder), bytes, self.max),
        }
    }

    /// A holder holds so many bytes more.
    ///
    /// # Panics
    /// When the sum exceeds [`u64::MAX`].
    pub fn charge(&mut self, holder: H, bytes: u64) {
        self.total.add(bytes);
        if bytes > 0 {
            *self.held.entry(holder).or_insert(0) += bytes;
        }
    }

    /// A holder holds so many bytes less.
    ///
    /// # Panics
    /// When it holds less than that.
    pub fn release(&mut self, holder: H, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let left = self.held.get_mut(&holder).and_then(|held| {
            *held = held.checked_sub(bytes)?;
            Some(*held)
        });
        let Some(left) = left else {
            panic!("{}: {bytes} are taken off a holder's {}", Held::NAME, self.held_for(holder))
        };
        self.total.remove(bytes);
        if left == 0 {
            self.held.remove(&holder);
            if self.held.capacity() > 8 * self.held.len().max(8) {
                self.held.shrink_to(2 * self.held.len());
            }
        }
    }

    /// Panics unless the sums agree.
    pub fn check(&self) {
        assert!(self.held.values().all(|held| *held > 0));
        assert_eq!(self.held.values().sum::<u64>(), self.total.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[should_panic(expected = "3 are taken off a holder's 2")]
    fn a_holder_does_not_give_back_more_than_it_holds() {
        let mut holdings: Holdings<u8> = Holdings::new(100);
        holdings.charge(1, 2);
        holdings.charge(2, 2);
        holdings.release(1, 3);
    }

    proptest! {
        #[test]
        fn holdings_agree_with_a_plain_table(
            steps in prop::collection::vec((any::<bool>(), 0u8..5, 0u64..500), 1..200)
        ) {
            let mut holdings: Holdings<u8> = Holdings::new(10_000);
            let mut model = [0u64; 5];
            for (is_more, holder, bytes) in steps {
                let held = &mut model[usize::from(holder)];
                if is_more {
                    holdings.charge(holder, bytes);
                    *held += bytes;
                } else {
                    holdings.release(holder, bytes.min(*held));
                    *held -= bytes.min(*held);
                }
                holdings.check();
                let total: u64 = model.iter().sum();
                prop_assert_eq!(holdings.total(), total);
                prop_assert_eq!(holdings.holders(), model.iter().filter(|held| **held > 0).count());
                for holder in 0..5 {
                    let held = model[usize::from(holder)];
                    prop_assert_eq!(holdings.held_for(holder), held);
                    prop_assert_eq!(holdings.admits(holder, 99), admits(total, held, 99, 10_000));
                }
            }
        }
    }
}
