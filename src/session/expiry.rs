//! When sessions expire: one deadline for each session that has one.
//!
//! A session without one costs nothing, and a shard where none has one no wheel.
//!
//! Invariant: a session that has ended has no deadline; who ends it cancels it.

use crate::footprint::Part;
use crate::time::{self, Tick, Wheel};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    wheel: Option<Box<Wheel>>,
}

impl Expiries {
    /// The session expires then, or, with `None`, never.
    pub(super) fn set(&mut self, index: u32, at: Option<Tick>, now: Tick) {
        match at {
            Some(at) => self.wheel.get_or_insert_with(|| Box::new(Wheel::new(now))).arm(index, at),
            None => self.cancel(index),
        }
    }

    /// The session has ended.
    pub(super) fn cancel(&mut self, index: u32) {
        if let Some(wheel) = &mut self.wheel {
            wheel.cancel(index);
        }
    }

    /// A moment to look for expired sessions at, if there will be any.
    pub(super) fn next(&self) -> Option<Tick> {
        self.wheel.as_ref().and_then(|wheel| wheel.next_deadline())
    }

    /// Adds those that have expired, `budget` at most. Returns whether there are more.
    pub(super) fn take(&mut self, now: Tick, budget: usize, expired: &mut Vec<u32>) -> bool {
        self.wheel.as_mut().is_some_and(|wheel| wheel.expire(now, budget, expired))
    }

    /// Nobody is left.
    pub(super) fn clear(&mut self) {
        self.wheel = None;
    }

    /// Whether no session will expire.
    pub(super) fn is_empty(&self) -> bool {
        self.wheel.as_ref().is_none_or(|wheel| wheel.is_empty())
    }

    /// What the deadlines take.
    pub(super) fn memory(&self) -> Part {
        self.wheel
            .as_ref()
            .map_or(Part::default(), |wheel| Part::array(wheel.len(), wheel.capacity(), time::BYTES_PER_KEY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_session_counts() {
        let mut expiries = Expiries::default();
        assert!(expiries.is_empty() && expiries.next().is_none());
        expiries.set(3, Some(Tick(10)), Tick(0));
        expiries.set(4, Some(Tick(10)), Tick(0));
        expiries.set(5, Some(Tick(10)), Tick(0));
        expiries.set(3, Some(Tick(30)), Tick(5));
        expiries.set(4, None, Tick(5));
        let mut expired = Vec::new();
        assert!(!expiries.take(Tick(10), 100, &mut expired));
        assert_eq!(expired, [5]);
        expiries.cancel(3);
        assert!(expiries.is_empty() && !expiries.take(Tick(100), 100, &mut expired));
        assert_eq!(expired, [5]);
    }
}
