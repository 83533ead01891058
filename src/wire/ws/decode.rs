//! The decoder: a state machine over whatever bytes have arrived.
//!
//! A header, or a whole control frame, that lies in one piece in the input is read where it lies. One that is cut is
//! collected in a small array inside the decoder. Data payloads are never collected.
//!
//! Invariant: between two calls the decoder is at a header (with what it carries of it), inside a payload,
//! behind the peer's close, or failed; only the first with nothing carried and no message under way is clean.

use std::io::Cursor;
use std::ops::Range;

use tungstenite::protocol::frame::FrameHeader;

use super::mask::{apply_mask, rotate};
use super::utf8::Utf8;
use super::{CONTROL_BYTES_MAX, Event, HEADER_BYTES_MAX, Kind, Limits, Role, WsError, close};

const CARRY_BYTES: usize = HEADER_BYTES_MAX + CONTROL_BYTES_MAX;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const OPCODE: u8 = 0x0F;
/// The bit of the opcode that tells control frames from data (section 5.5).
const OPCODE_CONTROL: u8 = 0x08;
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7F;

/// Reads ws_frames of one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    phase: Phase,
    payload: Payload,
    message: Option<Message>,
    /// The begin of a header or control frame that a read has cut.
    carry: [u8; CARRY_BYTES],
    carried: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    Payload,
    Closed,
    Failed(WsError),
}

/// What is still to come of a data frame.
#[derive(Debug)]
struct Payload {
    left: u64,
    /// As the next byte meets it; zero when unmasked.
    key: [u8; 4],
    fin: bool,
}

/// The message under way, over its fragments.
#[derive(Debug)]
struct Message {
    kind: Kind,
    bytes: u64,
    fragments: u32,
    /// Whether the caller has seen a piece of it.
    started: bool,
    utf8: Utf8,
}

/// One step: how far it went, and where in the input (or in the carry) the event lies. Holds no borrow, so
/// that a failure can be noted in the decoder before the event is made.
struct Step {
    consumed: usize,
    found: Found,
}

enum Found {
    Nothing,
    Data { kind: Kind, payload: Range<usize>, start: bool, end: bool },
    Control { opcode: Control, payload: Range<usize>, carried: bool },
}

#[derive(Clone, Copy)]
enum Control {
    Close,
    Ping,
    Pong,
}

/// A header, checked by all rules that need no bounds.
struct Header {
    fin: bool,
    opcode: u8,
    key: [u8; 4],
    payload_bytes: u64,
    header_bytes: usize,
}

impl Decoder {
    /// A decoder for the bytes that come in at this end of the connection, at their begin.
    pub fn new(role: Role) -> Self {
        Decoder {
            role,
            phase: Phase::Header,
            payload: Payload { left: 0, key: [0; 4], fin: false },
            message: None,
            carry: [0; CARRY_BYTES],
            carried: 0,
        }
    }

    /// Whether this decoder is as good as new: at a ws_frame boundary, outside a message, nothing carried. It
    /// may be dropped then and made anew when bytes come.
    pub fn is_clean(&self) -> bool {
        self.phase == Phase::Header && self.carried == 0 && self.message.is_none()
    }

    /// Reads from the front of `input`, up to one event. Returns how many bytes that took; if they are fewer
    /// than `input` has, call again with the rest. Data payloads are unmasked in place and handed out as
    /// they come; a control frame is handed out whole.
    ///
    /// # Errors
    /// The rule or bound that was broken. The decoder then gives the same error for ever.
    #[inline]
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &Limits,
    ) -> Result<(usize, Option<Event<'a>>), WsError> {
        let step = match self.step(input, limits) {
            Ok(step) => step,
            Err(error) => {
                self.phase = Phase::Failed(error);
                return Err(error);
            }
        };
        let event = match step.found {
            Found::Nothing => None,
            Found::Data { kind, payload, start, end } => {
                Some(Event::Data { kind, payload: &mut input[payload], start, end })
            }
            Found::Control { opcode, payload, carried } => {
                let payload: &'a [u8] = if carried { &self.carry[payload] } else { &input[payload] };
                Some(match opcode {
                    Control::Ping => Event::Ping(payload),
                    Control::Pong => Event::Pong(payload),
                    Control::Close => Event::Close(close::parse(payload)?),
                })
            }
        };
        Ok((step.consumed, event))
    }

    /// Panics if the decoder is in a state that it cannot get into. For tests.
    pub fn check(&self) {
        match self.phase {
            Phase::Header => {
                // What is complete is not carried but read.
                let unit = self.unit_len(&self.carry[..self.carried]).expect("refused when it was carried");
                assert!(self.carried < unit.unwrap_or(2), "{self:?}");
            }
            Phase::Payload => {
                assert_eq!(self.carried, 0);
                assert!(self.payload.left > 0, "a payload at its end");
                assert!(self.message.is_some(), "a payload without a message");
            }
            Phase::Closed => assert_eq!(self.carried, 0),
            Phase::Failed(_) => {}
        }
        if let Some(message) = &self.message {
            assert!(message.fragments > 0);
            assert!(self.payload.left <= message.bytes);
            assert!(message.kind == Kind::Text || message.utf8 == Utf8::default());
        }
    }

    fn step(&mut self, input: &mut [u8], limits: &Limits) -> Result<Step, WsError> {
        match self.phase {
            Phase::Failed(error) => Err(error),
            // Section 1.4: after the close the peer's bytes are discarded.
            Phase::Closed => Ok(Step { consumed: input.len(), found: Found::Nothing }),
            Phase::Payload => self.piece(input, 0),
            Phase::Header if self.carried == 0 => match self.unit_len(input)? {
                Some(unit) if unit <= input.len() => {
                    let header = self.parse(&input[..unit])?;
                    if header.opcode & OPCODE_CONTROL == 0 {
                        self.begin(&header, limits)?;
                        self.piece(input, unit)
                    } else {
                        let found = self.control(&header, &mut input[..unit], false)?;
                        Ok(Step { consumed: unit, found })
                    }
                }
                _ => {
                    let consumed = self.fill_carry(input, input.len());
                    Ok(Step { consumed, found: Found::Nothing })
                }
            },
            Phase::Header => self.step_carried(input, limits),
        }
    }

    /// The rest of a header or control frame whose begin is carried.
    #[cold]
    fn step_carried(&mut self, input: &mut [u8], limits: &Limits) -> Result<Step, WsError> {
        let mut consumed = 0;
        let unit = loop {
            let carried = self.unit_len(&self.carry[..self.carried])?;
            let wanted = carried.unwrap_or(2);
            if self.carried == wanted {
                break wanted;
            }
            let taken = self.fill_carry(&input[consumed..], wanted - self.carried);
            if taken == 0 {
                return Ok(Step { consumed, found: Found::Nothing });
            }
            consumed += taken;
        };
        self.carried = 0;
        let header = self.parse(&self.carry[..unit])?;
        if header.opcode & OPCODE_CONTROL == 0 {
            self.begin(&header, limits)?;
            return self.piece(input, consumed);
        }
        let mut carry = self.carry;
        let found = self.control(&header, &mut carry[..unit], true)?;
        self.carry = carry;
        Ok(Step { consumed, found })
    }

    /// Moves up to `wanted` bytes of `input` into the carry; returns how many.
    fn fill_carry(&mut self, input: &[u8], wanted: usize) -> usize {
        let taken = wanted.min(input.len());
        self.carry[self.carried..self.carried + taken].copy_from_slice(&input[..taken]);
        self.carried += taken;
        taken
    }

    /// Bytes of what must lie in one piece to be read: the header, and of a control frame its payload too.
    /// `None` before the two bytes that tell. Everything that these two can break is refused here.
    #[inline]
    fn unit_len(&self, bytes: &[u8]) -> Result<Option<usize>, WsError> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        let opcode = first & OPCODE;
        let length = second & LENGTH;
        let masked = second & MASK != 0;
        if first & RSV != 0 {
            return Err(WsError::ReservedBits);
        }
        match opcode {
            0x0 if self.message.is_none() => return Err(WsError::ContinuationUnexpected),
            0x1 | 0x2 if self.message.is_some() => return Err(WsError::ContinuationExpected),
            0x8..=0xA if first & FIN == 0 => return Err(WsError::ControlFragmented),
            0x8..=0xA if usize::from(length) > CONTROL_BYTES_MAX => return Err(WsError::ControlTooLong),
            0x0..=0x2 | 0x8..=0xA => {}
            _ => return Err(WsError::ReservedOpcode),
        }
        match self.role {
            Role::Server if !masked => return Err(WsError::NotMasked),
            Role::Client if masked => return Err(WsError::Masked),
            _ => {}
        }
        let extended = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let header = 2 + extended + if masked { 4 } else { 0 };
        let payload = if opcode & OPCODE_CONTROL == 0 { 0 } else { usize::from(length) };
        Ok(Some(header + payload))
    }

    /// Reads a header that [`unit_len`](Self::unit_len) has passed and found complete.
    #[inline]
    fn parse(&self, unit: &[u8]) -> Result<Header, WsError> {
        let mut cursor = Cursor::new(unit);
        // It is complete, and its opcode was looked at: nothing else can fail in there.
        let Ok(Some((header, payload_bytes))) = FrameHeader::parse(&mut cursor) else {
            return Err(WsError::ReservedOpcode);
        };
        let header_bytes = header.len(payload_bytes);
        if cursor.position() != header_bytes as u64 {
            return Err(WsError::LengthNotMinimal);
        }
        if payload_bytes >> 63 != 0 {
            return Err(WsError::LengthOutOfRange);
        }
        Ok(Header {
            fin: header.is_final,
            opcode: unit[0] & OPCODE,
            key: header.mask.unwrap_or_default(),
            payload_bytes,
            header_bytes,
        })
    }

    /// Begins a data frame: a new message or a fragment of the one under way.
    #[inline]
    fn begin(&mut self, header: &Header, limits: &Limits) -> Result<(), WsError> {
        if header.payload_bytes > limits.frame_bytes_max {
            return Err(WsError::FrameTooLong);
        }
        let kind = if header.opcode == 0x2 { Kind::Binary } else { Kind::Text };
        let message = self.message.get_or_insert(Message {
            kind,
            bytes: 0,
            fragments: 0,
            started: false,
            utf8: Utf8::default(),
        });
        // Saturated sums are past any bound.
        message.fragments = message.fragments.saturating_add(1);
        message.bytes = message.bytes.saturating_add(header.payload_bytes);
        if message.fragments > limits.fragments_max {
            return Err(WsError::TooManyFragments);
        }
        if message.bytes > limits.message_bytes_max {
            return Err(WsError::MessageTooLong);
        }
        self.payload = Payload { left: header.payload_bytes, key: header.key, fin: header.fin };
        self.phase = Phase::Payload;
        Ok(())
    }

    /// The piece of the current payload that begins at `at`.
    #[inline]
    fn piece(&mut self, input: &mut [u8], at: usize) -> Result<Step, WsError> {
        let Some(message) = &mut self.message else {
            // A payload belongs to a message by construction; to be without one is to be at a header.
            self.phase = Phase::Header;
            return Ok(Step { consumed: at, found: Found::Nothing });
        };
        let available = (input.len() - at) as u64;
        let len = self.payload.left.min(available) as usize;
        let bytes = &mut input[at..at + len];
        apply_mask(bytes, self.payload.key);
        self.payload.key = rotate(self.payload.key, len);
        self.payload.left -= len as u64;
        let complete = self.payload.left == 0;
        let end = complete && self.payload.fin;

        let (kind, start) = (message.kind, !message.started);
        if kind == Kind::Text
            && let Some(wrong) = wrong_byte(&mut message.utf8, bytes, end)
        {
            if wrong == 0 {
                return Err(WsError::TextNotUtf8);
            }
            // What is valid is given first, so that a cut just before the wrong byte makes no difference;
            // that byte is left in the input, so that there will be a next call to give the error to.
            self.phase = Phase::Failed(WsError::TextNotUtf8);
            let payload = at..at + wrong;
            return Ok(Step {
                consumed: payload.end,
                found: Found::Data { kind, payload, start, end: false },
            });
        }

        message.started |= len > 0;
        if complete {
            self.phase = Phase::Header;
        }
        if end {
            self.message = None;
        }
        let payload = at..at + len;
        let consumed = payload.end;
        let found = if len > 0 || end { Found::Data { kind, payload, start, end } } else { Found::Nothing };
        Ok(Step { consumed, found })
    }

    /// A whole control frame.
    fn control(&mut self, header: &Header, unit: &mut [u8], carried: bool) -> Result<Found, WsError> {
        let payload = header.header_bytes..unit.len();
        let bytes = &mut unit[payload.clone()];
        apply_mask(bytes, header.key);
        let opcode = match header.opcode {
            0x9 => Control::Ping,
            0xA => Control::Pong,
            _ => {
                close::parse(bytes)?;
                self.phase = Phase::Closed;
                Control::Close
            }
        };
        Ok(Found::Control { opcode, payload, carried })
    }
}

/// The index of the first byte of a text piece that makes the message invalid; at the end of a message that
/// is inside a character, its last byte.
#[inline]
fn wrong_byte(utf8: &mut Utf8, bytes: &[u8], end: bool) -> Option<usize> {
    match utf8.check(bytes) {
        Err(at) => Some(at),
        Ok(()) if end && utf8.is_inside_character() => Some(bytes.len().saturating_sub(1)),
        Ok(()) => None,
    }
}
