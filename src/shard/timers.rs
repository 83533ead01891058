//! Deadlines: one timer per connection, whatever it waits for.
//!
//! The phase says what a timer means when it fires. Traffic moves no timer: a connection that was heard in
//! the meantime is found alive, and its timer is armed anew.

use crate::chat::fault::Fault;
use crate::chat::reply;
use crate::conn::Phase;
use crate::conn::keepalive::{self, Due};
use crate::shard::Shard;
use crate::time::Tick;
use crate::wire::http::HttpError;

/// Ticks between two looks at queues and TIME_WAIT entries that have outlived their time.
const SWEEP_TICKS: u32 = 1000 / Tick::MILLIS;

impl Shard {
    /// When the next look at queues and TIME_WAIT is due.
    pub(super) fn next_sweep(&self) -> Tick {
        Tick(self.swept.0.saturating_add(SWEEP_TICKS))
    }

    /// Fires the timers that are due. Returns whether more are: `turn.timers_max` bounds one call.
    pub fn expire(&mut self, now: Tick) -> bool {
        let mut fired = std::mem::take(&mut self.fired);
        let has_more = self.wheel.expire(now, self.limits.turn.timers_max as usize, &mut fired);
        self.counters.timers_fired_total += fired.len() as u64;
        for index in fired.drain(..) {
            self.fire(index, now);
        }
        self.fired = fired;
        if now >= self.next_sweep() {
            self.swept = now;
            self.queues.expire(now);
            self.tcbs.expire_time_wait(now);
        }
        has_more
    }

    fn fire(&mut self, index: u32, now: Tick) {
        match self.phase(index) {
            Phase::Http | Phase::Refused => {
                self.counters.handshake_timeouts_total += 1;
                self.http_refuse(index, &HttpError::REQUEST_TIMEOUT, None, false, now);
            }
            Phase::Stomp if self.slots[index as usize].session.version().is_none() => {
                let max = self.limits.handshake.connect_timeout_ms;
                self.fault(index, Fault::ConnectTimeout { max }, None, now);
            }
            Phase::Stomp => self.keep_alive(index, now),
            Phase::Closing | Phase::Finishing | Phase::Lingering => self.close(index, true, now),
            Phase::Echo | Phase::Closed => {}
        }
    }

    /// Does what the heart-beats of a session demand now, and sets its timer.
    pub(super) fn keep_alive(&mut self, index: u32, now: Tick) {
        let slot = &self.slots[index as usize];
        let (to_client, from_client) = slot.session.heart_beats();
        // A connection whose input is held back is not deaf by its own fault.
        let from_client = if slot.connection.may_resume() { from_client.ticks() } else { None };
        let due =
            keepalive::due(to_client.ticks(), from_client, slot.connection.sent, slot.connection.heard, now);
        match due {
            Due::Beat(next) => {
                self.beat(index);
                self.wheel.arm(index, next);
            }
            Due::Wait(next) => self.wheel.arm(index, next),
            Due::Dead(ticks) => {
                self.fault(index, Fault::HeartBeatTimeout { silent_ms: ticks * Tick::MILLIS }, None, now);
            }
            Due::Never => {
                self.wheel.cancel(index);
            }
        }
    }

    fn beat(&mut self, index: u32) {
        // Unsent bytes will be heard as well as a beat, and a peer that does not read must not collect beats.
        if self.slots[index as usize].connection.outbound.is_empty() {
            let mut beat = Vec::with_capacity(3);
            reply::heart_beat(&mut beat);
            self.push_vec(index, beat);
            self.counters.heart_beats_sent_total += 1;
        }
    }
}
