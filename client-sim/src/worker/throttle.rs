//! How many handshakes a worker may have under way: as many as the machine answers in time.
//!
//! Both ends share the cores here, so a simulator that connects as fast as it can takes the time away from the server
//! that should answer, and from heart-beats that are due. The width of the throttle is halved when a handshake took
//! longer than [`SLOW_US`] and grows by one for each full width of quick ones, as TCP's own window does: a slow machine
//! makes the set-up slower, and never fails it. It reads no clock.
//!
//! Invariant: the width is between 1 and the bound it was given.

/// A handshake that takes longer shows that too many are under way: a fraction of the time that the server gives it.
const SLOW_US: u64 = 500_000;

/// So many handshakes at once, and no more.
#[derive(Debug)]
pub(super) struct Throttle {
    width: f64,
    width_max: f64,
    /// Handshakes that were begun before this time say nothing of the present width.
    narrowed_us: u64,
}

impl Throttle {
    /// A throttle that opens up to `width_max`.
    pub(super) fn new(width_max: u32) -> Self {
        let width_max = f64::from(width_max.max(1));
        Self { width: width_max, width_max, narrowed_us: 0 }
    }

    /// May another begin while so many are under way?
    pub(super) fn admits(&self, under_way: u32) -> bool {
        f64::from(under_way) < self.width.floor()
    }

    /// A handshake is over that was begun at `started_us`.
    pub(super) fn ended(&mut self, started_us: u64, now_us: u64) {
        if now_us.saturating_sub(started_us) <= SLOW_US {
            self.width = (self.width + 1.0 / self.width).min(self.width_max);
        } else if started_us >= self.narrowed_us {
            self.width = (self.width / 2.0).max(1.0);
            self.narrowed_us = now_us;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(throttle: &Throttle) -> u32 {
        (0..).find(|under_way| !throttle.admits(*under_way)).unwrap()
    }

    #[test]
    fn slow_handshakes_halve_the_width_once_for_all_that_were_under_way() {
        let mut throttle = Throttle::new(16);
        assert_eq!(width(&throttle), 16);
        for started_us in 0..16 {
            throttle.ended(started_us, 2 * SLOW_US);
        }
        assert_eq!(width(&throttle), 8);
        throttle.ended(2 * SLOW_US, 4 * SLOW_US);
        assert_eq!(width(&throttle), 4);
    }

    #[test]
    fn quick_ones_open_it_again_and_it_never_shuts() {
        let mut throttle = Throttle::new(16);
        let mut now_us = 0;
        for _ in 0..10 {
            throttle.ended(now_us, now_us + 2 * SLOW_US);
            now_us += 2 * SLOW_US;
        }
        assert_eq!(width(&throttle), 1, "one is always let through");
        for _ in 0..1000 {
            throttle.ended(now_us, now_us + SLOW_US);
        }
        assert_eq!(width(&throttle), 16, "and never more than the bound");
    }
}
