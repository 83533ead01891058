//! Heart-beats of all clients of a worker, spread evenly over the interval.
//!
//! A cursor goes round the slots, once per interval: each client it comes to sends a line end, and is
//! given up if it has heard nothing for too long. That needs no timer per client.
//!
//! Invariant: between two beats of a client lies less than the agreed interval.

use std::time::Duration;

use super::Worker;
use crate::failure::{Failure, Kind};
use crate::peer::Phase;

/// Part of the agreed interval in which the cursor goes round: the rest is for a turn that takes long.
const ROUND_PERCENT: u64 = 80;

/// The least time between two moves of the cursor.
const MOVE_MIN: Duration = Duration::from_millis(10);

/// Slots visited in one turn.
const VISITS_PER_TURN: usize = 4096;

/// A server is late when nothing was heard for twice the interval and this.
const LATE_SLACK_MS: u64 = 2000;

#[derive(Debug, Default)]
pub(super) struct Beating {
    cursor: usize,
    moved_us: u64,
    /// The time of a whole round; 0 while no beats are agreed on.
    round_us: u64,
}

impl Beating {
    pub(super) fn start(&mut self, now_us: u64) {
        self.moved_us = now_us;
    }

    pub(super) fn next_us(&self, clients: usize) -> Option<u64> {
        (self.round_us > 0 && clients > 0)
            .then(|| self.moved_us + (self.round_us / clients as u64).max(MOVE_MIN.as_micros() as u64))
    }

    /// How many of `slots` the cursor passes until `now_us`.
    fn advance(&mut self, now_us: u64, slots: usize) -> usize {
        let elapsed = now_us.saturating_sub(self.moved_us);
        let due = (u128::from(elapsed) * slots as u128 / u128::from(self.round_us)) as usize;
        let visits = due.min(slots).min(VISITS_PER_TURN);
        if due > visits {
            // Behind by more than a turn may do: catching up all at once would only make it worse.
            self.moved_us = now_us;
        } else {
            self.moved_us += (visits as u128 * u128::from(self.round_us)).div_ceil(slots as u128) as u64;
        }
        visits
    }
}

impl Worker {
    pub(super) fn beat_due(&mut self) {
        let agreed = self.desk.heart_beats;
        let interval_ms = [agreed.out_ms, agreed.in_ms].into_iter().filter(|ms| *ms > 0).min().unwrap_or(0);
        self.beating.round_us = u64::from(interval_ms) * 1000 * ROUND_PERCENT / 100;
        if self.beating.next_us(self.conns.len()).is_none_or(|next| next > self.desk.now_us) {
            return;
        }
        let slots = self.conns.capacity();
        for _ in 0..self.beating.advance(self.desk.now_us, slots) {
            self.beating.cursor = (self.beating.cursor + 1) % slots;
            self.visit(self.beating.cursor);
        }
    }

    fn visit(&mut self, slot: usize) {
        let agreed = self.desk.heart_beats;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if conn.peer.phase() != Phase::Ready || conn.seat.dead || conn.seat.deaf {
            return;
        }
        let silent_ms = conn.seat.silent_ms(self.desk.now_us);
        if agreed.in_ms > 0 && silent_ms > 2 * u64::from(agreed.in_ms) + LATE_SLACK_MS {
            let detail = format!("nothing heard for {silent_ms} ms, agreed on {} ms", agreed.in_ms);
            return self.fail(slot, Failure::new(Kind::HeartBeatMissed, detail));
        }
        if agreed.out_ms > 0 {
            let done = conn.peer.beat(&mut self.kit);
            self.flush_if(slot, done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_visited_once_a_round() {
        let mut beating = Beating { round_us: 1_000_000, ..Beating::default() };
        let slots = 3000;
        let mut visits = 0;
        for now_us in (0..=10_000_000).step_by(7_000) {
            visits += beating.advance(now_us, slots);
        }
        assert!((29_900..=30_000).contains(&visits), "{visits}");
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let mut beating = Beating { round_us: 1_000_000, ..Beating::default() };
        assert_eq!(beating.advance(60_000_000, 100), 100);
        assert_eq!(beating.advance(60_000_001, 100), 0);
    }
}
