//! Up to when everything that came has been seen: timers are fired for that time and no later.
//!
//! A peer is not late while what it has said lies unread, however long the server was away or its turns were. A look at the
//! sockets shows what had come when the look began, unless it was cut short: by a signal, or by its bound on events. So the
//! time is taken before the look, and it counts only if the look was whole.
//!
//! It reads no clock and polls nothing.
//!
//! Invariant: the time that is seen never goes backwards.

use crate::time::Tick;

/// Looks in a row that may be cut short before timers are fired all the same: so many can only be under a load in which
/// every look finds more than it may take. Whoever is suspect then is looked at by itself
/// ([`Transport::progress`](crate::shard::Transport::progress)).
const CUT_SHORT_MAX: u32 = 32;

/// What has been seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    until: Tick,
    /// Looks that were cut short since the last whole one.
    cut_short: u32,
}

impl Seen {
    pub(super) fn new(now: Tick) -> Seen {
        Seen { until: now, cut_short: 0 }
    }

    /// Notes a look that began at `began`, and whether it has shown everything.
    pub(super) fn note(&mut self, began: Tick, is_whole: bool) {
        self.cut_short = if is_whole { 0 } else { self.cut_short + 1 };
        if is_whole || self.cut_short >= CUT_SHORT_MAX {
            self.until = self.until.max(began);
            self.cut_short = 0;
        }
    }

    /// The time for which timers may be fired, once what was seen has been read.
    pub(super) fn until(&self) -> Tick {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_with_whole_looks_only() {
        let mut seen = Seen::new(Tick(5));
        seen.note(Tick(7), true);
        assert_eq!(seen.until(), Tick(7));
        // A pause of an hour, and more sockets are ready than one look shows.
        for began in [36_000, 36_001, 36_002] {
            seen.note(Tick(began), false);
            assert_eq!(seen.until(), Tick(7));
        }
        seen.note(Tick(36_002), true);
        assert_eq!(seen.until(), Tick(36_002));
    }

    #[test]
    fn load_does_not_stop_the_time_for_ever() {
        let mut seen = Seen::new(Tick(0));
        for began in 1..=3 * CUT_SHORT_MAX {
            seen.note(Tick(began), false);
            assert_eq!(seen.until(), Tick(began - began % CUT_SHORT_MAX));
        }
    }
}
