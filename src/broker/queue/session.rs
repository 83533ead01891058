//! What one session has of one queue: its consumers, and what it has not settled.
//!
//! All subscriptions of a session to a queue share one prefetch: who subscribes 32 times takes no more places than
//! who subscribes once. This file offers nothing and counts no bound.
//!
//! Invariant: `unsettled` is in order of sequence and `bytes` is the sum of its messages' weights.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::broker::queue::one::Queued;
use crate::broker::queue::{ConsumerKey, UNSETTLED_BYTES_MAX};
use crate::time::Tick;

/// Whether a session gets messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// It settles in time.
    Given,
    /// A message was not settled in time: it gets no more until it settles something.
    Paused,
    /// After that it settled nothing for as long again: it gets no more.
    Lost,
}

/// A message that a consumer was given.
#[derive(Debug)]
pub(super) struct Unsettled<C, H> {
    pub consumer: C,
    pub offered: Tick,
    pub queued: Queued<H>,
}

#[derive(Debug)]
pub(super) struct Session<C, H> {
    /// Whose turn it is comes first; each with the holder that it is charged to.
    pub consumers: SmallVec<[(C, H); 1]>,
    pub unsettled: VecDeque<Unsettled<C, H>>,
    pub bytes: u64,
    /// Tells this stay of the session in the queue from earlier ones.
    pub serial: u64,
    /// It is among those that may have room.
    pub is_listed: bool,
    pub attention: Attention,
    /// When it is to be looked at; armed.
    pub due: Option<Tick>,
}

impl<C: ConsumerKey, H: Copy> Session<C, H> {
    pub fn new(serial: u64) -> Self {
        Session {
            consumers: SmallVec::new(),
            unsettled: VecDeque::new(),
            bytes: 0,
            serial,
            is_listed: false,
            attention: Attention::Given,
            due: None,
        }
    }

    pub fn has_room_for(&self, weight: u64, prefetch_max: usize) -> bool {
        self.attention == Attention::Given
            && (self.unsettled.is_empty()
                || (self.unsettled.len() < prefetch_max && self.bytes + weight <= UNSETTLED_BYTES_MAX))
    }

    /// The consumer whose turn it is, which is the last in turn after that.
    pub fn next_consumer(&mut self) -> Option<C> {
        let turns = 1.min(self.consumers.len());
        self.consumers.rotate_left(turns);
        self.consumers.last().map(|consumer| consumer.0)
    }

    pub fn give(&mut self, consumer: C, queued: Queued<H>, now: Tick) {
        self.bytes += queued.message.weight();
        let at = self.unsettled.partition_point(|other| other.queued.sequence < queued.sequence);
        self.unsettled.insert(at, Unsettled { consumer, offered: now, queued });
    }

    /// Takes back the message with this number, if the consumer has it.
    pub fn take(&mut self, consumer: C, sequence: u64) -> Option<Queued<H>> {
        let at = self.unsettled.binary_search_by_key(&sequence, |other| other.queued.sequence).ok()?;
        if self.unsettled[at].consumer != consumer {
            return None;
        }
        let taken = self.unsettled.remove(at)?.queued;
        self.bytes -= taken.message.weight();
        if self.unsettled.capacity() > 8 * self.unsettled.len().max(4) {
            self.unsettled.shrink_to(2 * self.unsettled.len());
        }
        Some(taken)
    }

    /// Takes back all messages that `is_taken` says, in order.
    pub fn take_all(&mut self, is_taken: impl Fn(&Unsettled<C, H>) -> bool) -> Vec<Queued<H>> {
        let mut taken = Vec::new();
        for unsettled in std::mem::take(&mut self.unsettled) {
            if is_taken(&unsettled) {
                self.bytes -= unsettled.queued.message.weight();
                taken.push(unsettled.queued);
            } else {
                self.unsettled.push_back(unsettled);
            }
        }
        taken
    }

    /// When the first of its messages was offered.
    pub fn oldest(&self) -> Option<Tick> {
        self.unsettled.iter().map(|unsettled| unsettled.offered).min()
    }
}
