//! Deadlines: one timer per connection, whatever it waits for.
//!
//! The phase says what a timer means when it fires. Traffic moves no timer: a connection that was heard in
//! the meantime is found alive, and its timer is armed anew.

use crate::chat::fault::Fault;
use crate::chat::reply;
use crate::conn::Phase;
use crate::conn::keepalive::{self, Activity, Due, Mechanism, Rhythm};
use crate::shard::{ConnKey, Liveness, Shard};
use crate::time::Tick;
use crate::wire::http::HttpError;
use crate::wire::ws;

/// Ticks between two looks at what has outlived its time: messages of queues, TIME_WAIT entries, memory.
const SWEEP_TICKS: u32 = 1000 / Tick::MILLIS;

impl Shard {
    /// When the next look at queues, TIME_WAIT and memory is due.
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
            self.counters.queue_messages_expired_total += self.queues.expire(now) as u64;
            self.tcbs.expire_time_wait(now);
            self.rest();
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
                let inbound = self.slots[index as usize].connection.inbound.as_ref();
                let is_begun = inbound.is_some_and(|inbound| inbound.assembly.payload.is_some());
                let fault =
                    if is_begun { Fault::ConnectUnfinished { max } } else { Fault::ConnectTimeout { max } };
                self.fault(index, fault, None, now);
            }
            Phase::Stomp | Phase::Echo => self.keep_alive(index, now),
            Phase::Closing | Phase::Finishing | Phase::Lingering => self.close(index, true, now),
            Phase::Closed => {}
        }
    }

    /// Does what a connection's heart-beats and pings demand now, and sets its timer.
    pub(super) fn keep_alive(&mut self, index: u32, now: Tick) {
        let rhythm = self.rhythm(index);
        let connection = &self.slots[index as usize].connection;
        let (sent, pinged) = (connection.sent, connection.pinged);
        // A connection whose input is held back is not silent by its own fault.
        let heard = if connection.may_resume() { connection.heard } else { now };
        match keepalive::due(rhythm, Activity { sent, heard, pinged }, now) {
            Due::Alive { beat, ping, next } => {
                if beat {
                    self.beat(index);
                }
                if ping {
                    self.ping(index, now);
                }
                match next {
                    Some(next) => self.wheel.arm(index, next),
                    None => {
                        self.wheel.cancel(index);
                    }
                }
            }
            Due::Dead { by, silent } => {
                let silent_ms = silent * Tick::MILLIS;
                match (self.phase(index), by) {
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
        let (to_client, from_client) = self.slots[index as usize].session.heart_beats();
        Rhythm { beat_out: to_client.ticks(), beat_in: from_client.ticks(), ping: self.ping }
    }

    /// When a connection was last heard, and what would find its peer dead; `None` if it is gone.
    pub fn liveness(&self, key: ConnKey) -> Option<Liveness> {
        if !self.is_current(key) {
            return None;
        }
        let keepalive = &self.limits.keepalive;
        let (beat_in, is_pinged) = match self.phase(key.index) {
            Phase::Stomp if self.slots[key.index as usize].session.version().is_some() => {
                let Rhythm { beat_in, ping, .. } = self.rhythm(key.index);
                (beat_in.is_some(), beat_in.is_none() && ping.is_some())
            }
            Phase::Echo => (false, self.ping.is_some()),
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
        let heard = self.slots[key.index as usize].connection.heard;
        Some(Liveness { heard, armed: armed.collect() })
    }

    fn ping(&mut self, index: u32, now: Tick) {
        self.say(index, |out| ws::encode_ping(&[], out));
        self.slots[index as usize].connection.pinged = now;
        self.counters.ws_pings_sent_total += 1;
    }

    fn beat(&mut self, index: u32) {
        // Unsent bytes will be heard as well as a beat, and a peer that does not read must not collect beats.
        if self.slots[index as usize].connection.outbound.is_empty() {
            self.say(index, reply::heart_beat);
            self.counters.heart_beats_sent_total += 1;
        }
    }
}
