//! From bytes to frames: the HTTP head once, then WebSocket frames, then STOMP frames.
//!
//! Everything complete is parsed where the reactor read it; only what is incomplete is copied into a lease.
//! Under backpressure the rest of the input waits in a lease as well, and [`Shard::resume`] takes it up.
//!
//! Invariant: bytes are taken in the order in which they came, also across a stall.

use crate::buf::PoolExhausted;
use crate::chat::fault::Fault;
use crate::chat::session::Context;
use crate::conn::Phase;
use crate::conn::handshake::{self, Route};
use crate::conn::inbound::{Assembly, Inbound};
use crate::shard::proxied::Front;
use crate::shard::{ConnKey, Shard};
use crate::tcb::Event as TcbEvent;
use crate::time::Tick;
use crate::wire::http::{self, HttpError, Upgrade};
use crate::wire::stomp::{self, StompError, StompFrame};
use crate::wire::ws;

impl Shard {
    /// Takes in bytes that were read. They are unmasked in place.
    pub fn receive(&mut self, key: ConnKey, bytes: &mut [u8], now: Tick) {
        if !self.is_current(key) {
            return;
        }
        self.counters.bytes_received_total += bytes.len() as u64;
        self.slots[key.index as usize].connection.heard = now;
        self.input(key.index, bytes, now);
    }

    fn input(&mut self, index: u32, bytes: &mut [u8], now: Tick) {
        match self.phase(index) {
            Phase::Http | Phase::Refused => self.http_input(index, bytes, now),
            Phase::Stomp | Phase::Echo | Phase::Closing => self.ws_input(index, bytes, now),
            Phase::Finishing | Phase::Lingering | Phase::Closed => {}
        }
    }

    /// The connection's incomplete input, or a clean one.
    fn take_inbound(&mut self, index: u32) -> Box<Inbound> {
        let inbound = self.slots[index as usize].connection.inbound.take();
        inbound.or_else(|| self.spare.take()).unwrap_or_default()
    }

    /// Keeps incomplete input with its connection, and nothing if it is complete.
    fn put_inbound(&mut self, index: u32, inbound: Box<Inbound>) {
        if self.phase(index) == Phase::Closed {
            inbound.release(&mut self.pool);
        } else if inbound.is_clean() {
            self.spare = Some(inbound);
        } else {
            self.slots[index as usize].connection.inbound = Some(inbound);
        }
    }

    fn buffers_exhausted(&mut self, index: u32, now: Tick) {
        self.counters.inbound_leases_exhausted_total += 1;
        let max = self.limits.buffers.reactor_bytes_max;
        match self.phase(index) {
            Phase::Stomp => self.fault(index, Fault::BuffersExhausted { max }, None, now),
            _ => self.close(index, true, now),
        }
    }

    // ---- HTTP ----

    fn http_input(&mut self, index: u32, bytes: &mut [u8], now: Tick) {
        let mut inbound = self.take_inbound(index);
        let Some(mut lease) = inbound.raw.take() else {
            // Nearly always the head comes whole.
            match self.http_head(index, bytes, now) {
                Some(head) => {
                    self.put_inbound(index, inbound);
                    self.input(index, &mut bytes[head..], now);
                }
                None => self.keep_raw(index, inbound, bytes, now),
            }
            return;
        };
        let mut held = Some(lease);
        let kept = self.pool.append(&mut held, bytes);
        let Some(whole) = held else { return self.put_inbound(index, inbound) };
        lease = whole;
        if kept.is_err() {
            inbound.raw = Some(lease);
            self.put_inbound(index, inbound);
            return self.buffers_exhausted(index, now);
        }
        match self.http_head(index, &lease, now) {
            Some(head) => {
                self.put_inbound(index, inbound);
                lease.consume(head);
                self.input(index, &mut lease, now);
                self.pool.release(lease);
            }
            None => {
                inbound.raw = Some(lease);
                self.put_inbound(index, inbound);
            }
        }
    }

    fn keep_raw(&mut self, index: u32, mut inbound: Box<Inbound>, bytes: &[u8], now: Tick) {
        let kept = inbound.keep_raw(bytes, &mut self.pool);
        self.put_inbound(index, inbound);
        if let Err(PoolExhausted { .. }) = kept {
            self.buffers_exhausted(index, now);
        }
    }

    /// Reads a request head and answers it. Returns its length, or `None` while it is incomplete.
    fn http_head(&mut self, index: u32, bytes: &[u8], now: Tick) -> Option<usize> {
        let (front, client) = match self.front(index, bytes, now) {
            Front::Passed { bytes, client } => (bytes, client),
            Front::Need => return None,
            Front::Refused(error) => {
                self.http_refuse(index, &error, None, false, now);
                return Some(bytes.len());
            }
            Front::TooMany => {
                self.close(index, true, now);
                return Some(bytes.len());
            }
        };
        let mut scratch = http::Scratch::default();
        let limits = &self.limits.handshake;
        let (request, head) = match http::parse(&bytes[front..], limits, &mut scratch) {
            Ok(Some((request, head))) => (request, front + head),
            Ok(None) => return None,
            Err(error) => {
                self.http_refuse(index, &error, None, false, now);
                return Some(bytes.len());
            }
        };
        self.counters.http_requests_total += 1;
        let is_head = request.method == "HEAD";
        match handshake::route(&request, self.is_echo_enabled) {
            Err(error) => self.http_refuse(index, &error, None, is_head, now),
            Ok(Route::Site) => {
                let peer = client.or_else(|| self.peer(index));
                let mut page = Vec::new();
                match peer {
                    Some(peer) => self.site.answer(&request, peer, &mut page),
                    None => return Some(head),
                }
                self.leave_handshake(index);
                self.push_vec(index, page);
                self.slots[index as usize].connection.enter(Phase::Lingering);
                self.arm_close(index, now);
            }
            Ok(_) if self.farewell.is_some() => {
                let retry_after_s = Some(self.limits.handshake.retry_after_s);
                self.http_refuse(index, &HttpError::SHUTTING_DOWN, retry_after_s, is_head, now);
            }
            Ok(_) if self.phase(index) == Phase::Refused => {
                let retry_after_s = Some(self.limits.handshake.retry_after_s);
                self.http_refuse(index, &HttpError::TABLE_FULL, retry_after_s, is_head, now);
            }
            Ok(Route::Stomp(upgrade)) => self.upgrade(index, &upgrade, Phase::Stomp, now),
            Ok(Route::Echo(upgrade)) => self.upgrade(index, &upgrade, Phase::Echo, now),
        }
        Some(head)
    }

    /// Answers with an error and ends.
    pub(super) fn http_refuse(
        &mut self,
        index: u32,
        error: &HttpError,
        retry_after_s: Option<u32>,
        is_head: bool,
        now: Tick,
    ) {
        self.counters.handshakes_failed_total += 1;
        self.leave_handshake(index);
        self.say(index, |out| http::write_error(error, retry_after_s, is_head, out));
        self.slots[index as usize].connection.enter(Phase::Lingering);
        self.arm_close(index, now);
    }

    fn upgrade(&mut self, index: u32, upgrade: &Upgrade, phase: Phase, now: Tick) {
        self.counters.upgrades_total += 1;
        self.leave_handshake(index);
        self.say(index, |out| http::write_upgrade(upgrade, out));
        let connection = &mut self.slots[index as usize].connection;
        connection.enter(phase);
        if let Some(tcb) = connection.tcb {
            self.tcb_event(tcb, TcbEvent::Upgraded, now);
        }
        match phase {
            Phase::Stomp => {
                self.wheel.arm(index, now.after_ms(u64::from(self.limits.handshake.connect_timeout_ms)))
            }
            _ => self.keep_alive(index, now),
        }
    }

    // ---- WebSocket ----

    fn ws_limits(&self, index: u32) -> ws::Limits {
        let (frame, message, fragments) = match self.phase(index) {
            Phase::Echo => {
                let echo = &self.limits.echo;
                (echo.frame_bytes_max, echo.message_bytes_max, echo.fragments_max)
            }
            _ => {
                let websocket = &self.limits.websocket;
                (websocket.frame_bytes_max, websocket.message_bytes_max, websocket.fragments_max)
            }
        };
        ws::Limits { frame_bytes_max: frame, message_bytes_max: message, fragments_max: fragments }
    }

    fn ws_input(&mut self, index: u32, bytes: &mut [u8], now: Tick) {
        let mut inbound = self.take_inbound(index);
        if inbound.raw.is_some() {
            // What came before still waits for backpressure to end.
            return self.keep_raw(index, inbound, bytes, now);
        }
        let limits = self.ws_limits(index);
        let mut at = 0;
        while at < bytes.len() {
            let connection = &self.slots[index as usize].connection;
            if connection.phase.is_open() && !connection.may_resume() {
                return self.keep_raw(index, inbound, &bytes[at..], now);
            }
            if !matches!(connection.phase, Phase::Stomp | Phase::Echo | Phase::Closing) {
                break;
            }
            let Inbound { ws, assembly, .. } = &mut *inbound;
            let event = match ws.decode(&mut bytes[at..], &limits) {
                Ok((used, event)) => {
                    at += used;
                    event
                }
                Err(error) => {
                    self.catch_up(now);
                    self.ws_fault(index, error, now);
                    break;
                }
            };
            match event {
                None => {}
                Some(ws::Event::Data { kind, payload, start, end }) => {
                    self.counters.ws_messages_received_total += u64::from(end);
                    match self.phase(index) {
                        // Clients put each frame into a message of its own.
                        Phase::Stomp
                            if start && assembly.stomp.awaits_nul() && stomp::begins_with_head(payload) =>
                        {
                            self.catch_up(now);
                            self.fault(index, StompError::NulForgotten.into(), None, now);
                        }
                        Phase::Stomp => self.stomp_payload(index, assembly, payload, now),
                        Phase::Echo => {
                            if start {
                                assembly.kind = kind;
                            }
                            self.echo_payload(index, assembly, payload, end, now);
                        }
                        // What comes before the peer's close frame is not for us any more.
                        _ => {}
                    }
                }
                Some(ws::Event::Ping(payload)) if self.phase(index).is_open() => {
                    self.say(index, |out| ws::encode_pong(payload, out));
                }
                Some(ws::Event::Ping(_) | ws::Event::Pong(_)) => {}
                Some(ws::Event::Close(close)) => {
                    let code = close.map(|(code, _)| code);
                    self.catch_up(now);
                    self.peer_closes(index, code, now);
                    break;
                }
            }
        }
        self.put_inbound(index, inbound);
    }

    fn echo_payload(&mut self, index: u32, assembly: &mut Assembly, payload: &[u8], end: bool, now: Tick) {
        let whole = if end && assembly.payload.is_none() {
            let mut answer = Vec::with_capacity(payload.len() + 10);
            ws::encode_message(assembly.kind, payload, &mut answer);
            Some(answer)
        } else {
            if assembly.keep(payload, &mut self.pool).is_err() {
                return self.buffers_exhausted(index, now);
            }
            match assembly.payload.take() {
                Some(lease) if end => {
                    let mut answer = Vec::with_capacity(lease.len() + 10);
                    ws::encode_message(assembly.kind, &lease, &mut answer);
                    self.pool.release(lease);
                    Some(answer)
                }
                lease => {
                    assembly.payload = lease;
                    None
                }
            }
        };
        if let Some(answer) = whole {
            self.push_vec(index, answer);
        }
    }

    // ---- STOMP ----

    fn stomp_payload(&mut self, index: u32, assembly: &mut Assembly, payload: &[u8], now: Tick) {
        if assembly.payload.is_none() {
            let used = self.stomp_frames(index, &mut assembly.stomp, payload, now);
            if assembly.keep(&payload[used..], &mut self.pool).is_err() {
                self.buffers_exhausted(index, now);
            }
            return;
        }
        if assembly.keep(payload, &mut self.pool).is_err() {
            return self.buffers_exhausted(index, now);
        }
        self.stomp_held(index, assembly, now);
    }

    /// Parses what is held in the lease.
    fn stomp_held(&mut self, index: u32, assembly: &mut Assembly, now: Tick) {
        let Some(mut lease) = assembly.payload.take() else { return };
        let used = self.stomp_frames(index, &mut assembly.stomp, &lease, now);
        lease.consume(used);
        assembly.payload = Some(lease);
        self.pool.trim(&mut assembly.payload);
    }

    /// Parses and handles frames until there is no complete one or the session can take no more. Returns how
    /// many bytes are done with.
    fn stomp_frames(&mut self, index: u32, decoder: &mut stomp::Decoder, bytes: &[u8], now: Tick) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let slot = &self.slots[index as usize];
            if slot.connection.phase != Phase::Stomp {
                return bytes.len();
            }
            if !slot.connection.may_resume() {
                break;
            }
            match decoder.decode(&bytes[at..], slot.session.version_or_newest(), &self.limits.stomp) {
                Ok(stomp::Step::Need) => break,
                Ok(stomp::Step::HeartBeat { consumed }) => {
                    self.counters.heart_beats_received_total += 1;
                    at += consumed;
                }
                Ok(stomp::Step::Frame { stomp_frame, consumed }) => {
                    let changes_members = matches!(
                        stomp_frame.command,
                        stomp::Command::Subscribe | stomp::Command::Unsubscribe
                    );
                    let is_sealed_out =
                        changes_members && self.has_sealed_enough() && !std::mem::take(&mut self.is_one_due);
                    if is_sealed_out || (changes_members && self.must_flush_first(now)) {
                        self.put_off(index, false);
                        break;
                    }
                    self.stomp_frame(index, &stomp_frame, now);
                    at += consumed;
                }
                Err(error) => {
                    self.catch_up(now);
                    self.fault(index, error.into(), None, now);
                    return bytes.len();
                }
            }
        }
        at
    }

    fn stomp_frame(&mut self, index: u32, stomp_frame: &StompFrame<'_>, now: Tick) {
        self.counters.stomp_frames_received_total += 1;
        let Shard { limits, forms, names, commands, slots, transaction_bytes, .. } = self;
        let mut context = Context { limits: &limits.stomp, forms, names, commands };
        let session = &mut slots[index as usize].session;
        let before = session.transaction_bytes();
        let handled = session.handle(stomp_frame, &mut context);
        let after = session.transaction_bytes();
        *transaction_bytes = *transaction_bytes - before + after;
        let max = limits.stomp.reactor_transaction_bytes_max;
        let handled = match handled {
            Ok(()) if after > before && *transaction_bytes > max => Err(Fault::TransactionsExhausted { max }),
            handled => handled,
        };
        match handled {
            Ok(()) => self.apply(index, now),
            Err(fault) => {
                self.commands.clear();
                self.catch_up(now);
                let receipt = stomp_frame.header("receipt");
                let fault = fault.blame_blanks(|header| stomp_frame.header(header));
                self.fault(index, fault, receipt.as_deref(), now);
            }
        }
    }

    // ---- backpressure ----

    /// Lets connections go on whose backpressure has ended, with the input that waited.
    pub(super) fn resume(&mut self, now: Tick) {
        let mut resumable = std::mem::take(&mut self.resumable);
        for key in resumable.drain(..) {
            if !self.is_current(key) {
                continue;
            }
            // A closing connection's input is not held back: its close frame is waited for.
            let is_held_back = !self.slots[key.index as usize].connection.may_resume();
            match self.phase(key.index) {
                Phase::Closing => {}
                phase if phase.is_open() && !is_held_back => {}
                _ => continue,
            }
            // While its input was held back nothing could be heard.
            self.slots[key.index as usize].connection.heard = now;
            self.resume_one(key.index, now);
            if self.wants_read(key) {
                self.resumed.push(key);
            }
        }
        if self.resumable.is_empty() {
            self.resumable = resumable;
        }
    }

    fn resume_one(&mut self, index: u32, now: Tick) {
        let Some(mut inbound) = self.slots[index as usize].connection.inbound.take() else { return };
        if self.phase(index) == Phase::Stomp {
            self.stomp_held(index, &mut inbound.assembly, now);
        }
        let raw = inbound.raw.take();
        self.put_inbound(index, inbound);
        if let Some(mut raw) = raw {
            self.input(index, &mut raw, now);
            self.pool.release(raw);
        }
    }
}
