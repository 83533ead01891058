//! Every way in which a connection ends.
//!
//! | who | how | then |
//! |---|---|---|
//! | peer | WebSocket close frame | it is answered, what is queued is sent, the socket is closed |
//! | peer | end of its stream without a close frame | what is queued is sent, the socket is closed |
//! | server | DISCONNECT, ERROR, shutdown ([`super::farewell`]): a close frame | waits for the peer's close frame or end of stream |
//! | server | broken framing: a close frame (RFC 6455 section 7.1.7), or a page | this side's stream ends, input is thrown away until the peer's ends |
//! | peer | vanishes, and the kernel or a ping or a missing heart-beat finds it | reset, or as by the server |
//! | server | the peer does not read, and what it has unsent is past a bound (`unsent`): ERROR, a close frame | as after those; reset if it was ending and has been told, or had said its last word |
//! | either | reset, or no end within `websocket.close_timeout_ms` or `shutdown.timeout_ms` | the socket is reset |
//!
//! Who ends its stream first has the TIME_WAIT (RFC 9293 section 3.6), so that is noted where it happens: when
//! the peer's end is read, and, by asking the kernel for an end that has not been read yet, when this side
//! ends its own. After both close frames that is the server (RFC 6455 section 7.1.1), unless the client was
//! quicker.
//!
//! However it ends, the session leaves its rooms and queues at the first step, so that nobody's message waits
//! for a connection that will not take it.
//!
//! Invariant: after [`Shard::close`] nothing of the connection is left but its index.

use std::io;
use std::net::SocketAddr;

use crate::chat::fault::Fault;
use crate::chat::reply;
use crate::conn::Phase;
use crate::conn::keepalive::Mechanism;
use crate::shard::{Closed, ConnKey, Shard, Silence, Slot};
use crate::tcb::Event as TcbEvent;
use crate::tcb::{Closer, TcbKey};
use crate::time::Tick;
use crate::wire::ws::{self, WsError};

/// RFC 6455 section 7.4.1: the purpose has been fulfilled.
const NORMAL: u16 = 1000;

/// Handshakes for which a shard keeps its memory when there are none.
const HANDSHAKES_KEPT_MAX: usize = 256;

impl Shard {
    /// The peer's stream has ended.
    pub fn receive_end(&mut self, key: ConnKey, now: Tick) {
        if !self.is_current(key) {
            return;
        }
        let index = key.index;
        let connection = &mut self.slots[index as usize].connection;
        connection.has_ended = true;
        connection.ended_first.get_or_insert(Closer::Remote);
        match self.phase(index) {
            Phase::Http | Phase::Refused => self.close(index, false, now),
            Phase::Stomp | Phase::Echo => {
                self.leave_in_order(index, now);
                self.slots[index as usize].connection.enter(Phase::Finishing);
                self.arm_close(index, now);
                self.mark_dirty(index);
            }
            _ => self.mark_dirty(index),
        }
    }

    /// The socket failed; `silence` is what [`Transport::silence`](crate::shard::Transport::silence) says of it.
    pub fn fail(&mut self, key: ConnKey, error: &io::Error, silence: Option<Silence>, now: Tick) {
        if !self.is_current(key) {
            return;
        }
        tracing::debug!(shard = self.id, index = key.index, %error, "connection failed");
        let has_user_timeout = self.limits.keepalive.user_timeout_ms > 0;
        // One that is ending already has been counted, or has nobody who waits for it.
        let phase = self.phase(key.index);
        let silence = silence.filter(|_| phase.is_open() || phase.is_handshake());
        match silence {
            Some(Silence::Probes) => self.found_dead(key.index, Mechanism::TcpKeepAlive, now),
            Some(Silence::Unacknowledged) if has_user_timeout => {
                self.found_dead(key.index, Mechanism::TcpUserTimeout, now);
            }
            Some(Silence::Unacknowledged) => self.found_dead(key.index, Mechanism::TcpRetransmission, now),
            None => {}
        }
        self.close(key.index, true, now);
    }

    /// Counts a dead peer by what found it.
    pub(super) fn found_dead(&mut self, index: u32, by: Mechanism, now: Tick) {
        let silent_ms = now.since(self.slots[index as usize].connection.heard) * Tick::MILLIS;
        tracing::debug!(shard = self.id, index, mechanism = by.name(), silent_ms, "the peer is dead");
        let counters = &mut self.counters;
        *match by {
            Mechanism::TcpKeepAlive => &mut counters.dead_peers_tcp_keep_alive_total,
            Mechanism::TcpUserTimeout => &mut counters.dead_peers_tcp_user_timeout_total,
            Mechanism::TcpRetransmission => &mut counters.dead_peers_tcp_retransmission_total,
            Mechanism::WsPing => &mut counters.dead_peers_ws_ping_total,
            Mechanism::StompHeartBeat => &mut counters.dead_peers_stomp_heart_beat_total,
        } += 1;
    }

    /// The session said DISCONNECT and has its receipt.
    pub(super) fn disconnect(&mut self, index: u32, now: Tick) {
        self.begin_close(index, NORMAL, "", now);
    }

    /// Begins the closing handshake (RFC 6455 section 7.1.2).
    pub(super) fn begin_close(&mut self, index: u32, code: u16, reason: &str, now: Tick) {
        if !self.leave_in_order(index, now) {
            return;
        }
        self.say(index, |out| ws::encode_close(code, reason, out));
        let connection = &mut self.slots[index as usize].connection;
        connection.enter(Phase::Closing);
        if connection.inbound.as_ref().is_some_and(|inbound| inbound.raw.is_some()) {
            // The peer's close frame is behind what waited for backpressure to end.
            self.resumable.push(self.key_of(index));
        }
        if let Some(tcb) = self.slots[index as usize].connection.tcb {
            self.tcb_event(tcb, TcbEvent::LocalClose, now);
        }
        self.arm_close(index, now);
    }

    /// The peer's close frame has come.
    pub(super) fn peer_closes(&mut self, index: u32, code: Option<u16>, now: Tick) {
        if self.phase(index) != Phase::Closing && self.leave_in_order(index, now) {
            // RFC 6455 section 5.5.1: the answer typically echoes the code.
            self.say(index, |out| ws::encode_close(code.unwrap_or(NORMAL), "", out));
            if let Some(tcb) = self.slots[index as usize].connection.tcb {
                self.tcb_event(tcb, TcbEvent::RemoteClose, now);
            }
        }
        self.slots[index as usize].connection.enter(Phase::Finishing);
        self.arm_close(index, now);
        self.mark_dirty(index);
    }

    /// The framing is broken: nothing after it can be understood.
    pub(super) fn ws_fault(&mut self, index: u32, error: WsError, now: Tick) {
        let code = error.close_code();
        self.counters.bounds_refused_total += u64::from(code == 1009);
        if self.phase(index) != Phase::Closing {
            self.begin_close(index, code, error.reason(), now);
        }
        self.slots[index as usize].connection.enter(Phase::Lingering);
        self.mark_dirty(index);
    }

    /// Ends a session with an ERROR and a close.
    pub(super) fn fault(&mut self, index: u32, fault: Fault, receipt: Option<&str>, now: Tick) {
        if self.phase(index) != Phase::Stomp {
            return;
        }
        tracing::debug!(shard = self.id, index, fault = fault.name(), "session ended: {fault}");
        self.leave_all(index, now);
        // This ERROR says as well that messages may be missing.
        self.counters.slow_consumers_total += u64::from(self.unsent.take_overdrawn(index).is_some());
        let version = self.slots[index as usize].session.version_or_newest();
        self.say(index, |out| reply::error(version, &fault, receipt, out));
        self.counters.errors_sent_total += 1;
        self.counters.bounds_refused_total += u64::from(fault.is_input_bound());
        match fault {
            Fault::TooManyRooms { .. } => self.counters.rooms_refused_total += 1,
            Fault::HeartBeatTimeout { .. } => self.found_dead(index, Mechanism::StompHeartBeat, now),
            Fault::PongTimeout { .. } => self.found_dead(index, Mechanism::WsPing, now),
            Fault::ConnectTimeout { .. } | Fault::ConnectUnfinished { .. } => {
                self.counters.handshake_timeouts_total += 1
            }
            _ => {}
        }
        self.begin_close(index, fault.close_code(), fault.name(), now);
    }

    /// The first step of an end in order. `false` if it cannot be one, as messages are missing: the session has been cut
    /// off.
    fn leave_in_order(&mut self, index: u32, now: Tick) -> bool {
        self.leave_all(index, now);
        match self.unsent.take_overdrawn(index) {
            Some(fault) => {
                self.cut_off(index, fault, now);
                false
            }
            None => true,
        }
    }

    /// Ends the sessions that were found past a bound within a fan-out.
    pub(super) fn cut_off_overdrawn(&mut self, now: Tick) {
        while let Some((index, fault)) = self.unsent.take_any_overdrawn() {
            self.cut_off(index, fault, now);
        }
    }

    /// Cuts a slow consumer off: what it has not been sent is dropped, at a boundary between messages.
    pub(super) fn cut_off(&mut self, index: u32, fault: Fault, now: Tick) {
        let phase = self.phase(index);
        if phase == Phase::Closed {
            return;
        }
        self.counters.slow_consumers_total += 1;
        // First: what its rooms still owe it is put into the queue, and is dropped with the rest. Behind what was
        // dropped it would be a gap.
        self.leave_all(index, now);
        self.unsent.take_overdrawn(index);
        let Slot { connection, session } = &mut self.slots[index as usize];
        self.unsent.drop_of(connection);
        match phase {
            Phase::Stomp => self.fault(index, fault, None, now),
            Phase::Echo => self.begin_close(index, fault.close_code(), fault.name(), now),
            // Its last answers and its close frame were behind what is dropped.
            Phase::Closing => {
                connection.enter(Phase::Lingering);
                if let Some(version) = session.version() {
                    self.say(index, |out| reply::error(version, &fault, None, out));
                    self.counters.errors_sent_total += 1;
                }
                self.say(index, |out| ws::encode_close(fault.close_code(), fault.name(), out));
            }
            // It has said its last word, or has been told.
            _ => self.close(index, true, now),
        }
    }

    /// The opening handshake is over, whatever came of it.
    pub(super) fn leave_handshake(&mut self, index: u32) {
        debug_assert!(self.phase(index).is_handshake());
        self.handshakes -= 1;
        let source = self.sources.remove(&index).expect("every handshake has a source");
        self.pending.end(source);
        if self.sources.is_empty() {
            // A crowd has come in: what its handshakes took goes.
            self.sources.shrink_to(HANDSHAKES_KEPT_MAX);
        }
    }

    /// The deadline of every phase that waits for the end.
    pub(super) fn arm_close(&mut self, index: u32, now: Tick) {
        self.wheel.arm(index, now.after_ms(u64::from(self.limits.websocket.close_timeout_ms)));
    }

    pub(super) fn tcb_event(&mut self, tcb: TcbKey, event: TcbEvent, now: Tick) {
        // The table refuses an event only for a block that another connection with the same 4-tuple has
        // taken over, and then this connection is dead.
        if let Err(error) = self.tcbs.transition(tcb, event, now) {
            tracing::debug!(shard = self.id, ?event, ?error, "stale control block");
        }
    }

    /// The peer's address; `None` for a connection whose control block was taken over.
    pub(super) fn peer(&self, index: u32) -> Option<SocketAddr> {
        match self.slots[index as usize].connection.tcb {
            Some(tcb) => self.tcbs.get(tcb).map(|view| view.tuple.remote()),
            None => self.refused_peers.get(&index).copied(),
        }
    }

    /// The end: gives back all that the connection holds, and lists its socket to be closed.
    pub(super) fn close(&mut self, index: u32, reset: bool, now: Tick) {
        if self.phase(index) == Phase::Closed {
            return;
        }
        self.leave_all(index, now);
        if self.phase(index).is_handshake() {
            self.leave_handshake(index);
        }
        let connection = &mut self.slots[index as usize].connection;
        connection.enter(Phase::Closed);
        let inbound = connection.inbound.take();
        let tcb = connection.tcb;
        // Nothing known of an end: closing the socket makes this side's the first.
        let closer = if reset { Closer::Reset } else { connection.ended_first.unwrap_or(Closer::Local) };
        self.unsent.subtract(connection.outbound.clear());
        self.unsent.take_overdrawn(index);
        if let Some(inbound) = inbound {
            inbound.release(&mut self.pool);
        }
        self.wheel.cancel(index);
        match closer {
            Closer::Reset => self.counters.resets_total += 1,
            Closer::Remote => self.counters.closed_by_peer_total += 1,
            Closer::Local => self.counters.closed_by_server_total += 1,
        }
        match tcb {
            Some(tcb) => {
                self.tcbs.release(tcb, closer, now);
            }
            None => {
                self.refused_peers.remove(&index);
            }
        }
        self.closed.push(Closed { index, reset });
    }
}
