//! A wheel that is there while it is used: deadlines that most servers, and most connections, never have.
//!
//! Invariant: without a deadline ever set there is no wheel, and it goes with [`LazyWheel::clear`].

use super::{Tick, Wheel};

/// See the module.
#[derive(Debug, Default)]
pub struct LazyWheel(Option<Box<Wheel>>);

impl LazyWheel {
    /// Sets the deadline of `key`, in place of the one it had. `now` is where a new wheel begins.
    pub fn arm(&mut self, key: u32, deadline: Tick, now: Tick) {
        self.0.get_or_insert_with(|| Box::new(Wheel::new(now))).arm(key, deadline);
    }

    /// Takes the deadline of `key` away, if it has one.
    pub fn cancel(&mut self, key: u32) {
        if let Some(wheel) = &mut self.0 {
            wheel.cancel(key);
        }
    }

    /// A moment to look at, if there is a deadline: see [`Wheel::next_deadline`].
    pub fn next_deadline(&self) -> Option<Tick> {
        self.0.as_ref().and_then(|wheel| wheel.next_deadline())
    }

    /// Adds the keys that are due, within a budget: see [`Wheel::expire`].
    pub fn expire(&mut self, now: Tick, budget: usize, fired: &mut Vec<u32>) -> bool {
        self.0.as_mut().is_some_and(|wheel| wheel.expire(now, budget, fired))
    }

    /// Whether no key has a deadline.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|wheel| wheel.is_empty())
    }

    /// Forgets all deadlines, and gives the memory back.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Keys that have a deadline, and keys that there is memory for: [`BYTES_PER_KEY`](super::BYTES_PER_KEY) each.
    pub fn size(&self) -> (usize, usize) {
        self.0.as_ref().map_or((0, 0), |wheel| (wheel.len(), wheel.capacity()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_key_counts() {
        let mut wheel = LazyWheel::default();
        assert!(wheel.is_empty() && wheel.next_deadline().is_none() && wheel.size() == (0, 0));
        for key in 3..6 {
            wheel.arm(key, Tick(10), Tick(0));
        }
        wheel.arm(3, Tick(30), Tick(5));
        wheel.cancel(4);
        let mut fired = Vec::new();
        assert!(!wheel.expire(Tick(10), 100, &mut fired));
        assert_eq!(fired, [5]);
        wheel.cancel(3);
        assert!(wheel.is_empty() && !wheel.expire(Tick(100), 100, &mut fired));
        assert_eq!(fired, [5]);
        wheel.clear();
        assert_eq!(wheel.size(), (0, 0));
    }
}
