//! From bytes to frames: the HTTP head once, then WebSocket frames, then STOMP frames; or STOMP frames alone.
//!
//! Everything complete is parsed where the reactor read it; only what is incomplete is copied into a lease.
//! While a connection is held the rest of its input waits in a lease as well, and [`Shard::resume`] takes it up.
//!
//! Invariant: bytes are taken in the order in which they came, also when the connection was held.

use crate::buf::PoolExhausted;
use crate::conn::Phase;
use crate::conn::handshake::{self, Route, Speaker};
use crate::conn::hold::Reason;
use crate::conn::inbound::{Assembly, Inbound};
use crate::conn::phase::Event;
use crate::conn::table::Connections;
use crate::mesh::request::Authenticator;
use crate::message::fault::Fault;
use crate::message::origin::ConnKey;
use crate::message::reply;
use crate::session::table::Terms;
use crate::session::{End, Whence};
use crate::shard::Shard;
use crate::shard::proxied::Front;
use crate::tcb::{Event as TcbEvent, FourTuple};
use crate::time::Tick;
use crate::wire::framing::Framing;
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
        self.connections[key.index].heard = now;
        self.input(key.index, bytes, now);
    }

    fn input(&mut self, index: u32, bytes: &mut [u8], now: Tick) {
        if bytes.is_empty() {
            // Clients mostly wait for the answer to their head before they say more.
            return;
        }
        match self.connections.phase(index) {
            Phase::Opening | Phase::Refused => self.opening_input(index, bytes, now),
            Phase::Stomp | Phase::Echo | Phase::Concluding | Phase::Closing => {
                match self.connections[index].framing {
                    Framing::WebSocket => self.ws_input(index, bytes, now),
                    Framing::Bare => self.bare_input(index, bytes, now),
                }
            }
            Phase::Finishing | Phase::Lingering | Phase::Closed => {}
        }
    }

    fn take_inbound(&mut self, index: u32) -> Box<Inbound> {
        self.inputs.take(&mut self.connections[index])
    }

    fn put_inbound(&mut self, index: u32, inbound: Box<Inbound>, now: Tick) {
        let Shard { inputs, connections, env, .. } = self;
        // Asked once for each frame that is incomplete: the address takes a look at the table of all connections.
        let holder =
            |connections: &Connections| connections.holder_of(index, env.id, &env.limits.trusted_proxies);
        inputs.put(index, connections, inbound, holder, now);
    }

    /// Ends connections whose incomplete input is too much of what all may have, or makes no progress.
    pub(super) fn relieve_inputs(&mut self, now: Tick) {
        while let Some(index) = self.inputs.worst() {
            self.buffers_exhausted(index, now);
            self.drop_input(index);
        }
    }

    /// Once a second: ends connections that have begun something and do not go on with it.
    pub(super) fn expire_inputs(&mut self, now: Tick) {
        let timeout_s = self.env.limits.buffers.progress_timeout_s;
        let patience = timeout_s.saturating_mul(1000 / Tick::MILLIS);
        let is_over = |index: &u32| {
            let connection = &self.connections[*index];
            let since = connection.inbound.as_ref().map_or(now, |inbound| inbound.since);
            // A handshake has a deadline of its own, and who is held is not to blame.
            connection.phase.is_open() && connection.holds.is_empty() && now.since(since) >= patience
        };
        for index in self.inputs.holding().filter(is_over).collect::<Vec<_>>() {
            self.counters.input_timeouts_total += 1;
            match self.connections.phase(index) {
                Phase::Stomp => self.fault(index, Fault::InputTimeout { max: timeout_s }, None, now),
                _ => self.close(index, true, now),
            }
            self.drop_input(index);
        }
    }

    /// What a connection has begun to say, and that is ending, will not be read.
    fn drop_input(&mut self, index: u32) {
        self.inputs.end(index);
        if let Some(mut inbound) = self.connections[index].inbound.take() {
            for lease in [inbound.assembly.payload.take(), inbound.raw.take()].into_iter().flatten() {
                self.inputs.pool.release(lease);
            }
            self.connections[index].inbound = Some(inbound);
        }
    }

    fn buffers_exhausted(&mut self, index: u32, now: Tick) {
        self.counters.inbound_leases_exhausted_total += 1;
        let max = self.env.limits.buffers.reactor_bytes_max;
        match self.connections.phase(index) {
            phase if phase.has_session() => self.fault(index, Fault::BuffersExhausted { max }, None, now),
            _ => self.close(index, true, now),
        }
    }

    // ---- opening ----

    fn opening_input(&mut self, index: u32, bytes: &mut [u8], now: Tick) {
        let mut inbound = self.take_inbound(index);
        let Some(mut lease) = inbound.raw.take() else {
            // Nearly always the head comes whole.
            match self.opening(index, bytes, now) {
                Some(head) => {
                    self.put_inbound(index, inbound, now);
                    self.input(index, &mut bytes[head..], now);
                }
                None => self.keep_raw(index, inbound, bytes, now),
            }
            return;
        };
        let mut held = Some(lease);
        let kept = self.inputs.pool.append(&mut held, bytes);
        let Some(whole) = held else { return self.put_inbound(index, inbound, now) };
        lease = whole;
        if kept.is_err() {
            inbound.raw = Some(lease);
            self.put_inbound(index, inbound, now);
            return self.buffers_exhausted(index, now);
        }
        match self.opening(index, &lease, now) {
            Some(head) => {
                self.put_inbound(index, inbound, now);
                lease.consume(head);
                self.input(index, &mut lease, now);
                self.inputs.pool.release(lease);
            }
            None => {
                inbound.raw = Some(lease);
                self.put_inbound(index, inbound, now);
            }
        }
    }

    fn keep_raw(&mut self, index: u32, mut inbound: Box<Inbound>, bytes: &[u8], now: Tick) {
        let kept = inbound.keep_raw(bytes, &mut self.inputs.pool);
        self.put_inbound(index, inbound, now);
        if let Err(PoolExhausted { .. }) = kept {
            self.buffers_exhausted(index, now);
        }
    }

    /// Reads what opens a connection, and answers it. Returns its length, or `None` while it is incomplete.
    fn opening(&mut self, index: u32, bytes: &[u8], now: Tick) -> Option<usize> {
        match self.front(index, bytes, now) {
            Front::Passed { bytes: front, speaker } => match self.connections[index].framing {
                Framing::WebSocket => {
                    self.http_head(index, &bytes[front..], speaker, now).map(|head| front + head)
                }
                Framing::Bare => {
                    self.open_bare(index, speaker, now);
                    Some(front)
                }
            },
            Front::Need => None,
            Front::Refused(error) => {
                self.turn_away(index, &error, None, false, now);
                Some(bytes.len())
            }
            Front::TooMany => {
                self.close(index, true, now);
                Some(bytes.len())
            }
        }
    }

    /// Reads a request head and answers it. Returns its length, or `None` while it is incomplete.
    fn http_head(&mut self, index: u32, bytes: &[u8], speaker: Speaker, now: Tick) -> Option<usize> {
        let mut scratch = http::Scratch::default();
        let limits = &self.env.limits.handshake;
        let (request, head) = match http::parse(bytes, limits, &mut scratch) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return None,
            Err(error) => {
                self.turn_away(index, &error, None, false, now);
                return Some(bytes.len());
            }
        };
        self.counters.http_requests_total += 1;
        let is_head = request.method == "HEAD";
        match handshake::route(&request, self.env.is_echo_enabled) {
            Err(error) => self.turn_away(index, &error, None, is_head, now),
            Ok(Route::Site) => {
                let peer = match speaker {
                    Speaker::Named(client) => Some(client),
                    Speaker::Peer | Speaker::Unnamed => self.peer(index),
                };
                let mut page = Vec::new();
                match peer {
                    Some(peer) => self.env.site.answer(&request, peer, &mut page),
                    None => return Some(head),
                }
                self.connections.leave_handshake(index);
                self.push_vec(index, page);
                self.connections[index].pass(Event::Answered);
                self.arm_close(index, now);
            }
            // Where one of these says no, it is answered.
            Ok(_) if !self.has_place(index, is_head, now) => {}
            // The client is named then, and what follows counts for it.
            Ok(_) if !self.may_open(index, &request, speaker, now) => {}
            Ok(Route::Stomp(_) | Route::Echo(_)) if !self.admits_address(index, is_head, now) => {}
            Ok(Route::Stomp(_)) if !self.keep_ticket(index, &request) => {
                let retry_after_s = Some(self.env.limits.handshake.retry_after_s);
                self.turn_away(index, &HttpError::CREDENTIALS, retry_after_s, is_head, now);
            }
            Ok(Route::Stomp(upgrade)) => self.upgrade(index, &upgrade, Event::OpenedStomp, now),
            Ok(Route::Echo(upgrade)) => self.upgrade(index, &upgrade, Event::OpenedEcho, now),
        }
        Some(head)
    }

    /// Opens a connection on which STOMP frames are bare: there is nothing to be answered.
    fn open_bare(&mut self, index: u32, speaker: Speaker, now: Tick) {
        let is_welcome = self.has_place(index, false, now)
            && self.may_open_bare(index, speaker, now)
            && self.admits_address(index, false, now);
        if is_welcome {
            self.counters.stomp_streams_opened_total += 1;
            self.opened(index, Event::OpenedStomp, now);
        }
    }

    /// Refuses a connection that is not open yet, in the words of its protocol, and ends it.
    pub(super) fn turn_away(
        &mut self,
        index: u32,
        error: &HttpError,
        retry_after_s: Option<u32>,
        is_head: bool,
        now: Tick,
    ) {
        self.turn_away_for(index, error, "", retry_after_s, is_head, now);
    }

    /// The same with `detail` behind the sentence, for what only this connection has.
    pub(super) fn turn_away_for(
        &mut self,
        index: u32,
        error: &HttpError,
        detail: &str,
        retry_after_s: Option<u32>,
        is_head: bool,
        now: Tick,
    ) {
        match self.connections[index].framing {
            Framing::WebSocket => self.end_opening(index, now, |out| {
                http::write_refusal(error, detail, retry_after_s, is_head, out);
            }),
            Framing::Bare if detail.is_empty() => {
                self.turn_away_bare(index, error.reason, retry_after_s, now);
            }
            Framing::Bare => {
                self.turn_away_bare(index, &format!("{} {detail}", error.reason), retry_after_s, now);
            }
        }
    }

    /// Refuses a connection on which STOMP frames are bare, by an ERROR.
    pub(super) fn turn_away_bare(
        &mut self,
        index: u32,
        sentence: &str,
        retry_after_s: Option<u32>,
        now: Tick,
    ) {
        self.end_opening(index, now, |out| reply::end(sentence, retry_after_s, out));
        self.counters.errors_sent_total += 1;
    }

    /// Answers with the refusal that is written, and ends.
    fn end_opening(&mut self, index: u32, now: Tick, write: impl FnOnce(&mut Vec<u8>)) {
        self.counters.handshakes_failed_total += 1;
        self.connections.leave_handshake(index);
        self.say(index, write);
        self.connections[index].pass(Event::Answered);
        self.arm_close(index, now);
    }

    fn upgrade(&mut self, index: u32, upgrade: &Upgrade, event: Event, now: Tick) {
        self.counters.upgrades_total += 1;
        self.say(index, |out| http::write_upgrade(upgrade, out));
        self.opened(index, event, now);
    }

    fn opened(&mut self, index: u32, event: Event, now: Tick) {
        self.connections.leave_handshake(index);
        self.connections[index].pass(event);
        self.connections.tcb_event(index, TcbEvent::Upgraded, now);
        match event {
            Event::OpenedStomp => self
                .connections
                .arm(index, now.after_ms(u64::from(self.env.limits.handshake.connect_timeout_ms))),
            _ => self.keep_alive(index, now),
        }
    }

    // ---- WebSocket ----

    fn ws_limits(&self, index: u32) -> ws::Limits {
        let (frame, message, fragments) = match self.connections.phase(index) {
            Phase::Echo => {
                let echo = &self.env.limits.echo;
                (echo.frame_bytes_max, echo.message_bytes_max, echo.fragments_max)
            }
            _ => {
                let websocket = &self.env.limits.websocket;
                (websocket.frame_bytes_max, websocket.message_bytes_max, websocket.fragments_max)
            }
        };
        ws::Limits { frame_bytes_max: frame, message_bytes_max: message, fragments_max: fragments }
    }

    fn ws_input(&mut self, index: u32, bytes: &mut [u8], now: Tick) {
        let mut inbound = self.take_inbound(index);
        if inbound.raw.is_some() {
            // What came before still waits.
            return self.keep_raw(index, inbound, bytes, now);
        }
        let limits = self.ws_limits(index);
        let mut at = 0;
        while at < bytes.len() {
            let connection = &self.connections[index];
            if connection.phase.is_open() && !connection.holds.is_empty() {
                return self.keep_raw(index, inbound, &bytes[at..], now);
            }
            if !connection.phase.is_established() && connection.phase != Phase::Closing {
                break;
            }
            let Inbound { ws, assembly, .. } = &mut *inbound;
            let event = match ws.decode(&mut bytes[at..], &limits) {
                Ok((used, event)) => {
                    at += used;
                    event
                }
                Err(error) => {
                    self.end(index, End::Broken(error), now);
                    break;
                }
            };
            match event {
                None => {}
                Some(ws::Event::Data { kind, payload, start, end }) => {
                    self.counters.ws_messages_received_total += u64::from(end);
                    match self.connections.phase(index) {
                        // Clients put each frame into a message of its own.
                        Phase::Stomp
                            if start && assembly.stomp.awaits_nul() && stomp::begins_with_head(payload) =>
                        {
                            self.end(index, End::Fault(StompError::NulForgotten.into(), None), now);
                        }
                        Phase::Stomp => self.stomp_payload(index, assembly, payload, now),
                        Phase::Echo => {
                            if start {
                                assembly.kind = kind;
                            }
                            self.echo_payload(index, assembly, payload, end, now);
                        }
                        // What comes behind the session's end is not for it any more.
                        _ => {}
                    }
                }
                Some(ws::Event::Ping(payload)) if self.connections.phase(index).is_established() => {
                    self.say(index, |out| ws::encode_pong(payload, out));
                }
                Some(ws::Event::Ping(_) | ws::Event::Pong(_)) => {}
                Some(ws::Event::Close(close)) => {
                    let code = close.map(|(code, _)| code);
                    self.end(index, End::PeerClosed(code), now);
                    break;
                }
            }
        }
        self.put_inbound(index, inbound, now);
    }

    fn echo_payload(&mut self, index: u32, assembly: &mut Assembly, payload: &[u8], end: bool, now: Tick) {
        let whole = if end && assembly.payload.is_none() {
            let mut answer = Vec::with_capacity(payload.len() + 10);
            ws::encode_message(assembly.kind, payload, &mut answer);
            Some(answer)
        } else {
            if assembly.keep(payload, &mut self.inputs.pool).is_err() {
                return self.buffers_exhausted(index, now);
            }
            match assembly.payload.take() {
                Some(lease) if end => {
                    let mut answer = Vec::with_capacity(lease.len() + 10);
                    ws::encode_message(assembly.kind, &lease, &mut answer);
                    self.inputs.pool.release(lease);
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

    /// STOMP frames without WebSocket's around them.
    fn bare_input(&mut self, index: u32, bytes: &[u8], now: Tick) {
        let mut inbound = self.take_inbound(index);
        let connection = &self.connections[index];
        let is_held = connection.phase.is_open() && !connection.holds.is_empty();
        if is_held || inbound.raw.is_some() {
            return self.keep_raw(index, inbound, bytes, now);
        }
        // What comes behind the session's end is not for it any more.
        if connection.phase == Phase::Stomp {
            self.stomp_payload(index, &mut inbound.assembly, bytes, now);
        }
        self.put_inbound(index, inbound, now);
    }

    fn stomp_payload(&mut self, index: u32, assembly: &mut Assembly, payload: &[u8], now: Tick) {
        if assembly.payload.is_none() {
            let used = self.stomp_frames(index, &mut assembly.stomp, payload, now);
            if assembly.keep(&payload[used..], &mut self.inputs.pool).is_err() {
                self.buffers_exhausted(index, now);
            }
            return;
        }
        if assembly.keep(payload, &mut self.inputs.pool).is_err() {
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
        self.inputs.pool.trim(&mut assembly.payload);
    }

    /// Parses and handles frames until there is no complete one or the session can take no more. Returns how
    /// many bytes are done with.
    fn stomp_frames(&mut self, index: u32, decoder: &mut stomp::Decoder, bytes: &[u8], now: Tick) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let (connection, session) = (&self.connections[index], &self.sessions[index]);
            if connection.phase != Phase::Stomp {
                return bytes.len();
            }
            if !connection.holds.is_empty() {
                break;
            }
            match decoder.decode(&bytes[at..], session.version_or_newest(), &self.env.limits.stomp) {
                Ok(stomp::Step::Need) => break,
                Ok(stomp::Step::HeartBeat { consumed }) => {
                    self.counters.heart_beats_received_total += 1;
                    at += consumed;
                }
                Ok(stomp::Step::Frame { stomp_frame, consumed }) => {
                    if self.must_wait(index, &stomp_frame) {
                        self.holds.hold(&mut self.connections[index], Reason::Answer);
                        break;
                    }
                    self.stomp_frame(index, &stomp_frame, now);
                    at += consumed;
                    if !self.rates.is_off() && self.is_publication(index, &stomp_frame) {
                        self.pay(index, consumed, now);
                    }
                }
                Err(error) => {
                    self.end(index, End::Fault(error.into(), None), now);
                    return bytes.len();
                }
            }
        }
        at
    }

    /// A SEND of so many bytes was taken: who has sent more than its rate is not read for a while.
    fn pay(&mut self, index: u32, bytes: usize, now: Tick) {
        if self.connections.phase(index) != Phase::Stomp {
            return;
        }
        let login = self.env.authenticator.as_ref().and_then(|_| self.sessions[index].principal());
        // By its text: with other roles it is the same login.
        let login = login.map(|id| self.env.hash_of(self.sessions.principals().login(id).as_bytes()));
        if self.rates.spend(index, login, bytes as u64, now) {
            self.counters.publishers_slowed_total += 1;
            self.holds.hold(&mut self.connections[index], Reason::Rate);
        }
    }

    fn stomp_frame(&mut self, index: u32, stomp_frame: &StompFrame<'_>, now: Tick) {
        self.counters.stomp_frames_received_total += 1;
        let Shard { env, connections, sessions, members, timers, .. } = self;
        let holder = || connections.holder_of(index, env.id, &env.limits.trusted_proxies);
        let whence = || {
            let generation = connections[index].generation;
            // A Unix socket has no address.
            let address = connections.client_of(index).filter(|address| !FourTuple::is_unix(*address));
            Whence { session: [env.id.into(), index, generation], address }
        };
        let sources = env.authenticator.as_deref().map(Authenticator::sources);
        let framing = connections[index].framing;
        let terms = Terms { limits: &env.limits.stomp, framing, sources, wall_ms: timers.wall_ms() };
        match sessions.handle(index, stomp_frame, terms, members.classes_mut(), holder, whence) {
            Ok(()) => self.apply(index, stomp_frame.command, now),
            Err(fault) => {
                let receipt = stomp_frame.header("receipt").map(|receipt| (*receipt).into());
                let fault = fault.blame_blanks(|header| stomp_frame.header(header));
                self.refuse(index, stomp_frame.command, fault, receipt, now);
            }
        }
    }

    // ---- who was held ----

    /// Lets connections go on that nothing holds any more, with the input that waited.
    pub(super) fn resume(&mut self, now: Tick) {
        let free = self.holds.take_free();
        for key in &free {
            if !self.is_current(*key) {
                continue;
            }
            let connection = &mut self.connections[key.index];
            if !connection.holds.take_up() && connection.phase.is_open() {
                continue;
            }
            // Of one that is ending, what is left is thrown away, but for the close frame that may be in it.
            if connection.phase.is_established() || connection.phase == Phase::Closing {
                // While its input was held back nothing could be heard.
                connection.heard = now;
                self.resume_one(key.index, now);
            }
            if self.wants_read(*key) {
                self.inputs.resume(*key);
            }
        }
        self.holds.reuse(free);
    }

    fn resume_one(&mut self, index: u32, now: Tick) {
        let Some(mut inbound) = self.connections[index].inbound.take() else { return };
        // It could not go on while it was held.
        (inbound.since, inbound.had) = (now, inbound.kept());
        if self.connections.phase(index) == Phase::Stomp {
            self.stomp_held(index, &mut inbound.assembly, now);
        }
        let raw = inbound.raw.take();
        self.put_inbound(index, inbound, now);
        if let Some(mut raw) = raw {
            self.input(index, &mut raw, now);
            self.inputs.pool.release(raw);
        }
    }
}
