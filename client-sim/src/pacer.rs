//! Open-loop pacing: when each thing should happen, whatever the server does.
//!
//! The n-th thing is due at `start + n / rate`. A pacer that is asked late gives the times that have passed,
//! one after the other; the caller measures from the time it was given, so waiting in the simulator or the
//! server shows up in the latency instead of thinning out the load. It reads no clock.
//!
//! Invariant: times never decrease, and after `limit` of them there is none.

pub mod alarm;

/// Nanoseconds of a second.
const NANOS: f64 = 1e9;

/// A schedule of evenly spaced times, in microseconds after the start of the run.
#[derive(Debug, Clone)]
pub struct Pacer {
    start_us: u64,
    interval_ns: f64,
    issued: u64,
    limit: u64,
}

impl Pacer {
    /// A schedule that begins at `start_us` with `rate` per second, `limit` times. A rate that is not above
    /// zero, or infinite, makes all of them due at once.
    pub fn new(start_us: u64, rate: f64, limit: u64) -> Self {
        let interval_ns = if rate.is_finite() && rate > 0.0 { NANOS / rate } else { 0.0 };
        Self { start_us, interval_ns, issued: 0, limit }
    }

    /// The part of a schedule that one of `parts` takes: every `parts`-th time.
    pub fn part(start_us: u64, rate: f64, limit: u64, part: u32, parts: u32) -> Self {
        let (part, parts) = (u64::from(part), u64::from(parts));
        let whole = Self::new(start_us, rate, limit);
        Self {
            start_us: start_us + (whole.interval_ns * part as f64 / 1000.0) as u64,
            interval_ns: whole.interval_ns * parts as f64,
            issued: 0,
            limit: limit / parts + u64::from(part < limit % parts),
        }
    }

    /// The next time, when it has come.
    pub fn take_due(&mut self, now_us: u64) -> Option<u64> {
        let next = self.next_us()?;
        (next <= now_us).then(|| {
            self.issued += 1;
            next
        })
    }

    /// The next time; `None` when all were given.
    pub fn next_us(&self) -> Option<u64> {
        (self.issued < self.limit)
            .then(|| self.start_us + (self.interval_ns * self.issued as f64 / 1000.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn late_calls_catch_up_with_the_intended_times() {
        let mut pacer = Pacer::new(1000, 1000.0, 5);
        assert_eq!(pacer.take_due(999), None);
        assert_eq!(pacer.take_due(1000), Some(1000));
        assert_eq!(pacer.take_due(1000), None);
        let late: Vec<_> = std::iter::from_fn(|| pacer.take_due(1_000_000)).collect();
        assert_eq!(late, [2000, 3000, 4000, 5000]);
        assert_eq!(pacer.next_us(), None);
    }

    #[test]
    fn no_rate_means_all_at_once() {
        let mut pacer = Pacer::new(7, f64::INFINITY, 3);
        assert_eq!(std::iter::from_fn(|| pacer.take_due(7)).count(), 3);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(rate in 0.5f64..100_000.0, limit in 0u64..500, parts in 1u32..8) {
            let times = |mut pacer: Pacer| -> Vec<u64> {
                std::iter::from_fn(|| pacer.take_due(u64::MAX)).collect()
            };
            let whole = times(Pacer::new(100, rate, limit));
            let mut together: Vec<u64> =
                (0..parts).flat_map(|part| times(Pacer::part(100, rate, limit, part, parts))).collect();
            together.sort_unstable();
            prop_assert_eq!(whole.len(), together.len());
            for (one, other) in whole.iter().zip(&together) {
                prop_assert!(one.abs_diff(*other) <= 2, "{} {}", one, other);
            }
        }
    }
}
