//! Deadlines: one timer per connection, whatever it waits for.
//!
//! The phase says what a timer means when it fires. Traffic moves no timer: a connection that was heard in
//! the meantime is found alive, and its timer is armed anew.

use crate::conn::Phase;
use crate::conn::keepalive::{self, Activity, Due, Mechanism, Rhythm};
use crate::message::fault::Fault;
use crate::message::origin::ConnKey;
use crate::message::reply;
use crate::shard::{Liveness, Shard};
use crate::time::Tick;
use crate::wire::http::HttpError;
use crate::wire::ws;

/// Ticks between two looks at what has outlived its time: messages of queues, TIME_WAIT entries, memory.
const SWEEP_TICKS: u32 = 1000 / Tick::MILLIS;

/// When this was last done, and what a turn uses for it.
#[derive(Debug)]
pub(super) struct Timers {
    /// The time when the shard was last flushed.
    now: Tick,
    swept: Tick,
    fired: Vec<u32>,
}

impl Timers {
    pub(super) fn new(now: Tick) -> Timers {
        Timers { now, swept: now, fired: Vec::new() }
    }

    /// When the shard was last flushed.
    pub(super) fn now(&self) -> Tick {
        self.now
    }

    pub(super) fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    /// When the next look at queues, TIME_WAIT and memory is due.
    pub(super) fn next_sweep(&self) -> Tick {
        Tick(self.swept.0.saturating_add(SWEEP_TICKS))
    }

    pub(super) fn shrink_to(&mut self, kept: usize) {
        self.fired.shrink_to(kept);
    }

    pub(super) fn list(&self) -> &Vec<u32> {
        &self.fired
    }
}

impl Shard {

    /// Fires the timers that are due. Returns whether more are: `turn.timers_max` bounds one call.
    pub fn expire(&mut self, now: Tick) -> bool {
        let mut fired = std::mem::take(&mut self.timers.fired);
        let has_more = self.connections.expire(now, self.env.limits.turn.timers_max as usize, &mut fired);
        self.counters.timers_fired_total += fired.len() as u64;
        for index in fired.drain(..) {
            self.fire(index, now);
        }
        self.timers.fired = fired;
        if now >= self.timers.next_sweep() {
            self.timers.swept = now;
            self.counters.queue_messages_expired_total += self.queues.expire(now) as u64;
            self.connections.tcbs().expire_time_wait(now);
            self.rest();
        }
        has_more
    }

    fn fire(&mut self, index: u32, now: Tick) {
        match self.connections.phase(index) {
            Phase::Http | Phase::Refused => {
                self.counters.handshake_timeouts_total += 1;
                self.http_refuse(index, &HttpError::REQUEST_TIMEOUT, None, false, now);
            }
            Phase::Stomp if self.sessions[index].version().is_none() => {
                let max = self.env.limits.handshake.connect_timeout_ms;
                self.fault(index, Fault::ConnectTimeout { max }, None, now);
            }
            Phase::Stomp | Phase::Echo => self.keep_alive(index, now),
            Phase::Closing | Phase::Finishing | Phase::Lingering => self.close(index, true, now),
            Phase::Closed => {}
        }
    }

    /// Does what a connection's heart-beats and pings demand now, and sets its timer.
    pub(super) fn keep_alive(&mut self, index: u32, now: Tick) {
        let rhythm = self.rhythm(index);
        let connection = &self.connections[index];
        let (sent, pinged) = (connection.sent, connection.pinged);
        // A connection whose input is held back is not silent by its own fault.
        let heard = if connection.holds.is_empty() { connection.heard } else { now };
        match keepalive::due(rhythm, Activity { sent, heard, pinged }, now) {
            Due::Alive { beat, ping, next } => {
                if beat {
                    self.beat(index);
                }
                if ping {
                    self.ping(index, now);
                }
                match next {
                    Some(next) => self.connections.arm(index, next),
                    None => {
                        self.connections.disarm(index);
                    }
                }
            }
            Due::Dead { by, silent } => {
                let silent_ms = silent * Tick::MILLIS;
                match (self.connections.phase(index), by) {
                    (Phase::Echo, _) => {
                        self.found_dead(index, by, now);
                        let fault = Fault::PongTimeout { silent_ms };
                        self.begin_close(index, fault.close_code(), fault.name(), now);
                    }
                    (_, Mechanism::WsPing) => self.fault(index, Fault::PongTimeout { silent_ms }, None, now),
                    _ => self.fault(index, Fault::HeartBeatTimeout { silent_ms }, None, now),
                }
            }
        }
    }

    fn rhythm(&self, index: u32) -> Rhythm {
        let (to_client, from_client) = self.sessions[index].heart_beats();
        Rhythm { beat_out: to_client.ticks(), beat_in: from_client.ticks(), ping: self.env.ping }
    }

    /// When a connection was last heard, and what would find its peer dead; `None` if it is gone.
    pub fn liveness(&self, key: ConnKey) -> Option<Liveness> {
        if !self.is_current(key) {
            return None;
        }
        let keepalive = &self.env.limits.keepalive;
        let (beat_in, is_pinged) = match self.connections.phase(key.index) {
            Phase::Stomp if self.sessions[key.index].version().is_some() => {
                let Rhythm { beat_in, ping, .. } = self.rhythm(key.index);
                (beat_in.is_some(), beat_in.is_none() && ping.is_some())
            }
            Phase::Echo => (false, self.env.ping.is_some()),
            // Others have a deadline that ends them whatever is heard.
            _ => (false, false),
        };
        let mechanisms = [
            (keepalive.tcp_idle_s > 0, Mechanism::TcpKeepAlive),
            (keepalive.user_timeout_ms > 0, Mechanism::TcpUserTimeout),
            (keepalive.user_timeout_ms == 0, Mechanism::TcpRetransmission),
            (is_pinged, Mechanism::WsPing),
            (beat_in, Mechanism::StompHeartBeat),
        ];
        let armed = mechanisms.into_iter().filter_map(|(is_armed, mechanism)| is_armed.then_some(mechanism));
        let heard = self.connections[key.index].heard;
        Some(Liveness { heard, armed: armed.collect() })
    }

    fn ping(&mut self, index: u32, now: Tick) {
        self.say(index, |out| ws::encode_ping(&[], out));
        self.connections[index].pinged = now;
        self.counters.ws_pings_sent_total += 1;
    }

    fn beat(&mut self, index: u32) {
        // Unsent bytes will be heard as well as a beat, and a peer that does not read must not collect beats.
        if self.connections[index].output.is_empty() {
            self.say(index, reply::heart_beat);
            self.counters.heart_beats_sent_total += 1;
        }
    }
}
