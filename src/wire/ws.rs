//! WebSocket framing (RFC 6455): the decoder of either role, and the encoders.
//!
//! Data payloads pass through in the pieces in which they arrive and are unmasked where they lie; nothing
//! is buffered but a header or a control frame that a read has cut in two. The closing handshake, answers to
//! pings and the bytes in flight belong to the connection; extensions are not negotiated here.
//!
//! Invariant: a ws_frame that breaks a rule or a bound is refused at its header, before any of its payload
//! is looked at, and after a refusal nothing more comes out.

mod close;
mod decode;
mod encode;
mod error;
mod mask;
mod utf8;

use tungstenite::protocol::frame::coding;

pub use close::{REASON_BYTES_MAX, is_code_on_the_wire};
pub use decode::Decoder;
pub use encode::{
    encode_close, encode_header, encode_message, encode_ping, encode_pong, header_len, write_header,
};
pub use error::WsError;
pub use mask::apply_mask;

use crate::limits;

/// Payload bytes that a control frame can hold (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Bytes of the longest ws_frame header: two, eight of extended length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// Which end of the connection this is; it decides who masks (RFC 6455 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads masked ws_frames and refuses others.
    Server,
    /// Reads unmasked ws_frames and refuses others.
    Client,
}

/// What a message is said to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// The opcodes that RFC 6455 defines (section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A further fragment of the message under way.
    Continuation,
    /// The first fragment of a text message.
    Text,
    /// The first fragment of a binary message.
    Binary,
    /// The end of what this side sends.
    Close,
    /// A question for life.
    Ping,
    /// The answer to it.
    Pong,
}

impl From<Opcode> for coding::OpCode {
    fn from(opcode: Opcode) -> Self {
        match opcode {
            Opcode::Continuation => coding::OpCode::Data(coding::Data::Continue),
            Opcode::Text => coding::OpCode::Data(coding::Data::Text),
            Opcode::Binary => coding::OpCode::Data(coding::Data::Binary),
            Opcode::Close => coding::OpCode::Control(coding::Control::Close),
            Opcode::Ping => coding::OpCode::Control(coding::Control::Ping),
            Opcode::Pong => coding::OpCode::Control(coding::Control::Pong),
        }
    }
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

/// The bounds of incoming ws_frames. All are payload bytes or counts; going past one is close code 1009.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes of one ws_frame.
    pub frame_bytes_max: u64,
    /// Payload bytes of one message, over all its fragments.
    pub message_bytes_max: u64,
    /// Fragments of one message; an unfragmented message has one.
    pub fragments_max: u32,
}

impl From<&limits::WebSocket> for Limits {
    fn from(section: &limits::WebSocket) -> Self {
        Limits {
            frame_bytes_max: section.frame_bytes_max,
            message_bytes_max: section.message_bytes_max,
            fragments_max: section.fragments_max,
        }
    }
}

impl From<&limits::Echo> for Limits {
    fn from(section: &limits::Echo) -> Self {
        Limits {
            frame_bytes_max: section.frame_bytes_max,
            message_bytes_max: section.message_bytes_max,
            fragments_max: section.fragments_max,
        }
    }
}

/// What [`Decoder::decode`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A piece of a message, as long as what has arrived of its ws_frame.
    Data {
        /// The kind of the whole message.
        kind: Kind,
        /// Unmasked bytes. In a text message they are checked as far as they go: what was given so far is a
        /// prefix of valid UTF-8, and a piece may end inside a character. Empty only at the end of a message.
        payload: &'a mut [u8],
        /// The first piece of its message.
        start: bool,
        /// The last piece: the message is complete, and valid.
        end: bool,
    },
    /// A ping to be answered with a pong of the same payload (section 5.5.2).
    Ping(&'a [u8]),
    /// A pong, asked for or not (section 5.5.3).
    Pong(&'a [u8]),
    /// The peer's close, with its code and reason if it gave any (section 5.5.1). What follows it on the
    /// wire is discarded.
    Close(Option<(u16, &'a str)>),
}

#[cfg(test)]
mod tests;
