//! How long the end of the reactors is waited for.
//!
//! They have the time that the configuration gives their connections. After that everything is reset, which waits for
//! no peer, but takes the kernel time: some ten microseconds a socket, seconds for a million on two busy cores. So the
//! wait goes on as long as something ends. It reads no clock.
//!
//! Invariant: patience ends only when nothing has ended for [`GRACE`].

use std::time::{Duration, Instant};

/// So long may nothing end, once the time is up. A turn is bounded, and takes milliseconds; with many more reactors
/// than cores, on a machine that others use as well, a second.
const GRACE: Duration = Duration::from_secs(5);

/// Between two looks at what has ended.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the end is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    done: u64,
}

impl Patience {
    /// From `now` on, with so much time that needs no progress.
    pub(super) fn new(now: Instant, timeout: Duration) -> Patience {
        Patience { until: now + timeout + GRACE, done: 0 }
    }

    /// Looks at how much is done; how long to wait until the next look, or `None`: patience is at an end.
    pub(super) fn look(&mut self, now: Instant, done: u64) -> Option<Duration> {
        if done > self.done {
            self.done = done;
            self.until = self.until.max(now + GRACE);
        }
        let left = self.until.saturating_duration_since(now);
        (!left.is_zero()).then(|| left.min(LOOK_EVERY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    #[test]
    fn without_progress_it_ends_after_the_timeout_and_the_grace() {
        let start = Instant::now();
        let mut patience = Patience::new(start, TIMEOUT);
        assert_eq!(patience.look(start, 0), Some(LOOK_EVERY));
        let nearly = start + TIMEOUT + GRACE - Duration::from_millis(1);
        assert_eq!(patience.look(nearly, 0), Some(Duration::from_millis(1)));
        assert_eq!(patience.look(start + TIMEOUT + GRACE, 0), None);
    }

    #[test]
    fn it_lasts_as_long_as_something_ends() {
        let start = Instant::now();
        let mut patience = Patience::new(start, TIMEOUT);
        let mut now = start;
        for done in 1..1000 {
            now += GRACE - Duration::from_millis(1);
            assert!(patience.look(now, done).is_some(), "{done}");
        }
        assert!(patience.look(now + GRACE - Duration::from_millis(1), 999).is_some());
        assert_eq!(patience.look(now + GRACE, 999), None, "the same number is no progress");
    }

    #[test]
    fn progress_never_shortens_it() {
        let start = Instant::now();
        let mut patience = Patience::new(start, Duration::from_secs(3600));
        assert!(patience.look(start, 7).is_some());
        assert!(patience.look(start + Duration::from_secs(3600), 7).is_some());
    }
}
