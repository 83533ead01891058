//! What waits for one kind of check, and whose turn it is.
//!
//! Holders take turns, one question each. So whoever asks more than its checks can answer waits for itself: those of others
//! wait for one of its questions at most.
//!
//! Invariant: at most `auth.queue_max` questions wait, of at most `auth.queue_bytes_max`, and each holder has its share of both;
//! a holder is in the rotation once while something of it waits, and else never.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};

use crate::limits;
use crate::message::origin::Holder;
use crate::share::Holdings;

/// See the module.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    filled: Condvar,
}

/// What waits, with its bytes.
struct Waiting<T> {
    turns: VecDeque<Holder>,
    // Hashed with random keys, as peers may choose their addresses.
    of: HashMap<Holder, VecDeque<(u64, T)>, RandomState>,
    count: Holdings<Holder>,
    bytes: Holdings<Holder>,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// An empty queue.
    pub(super) fn new(limits: &limits::Auth) -> Queue<T> {
        Queue {
            waiting: Mutex::new(Waiting {
                turns: VecDeque::new(),
                of: HashMap::default(),
                count: Holdings::new(limits.queue_max.into()),
                bytes: Holdings::new(limits.queue_bytes_max),
            }),
            filled: Condvar::new(),
        }
    }

    /// Adds something of so many bytes.
    ///
    /// # Errors
    /// It is given back if the queue is full, or its holder has its share.
    pub(super) fn push(&self, holder: Holder, bytes: u64, item: T) -> Result<(), T> {
        let mut waiting = self.waiting.lock();
        let Waiting { turns, of, count, bytes: sum, .. } = &mut *waiting;
        let is_full = count.total() >= count.max() || sum.total().saturating_add(bytes) > sum.max();
        if is_full || !count.admits(holder, 1) || !sum.admits(holder, bytes) {
            return Err(item);
        }
        count.charge(holder, 1);
        sum.charge(holder, bytes);
        let own = of.entry(holder).or_default();
        if own.is_empty() {
            turns.push_back(holder);
        }
        own.push_back((bytes, item));
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes the next one out; waits until there is one.
    pub(super) fn take(&self) -> T {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.next() {
                Some(item) => return item,
                None => self.filled.wait(&mut waiting),
            }
        }
    }
}

impl<T> Waiting<T> {
    fn next(&mut self) -> Option<T> {
        let holder = self.turns.pop_front()?;
        let own = self.of.get_mut(&holder)?;
        let (bytes, item) = own.pop_front()?;
        if own.is_empty() {
            self.of.remove(&holder);
            if self.of.is_empty() {
                (self.of, self.turns) = (HashMap::default(), VecDeque::new());
            }
        } else {
            self.turns.push_back(holder);
        }
        self.count.release(holder, 1);
        self.bytes.release(holder, bytes);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(queue_max: u32, queue_bytes_max: u64) -> Queue<u32> {
        Queue::new(&limits::Auth { queue_max, queue_bytes_max, ..limits::Auth::default() })
    }

    #[test]
    fn who_asks_much_waits_for_itself() {
        let queue = queue(1_000, 1 << 20);
        let (flooder, other) = (Holder::Address(1), Holder::Address(2));
        for number in 0..500 {
            queue.push(flooder, 10, number).unwrap();
        }
        queue.push(other, 10, 1_000).unwrap();
        assert_eq!([(); 3].map(|()| queue.take()), [0, 1_000, 1]);
    }

    #[test]
    fn questions_and_bytes_are_bounded_and_shared() {
        let (greedy, other) = (Holder::Address(1), Holder::Address(2));
        for queue in [queue(100, 1 << 40), queue(1_000_000, 10_000)] {
            let taken = (0..).take_while(|number| queue.push(greedy, 100, *number).is_ok()).count();
            assert!((75..100).contains(&taken), "{taken}");
            assert_eq!(queue.push(greedy, 100, 7), Err(7));
            queue.push(other, 100, 8).unwrap();
        }
    }

    proptest! {
        /// Nothing is lost, and what one holder asked is answered in its order.
        #[test]
        fn each_comes_out_once_in_its_holders_order(steps in prop::collection::vec((any::<bool>(), 0..4u64), 0..200)) {
            let queue = queue(1_000_000, 1 << 40);
            let mut waiting: Vec<VecDeque<u32>> = vec![VecDeque::new(); 4];
            for (number, (is_more, holder)) in steps.into_iter().enumerate() {
                if is_more {
                    let number = number as u32 * 4 + holder as u32;
                    queue.push(Holder::Address(holder), 1, number).unwrap();
                    waiting[holder as usize].push_back(number);
                } else if waiting.iter().any(|own| !own.is_empty()) {
                    let next = queue.take();
                    prop_assert_eq!(waiting[next as usize % 4].pop_front(), Some(next));
                }
            }
            let left: usize = waiting.iter().map(VecDeque::len).sum();
            for _ in 0..left {
                queue.take();
            }
            let state = queue.waiting.lock();
            prop_assert!(state.turns.is_empty() && state.of.is_empty() && state.bytes.total() == 0);
        }
    }
}
