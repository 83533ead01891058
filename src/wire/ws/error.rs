//! The ways in which incoming ws_frames can be wrong, and the close code of each.
//!
//! Bounds of the chat above (slow consumers, sessions) have close codes of their own, elsewhere.
//!
//! Invariant: [`WsError::ALL`] holds every variant once; the table in `docs/PROTOCOL.md` is compared with it.

use std::fmt;

/// A rule of RFC 6455 or a bound that an incoming ws_frame broke. The connection is failed with
/// [`close_code`](WsError::close_code) and [`reason`](WsError::reason).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WsError {
    /// An RSV bit is set and no extension is negotiated (section 5.2).
    ReservedBits,
    /// Opcode 3-7 or 11-15 (section 5.2).
    ReservedOpcode,
    /// A client's ws_frame without a mask (section 5.1).
    NotMasked,
    /// A server's ws_frame with a mask (section 5.1).
    Masked,
    /// A control frame without FIN (section 5.5).
    ControlFragmented,
    /// A control frame of more than 125 bytes (section 5.5).
    ControlTooLong,
    /// A length in more bytes than it needs (section 5.2: "the minimal number of bytes MUST be used").
    LengthNotMinimal,
    /// A 64-bit length with its most significant bit set (section 5.2: it "MUST be 0").
    LengthOutOfRange,
    /// A continuation with no message under way (section 5.4).
    ContinuationUnexpected,
    /// A new message while one is under way (section 5.4).
    ContinuationExpected,
    /// A close payload of one byte (section 5.5.1).
    ClosePayload,
    /// A close code that must not be sent (section 7.4).
    CloseCode,
    /// A text message that is not UTF-8 (section 8.1).
    TextNotUtf8,
    /// A close reason that is not UTF-8 (section 5.5.1).
    CloseReason,
    /// A ws_frame longer than [`Limits::frame_bytes_max`](super::Limits::frame_bytes_max).
    FrameTooLong,
    /// A message longer than [`Limits::message_bytes_max`](super::Limits::message_bytes_max).
    MessageTooLong,
    /// A message of more fragments than [`Limits::fragments_max`](super::Limits::fragments_max).
    TooManyFragments,
}

impl WsError {
    /// Every variant, in the order of the documentation.
    pub const ALL: &'static [WsError] = &[
        WsError::ReservedBits,
        WsError::ReservedOpcode,
        WsError::NotMasked,
        WsError::Masked,
        WsError::ControlFragmented,
        WsError::ControlTooLong,
        WsError::LengthNotMinimal,
        WsError::LengthOutOfRange,
        WsError::ContinuationUnexpected,
        WsError::ContinuationExpected,
        WsError::ClosePayload,
        WsError::CloseCode,
        WsError::TextNotUtf8,
        WsError::CloseReason,
        WsError::FrameTooLong,
        WsError::MessageTooLong,
        WsError::TooManyFragments,
    ];

    /// The close code (section 7.4.1): 1002 protocol error, 1007 not UTF-8, 1009 too big.
    pub fn close_code(self) -> u16 {
        match self {
            WsError::ReservedBits
            | WsError::ReservedOpcode
            | WsError::NotMasked
            | WsError::Masked
            | WsError::ControlFragmented
            | WsError::ControlTooLong
            | WsError::LengthNotMinimal
            | WsError::LengthOutOfRange
            | WsError::ContinuationUnexpected
            | WsError::ContinuationExpected
            | WsError::ClosePayload
            | WsError::CloseCode => 1002,
            WsError::TextNotUtf8 | WsError::CloseReason => 1007,
            WsError::FrameTooLong | WsError::MessageTooLong | WsError::TooManyFragments => 1009,
        }
    }

    /// The reason in the close frame; a bound is named by its key in the configuration.
    pub fn reason(self) -> &'static str {
        match self {
            WsError::ReservedBits => "reserved bits set without an extension",
            WsError::ReservedOpcode => "reserved opcode",
            WsError::NotMasked => "frame of a client without mask",
            WsError::Masked => "frame of a server with mask",
            WsError::ControlFragmented => "fragmented control frame",
            WsError::ControlTooLong => "control frame longer than 125 bytes",
            WsError::LengthNotMinimal => "length not in its shortest form",
            WsError::LengthOutOfRange => "length with its top bit set",
            WsError::ContinuationUnexpected => "continuation without a message",
            WsError::ContinuationExpected => "new message inside a fragmented one",
            WsError::ClosePayload => "close payload of one byte",
            WsError::CloseCode => "close code that must not be sent",
            WsError::TextNotUtf8 => "text message is not UTF-8",
            WsError::CloseReason => "close reason is not UTF-8",
            WsError::FrameTooLong => "frame longer than frame_bytes_max",
            WsError::MessageTooLong => "message longer than message_bytes_max",
            WsError::TooManyFragments => "more fragments than fragments_max",
        }
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for WsError {}
