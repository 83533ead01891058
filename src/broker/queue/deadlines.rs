//! When something in a queue is to be looked at, for all queues of a shard.
//!
//! A deadline is armed when there is none, and is not moved when its reason changes: whoever is woken looks whether
//! it is due and arms the next one. So traffic touches no deadline.
//!
//! Invariant: a queue or session that is gone has no deadline; each has at most one of a kind. Those who arm keep the
//! tick, to cancel.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::time::Tick;

/// What is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due<S> {
    /// Nobody may have used the queue for `rooms.queue_idle_s`.
    Idle,
    /// Parked messages are to be offered again.
    Parked,
    /// The session may have messages that it has not settled for `rooms.ack_timeout_s`.
    Unsettled(S),
}

#[derive(Debug)]
pub(super) struct Deadlines<S> {
    set: BTreeSet<(Tick, Arc<str>, Due<S>)>,
}

/// Bytes of one deadline: a node of the tree is at least half full, and its parts have edges.
pub(super) const fn weight<S>() -> u64 {
    2 * (size_of::<(Tick, Arc<str>, Due<S>)>() + 8) as u64
}

impl<S: Copy + Ord> Deadlines<S> {
    pub fn new() -> Self {
        Deadlines { set: BTreeSet::new() }
    }

    pub fn arm(&mut self, at: Tick, key: &Arc<str>, due: Due<S>) {
        let is_new = self.set.insert((at, key.clone(), due));
        assert!(is_new, "a deadline is armed twice");
    }

    pub fn cancel(&mut self, at: Tick, key: &Arc<str>, due: Due<S>) {
        let was_there = self.set.remove(&(at, key.clone(), due));
        assert!(was_there, "a deadline that is not armed is cancelled");
    }

    /// Takes the first that is due.
    pub fn pop(&mut self, now: Tick) -> Option<(Arc<str>, Due<S>)> {
        if !self.is_due(now) {
            return None;
        }
        self.set.pop_first().map(|(_, key, due)| (key, due))
    }

    pub fn is_due(&self, now: Tick) -> bool {
        self.set.first().is_some_and(|first| first.0 <= now)
    }

    pub fn len(&self) -> usize {
        self.set.len()
    }

    pub fn is_armed(&self, at: Tick, key: &Arc<str>, due: Due<S>) -> bool {
        self.set.contains(&(at, key.clone(), due))
    }
}
