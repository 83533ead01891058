//! Every way in which a connection ends.
//!
//! | who | how | then |
//! |---|---|---|
//! | peer | WebSocket close frame | it is answered, answers that are queued are sent, the socket is closed |
//! | peer | end of its stream without a close frame | answers that are queued are sent, the socket is closed |
//! | server | DISCONNECT, ERROR, shutdown ([`super::farewell`]): a close frame | waits for the peer's close frame or end of stream |
//! | server | the same where STOMP frames are bare: the end of its stream | waits for the peer's end of stream |
//! | server | broken framing: a close frame (RFC 6455 section 7.1.7), or a page | this side's stream ends, input is thrown away until the peer's ends |
//! | peer | vanishes, and the kernel or a ping or a missing heart-beat finds it | reset, or as by the server |
//! | server | the peer does not read, and what it has unsent is past a bound: ERROR, a close frame | as after those; reset if it was ending and has been told, or had said its last word |
//! | either | reset, or no end within `websocket.close_timeout_ms` or `shutdown.timeout_ms` | the socket is reset |
//!
//! Who ends its stream first has the TIME_WAIT (RFC 9293 section 3.6), so that is noted where it happens: when
//! the peer's end is read, and, by asking the kernel for an end that has not been read yet, when this side
//! ends its own. After both close frames that is the server (RFC 6455 section 7.1.1), unless the client was
//! quicker.
//!
//! What the peer does, and what a frame of it causes, is a value first ([`End`]): a session that is due receipts has them before
//! it ends ([`Shard::end`](crate::shard::Shard)). Verdicts of the server do not wait.
//!
//! However it ends, the session leaves its rooms and queues at the first step, and what it is owed is dropped, but for the rest
//! of a message that is sent in part. No step calls an earlier one.
//!
//! Invariant: after [`Shard::close`] nothing of the connection is left but its index.

use std::io;
use std::net::SocketAddr;

use crate::conn::Phase;
use crate::conn::keepalive::Mechanism;
use crate::conn::phase::Event;
use crate::conn::transport::Silence;
use crate::message::fault::Fault;
use crate::message::origin::ConnKey;
use crate::message::reply;
use crate::session::End;
use crate::shard::Shard;
use crate::tcb::Closer;
use crate::tcb::Event as TcbEvent;
use crate::time::Tick;
use crate::wire::framing::Framing;
use crate::wire::stomp::Version;
use crate::wire::ws::{self, WsError};

/// RFC 6455 section 7.4.1: the purpose has been fulfilled.
const NORMAL: u16 = 1000;

impl Shard {
    /// The peer's stream has ended.
    pub fn receive_end(&mut self, key: ConnKey, now: Tick) {
        if !self.is_current(key) {
            return;
        }
        let index = key.index;
        let connection = &mut self.connections[index];
        connection.has_ended = true;
        connection.ended_first.get_or_insert(Closer::Remote);
        match connection.phase {
            Phase::Opening | Phase::Refused => self.close(index, false, now),
            phase if phase.is_established() => self.end(index, End::StreamEnded, now),
            _ => self.mark(index),
        }
    }

    // ---- a session's end, behind its receipts ----

    /// Ends a WebSocket in this way. A session that is due receipts has them first: it takes no more frames, and ends when
    /// what it waits for is done, or after `websocket.close_timeout_ms`. One that said DISCONNECT waits as long as its
    /// client does.
    pub(super) fn end(&mut self, index: u32, end: End, now: Tick) {
        if !self.waits_to_end(index) {
            return self.end_now_by(index, end, now);
        }
        let is_patient = end == End::Disconnect;
        let has_deadline = self.has_deadline(index);
        if self.sessions[index].end_by(end) {
            self.await_receipts(index, !is_patient && !has_deadline, now);
        }
    }

    pub(super) fn waits_to_end(&self, index: u32) -> bool {
        self.connections.phase(index).has_session() && self.sessions[index].is_due_receipts()
    }

    /// Whether the time runs that receipts have.
    pub(super) fn has_deadline(&self, index: u32) -> bool {
        self.connections.phase(index) == Phase::Concluding && !self.sessions[index].is_disconnecting()
    }

    /// It stays in its rooms, and says nothing more: what only its frames could settle or commit is given up.
    pub(super) fn await_receipts(&mut self, index: u32, gets_deadline: bool, now: Tick) {
        self.pass(index, Event::EndDecided);
        self.leave_queues(index, now);
        self.sessions.abort_all(index);
        if gets_deadline {
            self.arm_close(index, now);
        }
    }

    /// Ends a session that has the receipts that it was due.
    pub(super) fn conclude_if_done(&mut self, index: u32, now: Tick) {
        if !self.sessions[index].is_due_receipts() {
            self.conclude(index, now);
        }
    }

    /// Ends a session as it was decided, whatever receipts it is still due.
    pub(super) fn conclude(&mut self, index: u32, now: Tick) {
        let ends = self.sessions[index].take_ends();
        self.end_by(index, ends, now);
    }

    /// Ends a WebSocket in these ways, one after the other: each finds what those before have left.
    pub(super) fn end_by(&mut self, index: u32, ends: Vec<End>, now: Tick) {
        for end in ends {
            self.end_now_by(index, end, now);
        }
    }

    fn end_now_by(&mut self, index: u32, end: End, now: Tick) {
        match end {
            End::Disconnect => self.begin_close(index, NORMAL, "", now),
            End::Fault(fault, receipt) => self.fault(index, fault, receipt.as_deref(), now),
            End::Broken(error) => self.break_off(index, error, now),
            End::PeerClosed(code) => self.answer_close(index, code, now),
            End::StreamEnded => self.follow_end(index, now),
            End::Goodbye(code, reason) => self.begin_close(index, code, reason, now),
        }
    }

    // ---- ways to end, at once ----

    /// The peer says no more: what it has not been sent yet is sent.
    fn follow_end(&mut self, index: u32, now: Tick) {
        if self.connections.phase(index).is_established() {
            self.depart(index, "ended", now);
            self.pass(index, Event::EndReceived);
            self.arm_close(index, now);
        }
        self.mark(index);
    }

    /// The socket failed; `silence` is what [`Transport::silence`](crate::conn::transport::Transport::silence) says of it.
    pub fn fail(&mut self, key: ConnKey, error: &io::Error, silence: Option<Silence>, now: Tick) {
        if !self.is_current(key) {
            return;
        }
        tracing::debug!(shard = self.env.id, index = key.index, %error, "connection failed");
        let has_user_timeout = self.env.limits.keepalive.user_timeout_ms > 0;
        // One that is ending already has been counted, or has nobody who waits for it.
        let phase = self.connections.phase(key.index);
        let silence = silence.filter(|_| phase.is_established() || phase.is_handshake());
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
        let silent = now.since(self.connections[index].heard);
        // One that nothing looks after may have been silent for years.
        let silent_ms = Tick(silent).as_millis();
        tracing::debug!(shard = self.env.id, index, mechanism = by.name(), silent_ms, "the peer is dead");
        let counters = &mut self.counters;
        *match by {
            Mechanism::TcpKeepAlive => &mut counters.dead_peers_tcp_keep_alive_total,
            Mechanism::TcpUserTimeout => &mut counters.dead_peers_tcp_user_timeout_total,
            Mechanism::TcpRetransmission => &mut counters.dead_peers_tcp_retransmission_total,
            Mechanism::WsPing => &mut counters.dead_peers_ws_ping_total,
            Mechanism::StompHeartBeat => &mut counters.dead_peers_stomp_heart_beat_total,
        } += 1;
    }

    /// Begins the closing handshake (RFC 6455 section 7.1.2), unless it has begun.
    pub(super) fn begin_close(&mut self, index: u32, code: u16, reason: &str, now: Tick) {
        if !self.connections.phase(index).is_established() {
            return;
        }
        self.depart(index, if reason.is_empty() { "disconnect" } else { reason }, now);
        if self.connections[index].framing == Framing::Bare && !reason.is_empty() {
            // No close frame says it.
            self.say(index, |out| reply::end(reason, None, out));
        }
        self.send_close(index, code, reason, now);
    }

    /// Sends the close frame of a session that has left everything, or ends the stream that knows none.
    fn send_close(&mut self, index: u32, code: u16, reason: &str, now: Tick) {
        match self.connections[index].framing {
            Framing::WebSocket => {
                self.say(index, |out| ws::encode_close(code, reason, out));
                self.pass(index, Event::CloseSent);
            }
            Framing::Bare => {
                self.pass(index, Event::LastWord);
                self.mark(index);
            }
        }
        self.connections.tcb_event(index, TcbEvent::LocalClose, now);
        self.arm_close(index, now);
    }

    /// The peer's close frame is answered.
    fn answer_close(&mut self, index: u32, code: Option<u16>, now: Tick) {
        if self.connections.phase(index).is_established() {
            self.depart(index, "closed", now);
            // RFC 6455 section 5.5.1: the answer typically echoes the code.
            self.say(index, |out| ws::encode_close(code.unwrap_or(NORMAL), "", out));
            self.connections.tcb_event(index, TcbEvent::RemoteClose, now);
        }
        self.pass(index, Event::CloseReceived);
        self.arm_close(index, now);
        self.mark(index);
    }

    /// The framing is broken: nothing after it can be understood.
    fn break_off(&mut self, index: u32, error: WsError, now: Tick) {
        let code = error.close_code();
        self.counters.bounds_refused_total += u64::from(code == 1009);
        self.begin_close(index, code, error.reason(), now);
        self.pass(index, Event::LastWord);
        self.mark(index);
    }

    /// Ends a session with an ERROR and a close. One that was to end in other ways ends by this first.
    pub(super) fn fault(&mut self, index: u32, fault: Fault, receipt: Option<&str>, now: Tick) {
        if !self.connections.phase(index).has_session() {
            return;
        }
        self.note_fault(index, &fault, now);
        self.end_by_fault(index, fault, receipt, now);
    }

    fn end_by_fault(&mut self, index: u32, fault: Fault, receipt: Option<&str>, now: Tick) {
        let ends = self.sessions[index].take_ends();
        let agreed = self.depart(index, fault.name(), now);
        self.send_fault(index, fault, receipt, agreed, now);
        self.end_by(index, ends, now);
    }

    /// Sends the ERROR and the close frame of a session that has left everything, in the version that it had agreed to.
    pub(super) fn send_fault(
        &mut self,
        index: u32,
        fault: Fault,
        receipt: Option<&str>,
        agreed: Option<Version>,
        now: Tick,
    ) {
        self.say_stomp(index, |out| reply::error(agreed, &fault, receipt, out));
        self.counters.errors_sent_total += 1;
        self.count_fault(&fault);
        match fault {
            Fault::HeartBeatTimeout { .. } => self.found_dead(index, Mechanism::StompHeartBeat, now),
            Fault::PongTimeout { .. } => self.found_dead(index, Mechanism::WsPing, now),
            Fault::ConnectTimeout { .. } | Fault::ConnectUnfinished { .. } => {
                self.counters.handshake_timeouts_total += 1
            }
            _ => {}
        }
        if self.connections.phase(index).is_established() {
            self.send_close(index, fault.close_code(), fault.name(), now);
        }
    }

    /// Cuts a slow consumer off: what it has not been sent is dropped, at a boundary between messages.
    pub(super) fn cut_off(&mut self, index: u32, fault: Fault, now: Tick) {
        let phase = self.connections.phase(index);
        if phase == Phase::Closed {
            return;
        }
        self.counters.slow_consumers_total += 1;
        if phase.has_session() {
            self.note_fault(index, &fault, now);
        }
        let ends = self.sessions[index].take_ends();
        let agreed = self.depart(index, fault.name(), now);
        let dropped = self.connections[index].output.drop_answers();
        self.flush.forget(dropped);
        match phase {
            Phase::Stomp | Phase::Concluding => self.send_fault(index, fault, None, agreed, now),
            Phase::Echo => self.begin_close(index, fault.close_code(), fault.name(), now),
            // Its last answers and its close frame were behind what is dropped.
            Phase::Closing => {
                self.pass(index, Event::LastWord);
                if let Some(version) = self.sessions[index].version() {
                    self.say_stomp(index, |out| reply::error(Some(version), &fault, None, out));
                    self.counters.errors_sent_total += 1;
                }
                self.say(index, |out| ws::encode_close(fault.close_code(), fault.name(), out));
            }
            // It has said its last word, or has been told.
            _ => self.close(index, true, now),
        }
        self.end_by(index, ends, now);
    }

    /// Passes to the phase that follows. What an ending connection says is not held back: its close frame is waited for.
    fn pass(&mut self, index: u32, event: Event) {
        let key = self.connections.key_of(index);
        let connection = &mut self.connections[index];
        connection.pass(event);
        self.holds.release_all(key, connection);
    }

    /// The deadline of every phase that waits for the end.
    pub(super) fn arm_close(&mut self, index: u32, now: Tick) {
        self.connections.arm(index, now.after_ms(u64::from(self.env.limits.websocket.close_timeout_ms)));
    }

    /// The peer's address; `None` for a connection whose control block was taken over.
    pub(super) fn peer(&self, index: u32) -> Option<SocketAddr> {
        self.connections.peer(index)
    }

    /// The flush is to look at this connection.
    fn mark(&mut self, index: u32) {
        self.flush.mark(index, &mut self.connections[index]);
    }

    /// The end: gives back all that the connection holds, and lists its socket to be closed.
    pub(super) fn close(&mut self, index: u32, reset: bool, now: Tick) {
        if self.connections.phase(index) == Phase::Closed {
            return;
        }
        // First: nothing more is sent, not even the rest of a message.
        self.drop_debts(index, false);
        self.depart(index, if reset { "reset" } else { "closed" }, now);
        let closed = self.connections.close(index, reset, &mut self.inputs.pool, now);
        let Some((closer, dropped)) = closed else { return };
        self.flush.end(index, dropped);
        self.addresses.leave(index);
        self.inputs.end(index);
        self.timers.forget(index);
        self.behind.forget(index);
        match closer {
            Closer::Reset => self.counters.resets_total += 1,
            Closer::Remote => self.counters.closed_by_peer_total += 1,
            Closer::Local => self.counters.closed_by_server_total += 1,
        }
    }
}
