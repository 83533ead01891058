//! Deadlines: one timer per connection, whatever it waits for.
//!
//! The phase says what a timer means when it fires. Traffic moves no timer: a connection that was heard in
//! the meantime is found alive, and its timer is armed anew.
//!
//! A timer that fires ends no connection by itself. The socket is asked first ([`Transport::progress`]): what is unread is
//! read before, and who takes what it is sent is not dead ([`suspects`](crate::conn::suspects)). A connection that is not
//! read from is heard there as well: bytes that come to its socket count.
//!
//! Invariant: a connection that lives has a timer for the next moment at which something about it is due.

use crate::conn::Phase;
use crate::conn::hold::Reason;
use crate::conn::keepalive::{self, Activity, Due, Mechanism, Rhythm, Suspicion};
use crate::conn::suspects::{Deadline, Suspects, Verdict};
use crate::conn::transport::Transport;
use crate::footprint::Part;
use crate::message::fault::Fault;
use crate::message::origin::ConnKey;
use crate::message::reply;
use crate::shard::{Liveness, Shard};
use crate::time::Tick;
use crate::wire::framing::Framing;
use crate::wire::http::HttpError;
use crate::wire::ws;

/// Why a connection ends on which nothing was said, where STOMP frames are bare.
const SILENT: &str = "Nothing came within handshake.timeout_ms.";

/// Ticks between two looks at what has outlived its time: messages of queues, TIME_WAIT entries, memory.
const SWEEP_TICKS: u32 = 1000 / Tick::MILLIS;

/// What timers need beside the deadlines: the time, peers that were silent for too long, and a list.
#[derive(Debug)]
pub(super) struct Timers {
    /// The time when the shard was last flushed.
    now: Tick,
    /// Milliseconds since 1970, if anybody asks.
    wall_ms: u64,
    swept: Tick,
    /// More of queues was due than one call does.
    is_late_for_queues: bool,
    suspects: Suspects,
    fired: Vec<u32>,
}

impl Timers {
    pub(super) fn new(now: Tick) -> Timers {
        Timers {
            now,
            wall_ms: 0,
            swept: now,
            is_late_for_queues: false,
            suspects: Suspects::default(),
            fired: Vec::new(),
        }
    }

    /// When the shard was last flushed.
    pub(super) fn now(&self) -> Tick {
        self.now
    }

    pub(super) fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    /// Milliseconds since 1970, as [`Shard::set_wall_ms`] said last.
    pub(super) fn wall_ms(&self) -> u64 {
        self.wall_ms
    }

    pub(super) fn set_wall_ms(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
    }

    /// When the next look at queues, TIME_WAIT and memory is due.
    pub(super) fn next_sweep(&self) -> Tick {
        Tick(self.swept.0.saturating_add(SWEEP_TICKS))
    }

    /// A connection has ended.
    pub(super) fn forget(&mut self, index: u32) {
        self.suspects.forget(index);
    }

    pub(super) fn shrink_to(&mut self, kept: usize) {
        self.fired.shrink_to(kept);
    }

    pub(super) fn list_memory(&self) -> Part {
        let fired = Part::array(self.fired.len(), self.fired.capacity(), size_of::<u32>());
        [fired, self.suspects.memory()].into_iter().sum()
    }

    /// Panics if somebody is suspect who is not there.
    pub(super) fn check(&self, is_there: impl Fn(u32) -> bool) {
        self.suspects.check(is_there);
    }

    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }
}

impl Shard {
    /// Fires the timers that are due at `now`, and asks `transport` before it ends a connection. Returns whether more are
    /// due: `turn.timers_max` bounds one call.
    pub fn expire(&mut self, transport: &impl Transport, now: Tick) -> bool {
        if let Some(planned) = self.connections.next_deadline() {
            self.timers.suspects.note_wake_up(planned, now);
        }
        let mut fired = std::mem::take(&mut self.timers.fired);
        let mut has_more = self.connections.expire(now, self.env.limits.turn.timers_max as usize, &mut fired);
        self.counters.timers_fired_total += fired.len() as u64;
        for index in fired.drain(..) {
            self.fire(index, transport, now);
        }
        self.timers.fired = fired;
        has_more |= self.expire_sessions(now);
        has_more |= self.topics.expire(now);
        let mut paid = Vec::new();
        has_more |= self.rates.take_paid(now, self.env.limits.turn.timers_max as usize, &mut paid);
        for index in paid {
            self.release(self.connections.key_of(index), Reason::Rate);
        }
        let is_sweep = now >= self.timers.next_sweep();
        if is_sweep || self.timers.is_late_for_queues {
            self.timers.is_late_for_queues = self.expire_queues(now);
        }
        if is_sweep {
            self.timers.swept = now;
            self.expire_inputs(now);
            self.expire_lags(now);
            self.rates.tidy(now);
            self.connections.tcbs().expire_time_wait(now);
            self.rest();
        }
        if self.inquiries.has_walks() {
            self.continue_inquiries(transport, now);
        }
        has_more || self.timers.is_late_for_queues
    }

    fn fire(&mut self, index: u32, transport: &impl Transport, now: Tick) {
        match self.connections.phase(index) {
            _ if self.is_looked_after(index) => self.look_after(index, transport, now),
            Phase::Closed => {}
            phase => {
                let deadline = match phase {
                    Phase::Opening | Phase::Refused => Deadline::Handshake,
                    Phase::Stomp => Deadline::Connect,
                    Phase::Concluding => Deadline::Receipts,
                    _ => Deadline::Close,
                };
                if self.may_wait(index, deadline, transport, now) {
                    self.connections.arm(index, next(now));
                } else {
                    self.deadline_passed(index, deadline, now);
                }
            }
        }
    }

    /// Whether heart-beats and pings find out whether the peer lives, and not a deadline.
    fn is_looked_after(&self, index: u32) -> bool {
        let session = &self.sessions[index];
        match self.connections.phase(index) {
            Phase::Echo => true,
            Phase::Stomp => session.is_connected(),
            // The client waits for the receipts as long as it likes to.
            Phase::Concluding => session.is_disconnecting(),
            _ => false,
        }
    }

    /// Whether what is unread may be what a deadline waits for.
    fn may_wait(&mut self, index: u32, deadline: Deadline, transport: &impl Transport, now: Tick) -> bool {
        let connection = &self.connections[index];
        let heard = connection.heard;
        connection.wants_read()
            && transport.progress(index).is_some_and(|progress| progress.has_unread)
            && self.timers.suspects.may_wait(index, deadline, heard, now)
    }

    /// A deadline has passed.
    fn deadline_passed(&mut self, index: u32, deadline: Deadline, now: Tick) {
        match deadline {
            Deadline::Handshake => {
                self.counters.handshake_timeouts_total += 1;
                match self.connections[index].framing {
                    Framing::WebSocket => {
                        self.turn_away(index, &HttpError::REQUEST_TIMEOUT, None, false, now)
                    }
                    Framing::Bare => self.turn_away_bare(index, SILENT, None, now),
                }
            }
            Deadline::Connect => {
                let max = self.env.limits.handshake.connect_timeout_ms;
                let inbound = self.connections[index].inbound.as_ref();
                let is_begun = inbound.is_some_and(|inbound| inbound.assembly.payload.is_some());
                let fault = match self.sessions[index].version() {
                    // It has said CONNECT, and nobody knows yet who it is.
                    Some(_) => Fault::AuthUnavailable,
                    None if is_begun => Fault::ConnectUnfinished { max },
                    None => Fault::ConnectTimeout { max },
                };
                self.fault(index, fault, None, now);
            }
            Deadline::Receipts => self.conclude(index, now),
            Deadline::Close => self.close(index, true, now),
        }
    }

    fn look_after(&mut self, index: u32, transport: &impl Transport, now: Tick) {
        if let Some(suspicion) = self.do_what_is_due(index, now) {
            self.judge(index, &suspicion, transport, now);
        }
    }

    /// Begins with heart-beats and pings for a connection that has been heard in this moment.
    pub(super) fn keep_alive(&mut self, index: u32, now: Tick) {
        let suspicion = self.do_what_is_due(index, now);
        debug_assert!(suspicion.is_none(), "it has been heard");
    }

    /// Does what a connection's heart-beats and pings demand now, and sets its timer. Returns what makes it suspect: the
    /// socket decides then, at the next tick at the latest.
    fn do_what_is_due(&mut self, index: u32, now: Tick) -> Option<Suspicion> {
        let rhythm = self.rhythm(index);
        let connection = &self.connections[index];
        let (heard, pinged) = (connection.heard, connection.pinged);
        let pinged_first = self.timers.suspects.pinged_first(index, pinged, heard);
        let back = self.timers.suspects.back_at();
        let activity = Activity { sent: connection.sent, heard, pinged, pinged_first, back };
        let (beat, at, suspicion) = match keepalive::due(rhythm, activity, now) {
            Due::Alive { beat, ping, next } => {
                self.timers.suspects.acquit(index, activity.is_pinged());
                if ping {
                    self.ping(index, activity, now);
                }
                (beat, next, None)
            }
            Due::Suspect(suspicion) => (suspicion.beat, Some(next(now)), Some(suspicion)),
        };
        if beat {
            self.beat(index);
        }
        match at {
            Some(at) => self.connections.arm(index, at),
            None => {
                self.connections.disarm(index);
            }
        }
        suspicion
    }

    /// Asks the socket about a suspect, and ends it or sets its timer for another look.
    fn judge(&mut self, index: u32, suspicion: &Suspicion, transport: &impl Transport, now: Tick) {
        let Suspicion { patience, next_beat, .. } = *suspicion;
        // No later than a beat to it is due.
        let look_again = |at: Tick| next_beat.map_or(at, |beat| at.min(beat)).max(next(now));
        let connection = &mut self.connections[index];
        let Some(progress) = transport.progress(index) else {
            // A transport that knows nothing cannot hold up the verdict, but on one that is not read from.
            if connection.wants_read() {
                return self.found_silent(index, suspicion, now);
            }
            return self.connections.arm(index, look_again(Tick(now.0.saturating_add(patience))));
        };
        if progress.has_unread && connection.wants_read() {
            // It is read in one of the next turns, and then it was heard.
            return self.connections.arm(index, look_again(next(now)));
        }
        if !connection.wants_read() {
            let arrived = Tick(now.0.saturating_sub(progress.arrived_ms_ago / Tick::MILLIS));
            let has_untaken = connection.inbound.as_ref().is_some_and(|inbound| inbound.raw.is_some());
            if (progress.has_unread || has_untaken) && connection.output.is_empty() {
                // Not its fault, and what it has said is there.
                return self.connections.arm(index, look_again(Tick(now.0.saturating_add(patience))));
            }
            if arrived > connection.heard {
                connection.heard = arrived;
                // Its timer is set, unless it is suspect nevertheless.
                if self.do_what_is_due(index, now).is_none() {
                    return;
                }
            }
        }
        let queued = self.connections[index].output.bytes();
        match self.timers.suspects.judge(index, &progress, queued, patience, now) {
            Verdict::Open(at) => self.connections.arm(index, look_again(at)),
            Verdict::Dead => self.found_silent(index, suspicion, now),
        }
    }

    /// Ends a connection whose peer is dead. What it was not sent is dropped, at a boundary between messages, so that it is
    /// not kept for the time of a closing handshake.
    fn found_silent(&mut self, index: u32, suspicion: &Suspicion, now: Tick) {
        // A sentence for people: who was silent for longer than 49 days was silent for 49 days.
        let silent_ms = suspicion.silent.saturating_mul(Tick::MILLIS);
        let phase = self.connections.phase(index);
        let fault = match suspicion.by {
            Mechanism::StompHeartBeat if phase != Phase::Echo => Fault::HeartBeatTimeout { silent_ms },
            _ => Fault::PongTimeout { silent_ms },
        };
        let ends = self.sessions[index].take_ends();
        if phase.has_session() {
            self.note_fault(index, &fault, now);
        }
        let agreed = self.depart(index, fault.name(), now);
        let dropped = self.connections[index].output.drop_answers();
        self.flush.forget(dropped);
        if phase == Phase::Echo {
            self.found_dead(index, suspicion.by, now);
            self.begin_close(index, fault.close_code(), fault.name(), now);
        } else {
            self.send_fault(index, fault, None, agreed, now);
        }
        self.end_by(index, ends, now);
    }

    fn rhythm(&self, index: u32) -> Rhythm {
        let (to_client, from_client) = self.sessions[index].heart_beats();
        // Only WebSocket has pings.
        let ping = self.env.ping.filter(|_| self.connections[index].framing == Framing::WebSocket);
        Rhythm { beat_out: to_client.ticks(), beat_in: from_client.ticks(), ping }
    }

    /// When a connection was last heard, and what would find its peer dead; `None` if it is gone.
    pub fn liveness(&self, key: ConnKey) -> Option<Liveness> {
        if !self.is_current(key) {
            return None;
        }
        let keepalive = &self.env.limits.keepalive;
        // Others have a deadline that ends them whatever is heard. On `/echo` nobody beats.
        let (beat_in, is_pinged) = if self.is_looked_after(key.index) {
            let Rhythm { beat_in, ping, .. } = self.rhythm(key.index);
            (beat_in.is_some(), beat_in.is_none() && ping.is_some())
        } else {
            (false, false)
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

    fn ping(&mut self, index: u32, activity: Activity, now: Tick) {
        let connection = &mut self.connections[index];
        connection.pinged = now;
        // The one before is still on its way: a peer that does not read must not collect pings.
        let is_behind = activity.is_pinged() && !connection.output.is_empty();
        if activity.is_pinged() {
            self.timers.suspects.ping_again(index, activity.pinged_first);
        }
        if !is_behind {
            self.say(index, |out| ws::encode_ping(&[], out));
            self.counters.ws_pings_sent_total += 1;
        }
    }

    fn beat(&mut self, index: u32) {
        // Unsent bytes will be heard as well as a beat, and a peer that does not read must not collect beats.
        if self.connections[index].output.is_empty() {
            self.say_stomp(index, reply::heart_beat);
            self.counters.heart_beats_sent_total += 1;
        }
    }
}

/// The next tick.
fn next(now: Tick) -> Tick {
    // Saturates where the clock does.
    Tick(now.0.saturating_add(1))
}
