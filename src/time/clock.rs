//! The unit of time and the one place that reads the machine's clock.
//!
//! Does not sleep and schedules nothing. Invariant: a [`Clock`]'s ticks never go backwards.

use std::time::{Duration, Instant};

/// A moment: units of 100 ms since the server's start.
///
/// 32 bits hold 13.6 years of them in four bytes per deadline; every operation saturates there. 100 ms is
/// fine enough for the shortest configurable timeout and coarse enough that many deadlines share a tick.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug, Default, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// Milliseconds of one tick.
    pub const MILLIS: u32 = 100;

    /// The tick `ms` milliseconds after this one, rounded up to a whole tick.
    ///
    /// The tick under way has partly passed, so a wait for it may be shorter than `ms` by up to one tick.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Tick {
        let ticks = ms.div_ceil(u64::from(Self::MILLIS));
        Tick(self.0.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)))
    }

    /// Ticks from `earlier` to this one; 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds from the server's start to this tick.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::from(self.0) * u64::from(Self::MILLIS)
    }
}

/// A moment as fine as writes are delayed: microseconds since the server's start.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// The moment `us` microseconds after this one.
    #[must_use]
    pub fn after(self, us: u32) -> Micros {
        Micros(self.0.saturating_add(u64::from(us)))
    }

    /// Microseconds from `earlier` to this moment; 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The monotonic clock that ticks are read from.
#[derive(Debug, Copy, Clone)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose tick 0 is this moment.
    #[must_use]
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The tick under way.
    #[must_use]
    pub fn now(&self) -> Tick {
        tick_at(self.start.elapsed())
    }

    /// This moment.
    #[must_use]
    pub fn micros(&self) -> Micros {
        Micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// How long until `tick` begins; zero once it has.
    #[must_use]
    pub fn until(&self, tick: Tick) -> Duration {
        Duration::from_millis(tick.as_millis()).saturating_sub(self.start.elapsed())
    }
}

/// Ticks of a second.
const TICKS_PER_S: u64 = 1000 / Tick::MILLIS as u64;
const _: () = assert!(1000 % Tick::MILLIS == 0);

fn tick_at(elapsed: Duration) -> Tick {
    // A second is whole ticks. Milliseconds in one number would be divided as 128 bits.
    let whole = elapsed.as_secs().saturating_mul(TICKS_PER_S);
    let ticks = whole.saturating_add(u64::from(elapsed.subsec_millis() / Tick::MILLIS));
    Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_and_saturates() {
        assert_eq!(Tick(5).after_ms(0), Tick(5));
        assert_eq!(Tick(5).after_ms(1), Tick(6));
        assert_eq!(Tick(5).after_ms(100), Tick(6));
        assert_eq!(Tick(5).after_ms(101), Tick(7));
        assert_eq!(Tick(5).after_ms(u64::MAX), Tick(u32::MAX));
        assert_eq!(Tick(u32::MAX).after_ms(1), Tick(u32::MAX));
    }

    #[test]
    fn a_difference_does_not_go_below_zero() {
        assert_eq!(Tick(7).since(Tick(3)), 4);
        assert_eq!(Tick(3).since(Tick(7)), 0);
    }

    #[test]
    fn elapsed_time_is_rounded_down_to_the_tick_under_way() {
        assert_eq!(tick_at(Duration::from_millis(99)), Tick(0));
        assert_eq!(tick_at(Duration::from_millis(100)), Tick(1));
        assert_eq!(tick_at(Duration::from_millis(1_299)), Tick(12));
        assert_eq!(tick_at(Duration::MAX), Tick(u32::MAX));
        assert_eq!(Tick(u32::MAX).as_millis(), 429_496_729_500);
    }

    #[test]
    fn the_clock_and_its_waits_agree() {
        let clock = Clock::start();
        let now = clock.now();
        assert_eq!(clock.until(now), Duration::ZERO);
        let wait = clock.until(Tick(now.0 + 600));
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
        assert!(clock.now() >= now);
    }
}
