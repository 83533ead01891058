//! The bounds of all queues of a shard together: how many there are, and who holds how many bytes of them.
//!
//! The bounds of one queue are that queue's. This file knows weights, not what weighs.
//!
//! Invariant: `contents` is the sum of the weights of all queues' records and messages, `consumers` that of all consumers.

use std::hash::Hash;

use crate::broker::queue::Full;
use crate::limits;
use crate::share::{Account, Counted, Holdings};

/// The part of `rooms.queues_bytes_max` that is for consumers: whoever empties queues that are full must get in.
const CONSUMERS_PART: u64 = 4;

/// Names messages in queues.
#[derive(Debug)]
pub(super) struct Messages;

impl Counted for Messages {
    const NAME: &'static str = "messages in queues";
}

/// Names bytes of messages in one queue.
#[derive(Debug)]
pub(super) struct MessageBytes;

impl Counted for MessageBytes {
    const NAME: &'static str = "bytes of a queue's messages";
}

#[derive(Debug)]
pub(super) struct Bounds<H> {
    bytes_max: u64,
    queues_max: u32,
    /// Messages of all queues, in whatever place.
    pub messages: Account<Messages>,
    /// Queues' records and messages.
    contents: Holdings<H>,
    consumers: Holdings<H>,
}

impl<H: Copy + Eq + Hash> Bounds<H> {
    pub fn new(limits: &limits::Rooms) -> Self {
        let max = limits.queues_bytes_max;
        let consumers = max / CONSUMERS_PART;
        Bounds {
            bytes_max: max,
            queues_max: limits.rooms_max,
            messages: Account::new(),
            contents: Holdings::new(max - consumers),
            consumers: Holdings::new(consumers),
        }
    }

    /// Bytes that count for `rooms.queues_bytes_max`.
    pub fn bytes(&self) -> u64 {
        self.contents.total() + self.consumers.total()
    }

    /// Whether there may be one queue more than `queues`.
    pub fn admit_queue(&self, queues: usize) -> Result<(), Full> {
        if queues < self.queues_max as usize {
            Ok(())
        } else {
            Err(Full { bound: "rooms.rooms_max", max: self.queues_max.into() })
        }
    }

    pub fn admit_contents(&self, holder: H, weight: u64) -> Result<(), Full> {
        self.judged(self.contents.admits(holder, weight))
    }

    pub fn admit_consumer(&self, holder: H, weight: u64) -> Result<(), Full> {
        self.judged(self.consumers.admits(holder, weight))
    }

    fn judged(&self, is_admitted: bool) -> Result<(), Full> {
        if is_admitted { Ok(()) } else { Err(Full { bound: "rooms.queues_bytes_max", max: self.bytes_max }) }
    }

    pub fn add_contents(&mut self, holder: H, weight: u64) {
        self.contents.charge(holder, weight);
    }

    pub fn remove_contents(&mut self, holder: H, weight: u64) {
        self.contents.release(holder, weight);
    }

    pub fn add_consumer(&mut self, holder: H, weight: u64) {
        self.consumers.charge(holder, weight);
    }

    pub fn remove_consumer(&mut self, holder: H, weight: u64) {
        self.consumers.release(holder, weight);
    }

    /// Panics unless every holder's sums are these.
    pub fn check(&self, contents: &[(H, u64)], consumers: &[(H, u64)]) {
        for (shares, parts) in [(&self.contents, contents), (&self.consumers, consumers)] {
            shares.check();
            let mut expected: Holdings<H> = Holdings::new(shares.max());
            for &(holder, weight) in parts {
                expected.charge(holder, weight);
            }
            assert_eq!((expected.total(), expected.holders()), (shares.total(), shares.holders()));
            for (holder, _) in parts {
                assert_eq!(shares.held_for(*holder), expected.held_for(*holder));
            }
            assert!(shares.total() <= shares.max());
        }
    }
}
