//! The dead letters of one queue: messages that were refused too often and are not where they are to go yet.
//!
//! This file publishes nothing and arms no deadline; it says when one is due.
//!
//! Invariant: parked messages are in the order in which they are offered again.

use std::collections::{BTreeMap, VecDeque};

use crate::broker::queue::one::Queued;
use crate::time::Tick;

#[derive(Debug)]
pub(super) struct Dead<H> {
    /// Under way to the dead-letter queue, by sequence.
    leaving: BTreeMap<u64, Queued<H>>,
    /// Refused by it, and when each is offered again.
    parked: VecDeque<(Tick, Queued<H>)>,
    /// When the parked are to be looked at; armed.
    pub due: Option<Tick>,
}

impl<H> Default for Dead<H> {
    fn default() -> Self {
        Dead { leaving: BTreeMap::new(), parked: VecDeque::new(), due: None }
    }
}

impl<H> Dead<H> {
    /// A message is under way.
    pub fn leave(&mut self, queued: Queued<H>) {
        self.leaving.insert(queued.sequence, queued);
    }

    /// Takes out a message that was under way.
    pub fn take(&mut self, sequence: u64) -> Option<Queued<H>> {
        self.leaving.remove(&sequence)
    }

    /// A message that was under way is to be offered again at `until`, which does not go back.
    pub fn park(&mut self, sequence: u64, until: Tick) {
        if let Some(queued) = self.leaving.remove(&sequence) {
            // A clock that was set back does not change the order.
            let until = self.parked.back().map_or(until, |last| last.0.max(until));
            self.parked.push_back((until, queued));
        }
    }

    /// Takes out those that are to be offered again.
    pub fn unpark(&mut self, now: Tick) -> Vec<Queued<H>> {
        let count = self.parked.partition_point(|parked| parked.0 <= now);
        self.parked.drain(..count).map(|parked| parked.1).collect()
    }

    /// When the first that is parked is to be offered again.
    pub fn first_parked(&self) -> Option<Tick> {
        self.parked.front().map(|parked| parked.0)
    }

    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty() && self.parked.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Queued<H>> {
        self.leaving.values().chain(self.parked.iter().map(|parked| &parked.1))
    }

    pub fn into_all(self) -> impl Iterator<Item = Queued<H>> {
        self.leaving.into_values().chain(self.parked.into_iter().map(|parked| parked.1))
    }

    /// Panics unless it is in order.
    pub fn check(&self) {
        assert!(!self.is_empty());
        assert!(self.parked.iter().is_sorted_by_key(|parked| parked.0));
        assert_eq!(self.due.is_some(), !self.parked.is_empty());
        assert!(self.leaving.iter().all(|(sequence, queued)| *sequence == queued.sequence));
    }
}
