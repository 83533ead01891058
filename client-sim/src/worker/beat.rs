//! Heart-beats of all clients of a worker, spread evenly over the interval.
//!
//! A cursor goes round the slots, once per interval: each client it comes to sends a line end, and is
//! given up if it has heard nothing for too long. That needs no timer per client.
//!
//! The cursor moves at instants that all workers share. Beats that come one by one wake a thread of the server each;
//! with fifty threads on two cores that costs more than the beats. (At 200,000 connections and 53 and 54 threads both
//! ends took half the CPU for the same beats.)
//!
//! A worker that is behind with its beats begins no connection: see [`super::connect`].
//!
//! Invariant: between two beats of a client lies less than the agreed interval, unless the machine is too slow for
//! the beats alone.

use std::time::Duration;

use super::Worker;
use crate::failure::{Failure, Kind};
use crate::peer::Phase;

/// Part of the agreed interval in which the cursor goes round: the rest is for a turn that takes long.
const ROUND_PERCENT: u64 = 90;

/// The instants at which the cursors of all workers move are multiples of this.
const MOVE_EVERY: Duration = Duration::from_millis(50);

/// Slots visited in one turn: some 30 milliseconds of sending. With a hundred threads on two cores that are all busy a
/// turn comes round once in seconds, and a full table has 700 beats to send in each.
const VISITS_PER_TURN: usize = 4096;

/// A cursor that is later than this is behind: a part of what the round leaves of the interval.
const BEHIND: Duration = Duration::from_millis(500);

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

    /// When the next slot is due, at an instant that all workers share.
    pub(super) fn next_us(&self, slots: usize) -> Option<u64> {
        (self.round_us > 0 && slots > 0).then(|| {
            let due_us = self.moved_us + self.round_us.div_ceil(slots as u64);
            due_us.next_multiple_of(MOVE_EVERY.as_micros() as u64)
        })
    }

    /// Whether beats that are due have not been sent.
    pub(super) fn is_behind(&self, now_us: u64, slots: usize) -> bool {
        self.next_us(slots).is_some_and(|next_us| next_us + (BEHIND.as_micros() as u64) < now_us)
    }

    /// How many of `slots` the cursor passes at `now_us`.
    fn advance(&mut self, now_us: u64, slots: usize) -> usize {
        let round_us = u128::from(self.round_us);
        // One round at most: twice the same beat helps nobody.
        self.moved_us = self.moved_us.max(now_us.saturating_sub(self.round_us));
        let elapsed = u128::from(now_us.saturating_sub(self.moved_us));
        let due = (elapsed * slots as u128 / round_us) as usize;
        let visits = due.min(VISITS_PER_TURN);
        self.moved_us += (visits as u128 * round_us).div_ceil(slots as u128) as u64;
        visits
    }
}

impl Worker {
    /// Slots that the cursor goes round: those that have been in use.
    pub(super) fn beat_slots(&self) -> usize {
        self.conns.capacity()
    }

    pub(super) fn beat_due(&mut self) {
        let agreed = self.desk.heart_beats;
        let interval_ms = [agreed.out_ms, agreed.in_ms].into_iter().filter(|ms| *ms > 0).min().unwrap_or(0);
        self.beating.round_us = u64::from(interval_ms) * 1000 * ROUND_PERCENT / 100;
        let slots = self.beat_slots();
        if self.beating.next_us(slots).is_none_or(|next| next > self.desk.now_us) {
            return;
        }
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
            self.desk.counters.add(|counters| &counters.beats_sent, 1);
            self.flush_if(slot, done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beating(round_us: u64) -> Beating {
        Beating { round_us, ..Beating::default() }
    }

    #[test]
    fn every_slot_is_visited_once_a_round() {
        let mut beating = beating(1_000_000);
        let slots = 3000;
        let mut visits = 0;
        for now_us in (0..=10_000_000).step_by(7_000) {
            visits += beating.advance(now_us, slots);
        }
        assert!((29_900..=30_000).contains(&visits), "{visits}");
    }

    #[test]
    fn a_long_pause_is_made_up_for_by_one_round() {
        let mut beating = beating(1_000_000);
        assert_eq!(beating.advance(60_000_000, 100), 100);
        assert_eq!(beating.advance(60_000_001, 100), 0);
    }

    #[test]
    fn what_a_turn_has_no_time_for_is_still_due_in_the_next() {
        let slots = VISITS_PER_TURN * 3;
        let now_us = slots as u64 * 1000;
        let mut beating = beating(now_us);
        assert_eq!(beating.advance(now_us, slots), VISITS_PER_TURN);
        assert!(beating.is_behind(now_us, slots));
        assert!(beating.next_us(slots).unwrap() < now_us, "at once");
        assert_eq!(beating.advance(now_us, slots), VISITS_PER_TURN);
        assert_eq!(beating.advance(now_us, slots), VISITS_PER_TURN);
        assert!(!beating.is_behind(now_us, slots));
    }

    #[test]
    fn workers_that_began_at_different_times_move_together() {
        let (mut one, mut other) = (beating(1_000_000), beating(1_000_000));
        one.start(1_000);
        other.start(33_000);
        assert_eq!(one.next_us(100), Some(50_000));
        assert_eq!(other.next_us(100), Some(50_000));
        assert_eq!(beating(0).next_us(100), None, "no beats are agreed on");
    }
}
