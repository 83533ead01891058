//! One simulated client without its socket: a state machine from the upgrade request to the last byte.
//!
//! The script is fixed: upgrade, CONNECT, SUBSCRIBE with a receipt, then ready until told to leave;
//! DISCONNECT with a receipt, close handshake, end. Bytes go in through [`Peer::receive`]; bytes for the socket
//! are appended to `Kit::out`; what concerns the run is told to a [`Listener`]. It knows no socket, no clock
//! and no room but its own.
//!
//! A ready client at the end of a message is 16 bytes: everything else is in the thread's [`Kit`], or in a
//! box that exists only while there is something half-done.
//!
//! Invariant: after a failure the peer is never called again.

pub mod script;
mod twin;
pub mod upgrade;
pub mod websocket;

use crate::failure::{Failure, Kind};
use crate::stomp::{self, Step, StompFrame};
use script::{HeartBeats, Script};
use twin::{Noting, Twin};
use websocket::{Closing, Item, Shared, whole_messages};

/// Bytes of one STOMP frame that are collected over several WebSocket messages.
const STOMP_BYTES_MAX: usize = 16 << 20;

/// The receipt that ends the set-up.
const SUBSCRIBED: &str = "subscribed";
/// The receipt that begins the close handshake.
const PARTED: &str = "parted";

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The TCP connection is not there yet.
    Dialling,
    /// The upgrade request is sent.
    Upgrading,
    /// CONNECT is sent.
    Connecting,
    /// SUBSCRIBE is sent.
    Subscribing,
    /// In its room.
    Ready,
    /// DISCONNECT is sent.
    Parting,
    /// Our close frame is sent.
    Closing,
    /// The server has answered it, and ends the TCP connection (RFC 6455, 7.1.1).
    Closed,
}

impl Phase {
    /// On the way to [`Phase::Ready`].
    pub fn is_set_up(self) -> bool {
        matches!(self, Self::Dialling | Self::Upgrading | Self::Connecting | Self::Subscribing)
    }

    /// The failure when this phase takes too long.
    pub fn timeout(self) -> Kind {
        match self {
            Self::Dialling => Kind::ConnectTimeout,
            Self::Upgrading => Kind::UpgradeTimeout,
            Self::Connecting => Kind::ConnectedTimeout,
            Self::Subscribing | Self::Parting | Self::Ready => Kind::ReceiptTimeout,
            Self::Closing | Self::Closed => Kind::CloseTimeout,
        }
    }
}

/// Who wants to know what a client receives.
pub trait Listener {
    /// CONNECTED is here; this is how often either end lets itself be heard.
    fn connected(&mut self, heart_beats: HeartBeats);
    /// The subscription is in place.
    fn ready(&mut self);
    /// A MESSAGE with all its mandatory headers.
    fn message(&mut self, body: &[u8]);
    /// A line end between frames.
    fn heart_beat(&mut self);
    /// The receipt of a SEND.
    fn receipt(&mut self);
}

/// What a thread lends to its peers for the time of one call.
#[derive(Debug)]
pub struct Kit {
    websocket: Shared,
    stomp: Vec<u8>,
    twin: Twin,
    /// The server is about to end: being closed with 1001 is no failure.
    pub expects_farewell: bool,
    /// Bytes for the socket; the caller empties it after each call.
    pub out: Vec<u8>,
}

impl Kit {
    /// An empty kit.
    pub fn new() -> Self {
        Self {
            websocket: Shared::new(),
            stomp: Vec::new(),
            twin: Twin::default(),
            expects_farewell: false,
            out: Vec::new(),
        }
    }

    fn send(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Failure> {
        self.stomp.clear();
        stomp::encode(&mut self.stomp, command, headers, body);
        let text = std::str::from_utf8(&self.stomp)
            .map_err(|_| Failure::new(Kind::Protocol, "a simulated client sends text only"))?;
        self.websocket.write_text(text, &mut self.out)
    }
}

/// Which client this is, and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Number of the client in the run.
    pub client: u32,
    /// Number of its room.
    pub room: u32,
}

/// One simulated client.
#[derive(Debug)]
pub struct Peer {
    phase: Phase,
    busy: Option<Box<Busy>>,
}

/// What a client keeps while something is half-done.
#[derive(Debug, Default)]
struct Busy {
    /// Received, but not a whole message yet.
    received: Vec<u8>,
    /// Part of a STOMP frame, from whole messages.
    stomp: Vec<u8>,
    /// Not taken by the socket yet.
    unsent: Vec<u8>,
    /// The close handshake, once it has begun.
    closing: Option<Closing>,
}

impl Busy {
    fn is_idle(&self) -> bool {
        self.received.is_empty() && self.stomp.is_empty() && self.unsent.is_empty() && self.closing.is_none()
    }
}

impl Peer {
    /// A client whose TCP connection is under way.
    pub fn new() -> Self {
        Self { phase: Phase::Dialling, busy: None }
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The TCP connection is there: sends the upgrade request.
    pub fn connected(&mut self, client: u32, script: &Script, kit: &mut Kit) {
        debug_assert_eq!(self.phase, Phase::Dialling);
        script.upgrade.write_request(client, &mut kit.out);
        self.phase = Phase::Upgrading;
    }

    /// Sends a message to the client's room, with a receipt asked for or not.
    ///
    /// # Errors
    /// None in practice: memory is all that is written to.
    pub fn send(
        &mut self,
        destination: &str,
        body: &[u8],
        receipt: Option<&str>,
        kit: &mut Kit,
    ) -> Result<(), Failure> {
        debug_assert_eq!(self.phase, Phase::Ready);
        let length = body.len().to_string();
        let headers = [
            ("destination", destination),
            ("content-type", "text/plain"),
            ("content-length", &length),
            ("receipt", receipt.unwrap_or("")),
        ];
        kit.send("SEND", &headers[..headers.len() - usize::from(receipt.is_none())], body)
    }

    /// Sends a heart-beat: one line end.
    ///
    /// # Errors
    /// None in practice: memory is all that is written to.
    pub fn beat(&mut self, kit: &mut Kit) -> Result<(), Failure> {
        kit.websocket.write_text("\n", &mut kit.out)
    }

    /// Begins to leave: DISCONNECT with a receipt, then the close handshake.
    ///
    /// # Errors
    /// None in practice: memory is all that is written to.
    pub fn part(&mut self, kit: &mut Kit) -> Result<(), Failure> {
        debug_assert_eq!(self.phase, Phase::Ready);
        self.phase = Phase::Parting;
        kit.send("DISCONNECT", &[("receipt", PARTED)], b"")
    }

    /// Takes bytes from the socket.
    ///
    /// # Errors
    /// What went wrong; the connection is of no use then. `kit.out` may hold an answer to the server's close.
    pub fn receive(
        &mut self,
        identity: Identity,
        bytes: &[u8],
        script: &Script,
        kit: &mut Kit,
        listener: &mut impl Listener,
    ) -> Result<(), Failure> {
        if self.is_between_messages() {
            return self.receive_plain(identity, bytes, script, kit, listener);
        }
        self.receive_any(identity, bytes, script, kit, listener)
    }

    /// In its room with nothing half-done: equal bytes mean the same for everybody who is.
    fn is_between_messages(&self) -> bool {
        self.phase == Phase::Ready && self.busy.is_none()
    }

    /// Takes bytes between two messages: compared with those of the member before, read if they differ.
    fn receive_plain(
        &mut self,
        identity: Identity,
        bytes: &[u8],
        script: &Script,
        kit: &mut Kit,
        listener: &mut impl Listener,
    ) -> Result<(), Failure> {
        if kit.twin.is(identity.room, bytes) {
            kit.twin.tell(listener);
            return Ok(());
        }
        let mut heard = kit.twin.ear();
        let before = kit.out.len();
        let mut noting = Noting { heard: &mut heard, listener };
        self.receive_any(identity, bytes, script, kit, &mut noting)?;
        if self.is_between_messages() && kit.out.len() == before {
            kit.twin.learn(identity.room, bytes, heard);
        }
        Ok(())
    }

    fn receive_any(
        &mut self,
        identity: Identity,
        bytes: &[u8],
        script: &Script,
        kit: &mut Kit,
        listener: &mut impl Listener,
    ) -> Result<(), Failure> {
        let mut joined = Vec::new();
        let bytes = match &mut self.busy {
            Some(busy) if !busy.received.is_empty() => {
                joined.append(&mut busy.received);
                joined.extend_from_slice(bytes);
                &joined[..]
            }
            _ => bytes,
        };
        let taken = self.take(identity, bytes, script, kit, listener)?;
        if taken < bytes.len() {
            self.busy().received =
                if taken == 0 && !joined.is_empty() { joined } else { bytes[taken..].to_vec() };
        }
        self.settle();
        Ok(())
    }

    /// The server ended the connection.
    ///
    /// # Errors
    /// An end that is not the end of a close handshake.
    pub fn receive_end(&self) -> Result<(), Failure> {
        match self.phase {
            Phase::Closed => Ok(()),
            phase => Err(Failure::new(Kind::EndOfStream, format!("end of stream while {phase:?}"))),
        }
    }

    /// Bytes that the socket has not taken yet.
    pub fn unsent(&mut self) -> Option<&mut Vec<u8>> {
        self.busy.as_mut().map(|busy| &mut busy.unsent).filter(|unsent| !unsent.is_empty())
    }

    /// How many those are.
    pub fn unsent_bytes(&self) -> usize {
        self.busy.as_ref().map_or(0, |busy| busy.unsent.len())
    }

    /// Keeps bytes until the socket is writable.
    pub fn keep_unsent(&mut self, bytes: &[u8]) {
        self.busy().unsent.extend_from_slice(bytes);
    }

    /// Frees what is no longer needed; after `unsent` was emptied.
    pub fn settle(&mut self) {
        if self.busy.as_ref().is_some_and(|busy| busy.is_idle()) {
            self.busy = None;
        }
    }

    fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    /// Handles as many whole messages as there are; returns how many bytes they were.
    fn take(
        &mut self,
        identity: Identity,
        bytes: &[u8],
        script: &Script,
        kit: &mut Kit,
        listener: &mut impl Listener,
    ) -> Result<usize, Failure> {
        let mut taken = 0;
        if self.phase == Phase::Upgrading {
            match script.upgrade.read_response(identity.client, bytes)? {
                None => return Ok(0),
                Some(head) => taken = head,
            }
            self.phase = Phase::Connecting;
            kit.websocket.write_text(&script.connect(identity.client), &mut kit.out)?;
        }
        let whole = whole_messages(&bytes[taken..])?;
        self.take_messages(identity.room, &bytes[taken..taken + whole], script, kit, listener)?;
        Ok(taken + whole)
    }

    fn take_messages(
        &mut self,
        room: u32,
        whole: &[u8],
        script: &Script,
        kit: &mut Kit,
        listener: &mut impl Listener,
    ) -> Result<(), Failure> {
        if whole.is_empty() || self.phase == Phase::Closed {
            return Ok(());
        }
        if let Some(mut closing) = self.busy.as_mut().and_then(|busy| busy.closing.take()) {
            let answered = closing.read(whole, &mut kit.out, &mut |item, _| match item {
                Item::Data(data) => self.take_data(room, data, script, listener).map(drop),
                Item::Close { .. } => Ok(()),
            })?;
            if answered {
                self.phase = Phase::Closed;
            } else {
                self.busy().closing = Some(closing);
            }
            return Ok(());
        }
        let Kit { websocket, out, expects_farewell, .. } = kit;
        let expects_farewell = *expects_farewell;
        let mut next = Next::Nothing;
        websocket.read(whole, out, &mut |item, _| match item {
            Item::Data(data) => {
                let wanted = self.take_data(room, data, script, listener)?;
                if !matches!(wanted, Next::Nothing) {
                    next = wanted;
                }
                Ok(())
            }
            // Once it has sent the receipt of DISCONNECT, the server may be the first to close. Its close frame
            // is answered already.
            Item::Close { code: 1000, .. } if self.phase == Phase::Closing => {
                self.phase = Phase::Closed;
                next = Next::Nothing;
                Ok(())
            }
            Item::Close { code: 1001, .. } if expects_farewell => {
                self.phase = Phase::Closed;
                next = Next::Nothing;
                Ok(())
            }
            Item::Close { code, reason } => Err(Failure::new(
                Kind::ClosedByServer(code),
                format!("{code} {reason} while {:?}", self.phase),
            )),
        })?;
        match next {
            Next::Nothing => {}
            Next::Subscribe => {
                let destination = script.destination(room);
                let headers = [("id", "0"), ("destination", &*destination), ("receipt", SUBSCRIBED)];
                kit.send("SUBSCRIBE", &headers, b"")?;
            }
            Next::Close => {
                let closing = Closing::start(&mut kit.out)?;
                self.busy().closing = Some(closing);
            }
        }
        Ok(())
    }

    /// Takes the payload of one WebSocket message: usually one STOMP frame or one heart-beat.
    fn take_data(
        &mut self,
        room: u32,
        data: &[u8],
        script: &Script,
        listener: &mut impl Listener,
    ) -> Result<Next, Failure> {
        let mut joined = Vec::new();
        let mut rest = data;
        if let Some(busy) = self.busy.as_mut().filter(|busy| !busy.stomp.is_empty()) {
            joined.append(&mut busy.stomp);
            joined.extend_from_slice(data);
            rest = &joined;
        }
        let mut next = Next::Nothing;
        loop {
            match stomp::decode(rest).map_err(|error| Failure::new(Kind::Protocol, error.to_string()))? {
                Step::Need => break,
                Step::HeartBeat { consumed } => {
                    listener.heart_beat();
                    rest = &rest[consumed..];
                }
                Step::Frame { stomp_frame, consumed } => {
                    let wanted = self.take_frame(room, &stomp_frame, script, listener)?;
                    if !matches!(wanted, Next::Nothing) {
                        next = wanted;
                    }
                    rest = &rest[consumed..];
                }
            }
        }
        if rest.len() > STOMP_BYTES_MAX {
            return Err(Failure::new(Kind::Protocol, "stomp_frame too long"));
        }
        if !rest.is_empty() {
            self.busy().stomp = rest.to_vec();
        }
        Ok(next)
    }

    fn take_frame(
        &mut self,
        room: u32,
        stomp_frame: &StompFrame<'_>,
        script: &Script,
        listener: &mut impl Listener,
    ) -> Result<Next, Failure> {
        let header = |name| stomp_frame.header(name);
        match (stomp_frame.command, self.phase) {
            ("CONNECTED", Phase::Connecting) => {
                if header("version").as_deref() != Some("1.2") {
                    return Err(broken("CONNECTED without version:1.2"));
                }
                listener.connected(script.agree(HeartBeats::parse(header("heart-beat").as_deref())));
                self.phase = Phase::Subscribing;
                Ok(Next::Subscribe)
            }
            ("RECEIPT", Phase::Subscribing) if header("receipt-id").as_deref() == Some(SUBSCRIBED) => {
                self.phase = Phase::Ready;
                listener.ready();
                Ok(Next::Nothing)
            }
            ("RECEIPT", Phase::Parting) if header("receipt-id").as_deref() == Some(PARTED) => {
                self.phase = Phase::Closing;
                Ok(Next::Close)
            }
            ("RECEIPT", Phase::Ready | Phase::Parting | Phase::Closing) => {
                header("receipt-id").ok_or_else(|| broken("RECEIPT without receipt-id"))?;
                listener.receipt();
                Ok(Next::Nothing)
            }
            // A subscription is in place from the moment the server has read it: its RECEIPT may come later.
            ("MESSAGE", Phase::Subscribing | Phase::Ready | Phase::Parting | Phase::Closing) => {
                if header("message-id").is_none() || header("subscription").as_deref() != Some("0") {
                    return Err(broken("MESSAGE without its message-id or subscription"));
                }
                if !header("destination").is_some_and(|destination| script.is_room(&destination, room)) {
                    return Err(broken("MESSAGE of another destination"));
                }
                listener.message(stomp_frame.body);
                Ok(Next::Nothing)
            }
            ("ERROR", _) => {
                let message = header("message").unwrap_or_default();
                let body = String::from_utf8_lossy(stomp_frame.body);
                Err(Failure::new(Kind::StompError, format!("{message}; {}", body.trim())))
            }
            (command, phase) => Err(broken(&format!("{command} while {phase:?}"))),
        }
    }
}

/// What a frame of the server makes the client do after the bytes at hand are read.
enum Next {
    Nothing,
    Subscribe,
    Close,
}

fn broken(rule: &str) -> Failure {
    Failure::new(Kind::Protocol, rule)
}

#[cfg(test)]
mod tests;
