//! The ways in which the bytes of a STOMP frame can be wrong.
//!
//! Frames that are well-formed and still refused (unknown destinations, missing headers, sessions past their
//! bounds) are the session's errors.
//!
//! Invariant: [`StompError::all`] holds every variant once; the table in `docs/PROTOCOL.md` is compared with it.

use std::fmt;

use crate::limits;

/// A rule of STOMP or a bound of `[stomp]` that incoming bytes broke. The text of its `Display` is the
/// `message` header of the ERROR that answers it; the connection closes then, since there is no next frame
/// boundary to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StompError {
    /// The first line is no command.
    UnknownCommand,
    /// Command and header lines are longer than `max` bytes.
    HeadTooLong {
        /// `stomp.head_bytes_max`
        max: u32,
    },
    /// One header line is longer than `max` bytes.
    HeaderTooLong {
        /// `stomp.header_bytes_max`
        max: u32,
    },
    /// One header line of CONNECT is longer than `max` bytes.
    ConnectHeaderTooLong {
        /// `stomp.connect_header_bytes_max`
        max: u32,
    },
    /// There are more than `max` header lines.
    TooManyHeaders {
        /// `stomp.headers_max`
        max: u32,
    },
    /// The body is longer than `max` bytes.
    BodyTooLong {
        /// `stomp.body_bytes_max`
        max: u32,
    },
    /// A NUL before the blank line that ends the headers.
    NulInHead,
    /// A header line without a colon, or with nothing before it.
    HeaderMalformed,
    /// A carriage return in a header that is not part of the line's end (1.2).
    CarriageReturn,
    /// A backslash that begins no escape of the version (1.1 and 1.2).
    UndefinedEscape,
    /// The head is not UTF-8.
    HeadNotUtf8,
    /// `content-length` is not a number.
    ContentLength,
    /// A body on a frame that must have none.
    BodyNotAllowed,
    /// No NUL after the `content-length` bytes of the body.
    NulMissing,
    /// The same, and a replacement character in the body: stompjs' `splitLargeFrames` has cut a character in two, and the
    /// browser has replaced both halves.
    CharacterCut,
    /// A WebSocket message begins with a whole head, while the frame before it has not had its NUL.
    NulForgotten,
}

impl StompError {
    /// Every variant, in the order of the documentation, with the bounds of `limits`.
    pub fn all(limits: &limits::Stomp) -> Vec<StompError> {
        vec![
            StompError::UnknownCommand,
            StompError::head_too_long(limits),
            StompError::header_too_long(limits),
            StompError::connect_header_too_long(limits),
            StompError::too_many_headers(limits),
            StompError::body_too_long(limits),
            StompError::NulInHead,
            StompError::HeaderMalformed,
            StompError::CarriageReturn,
            StompError::UndefinedEscape,
            StompError::HeadNotUtf8,
            StompError::ContentLength,
            StompError::BodyNotAllowed,
            StompError::NulMissing,
            StompError::CharacterCut,
            StompError::NulForgotten,
        ]
    }

    /// A stable name for metrics and logs.
    pub fn short_name(self) -> &'static str {
        match self {
            StompError::UnknownCommand => "unknown-command",
            StompError::HeadTooLong { .. } => "head-too-long",
            StompError::HeaderTooLong { .. } => "header-too-long",
            StompError::ConnectHeaderTooLong { .. } => "connect-header-too-long",
            StompError::TooManyHeaders { .. } => "too-many-headers",
            StompError::BodyTooLong { .. } => "body-too-long",
            StompError::NulInHead => "nul-in-head",
            StompError::HeaderMalformed => "header-malformed",
            StompError::CarriageReturn => "carriage-return",
            StompError::UndefinedEscape => "undefined-escape",
            StompError::HeadNotUtf8 => "head-not-utf8",
            StompError::ContentLength => "content-length",
            StompError::BodyNotAllowed => "body-not-allowed",
            StompError::NulMissing => "nul-missing",
            StompError::CharacterCut => "character-cut",
            StompError::NulForgotten => "nul-forgotten",
        }
    }

    /// Whether a configured bound was passed, as opposed to a rule of the protocol broken.
    pub fn is_bound(self) -> bool {
        matches!(
            self,
            StompError::HeadTooLong { .. }
                | StompError::HeaderTooLong { .. }
                | StompError::ConnectHeaderTooLong { .. }
                | StompError::TooManyHeaders { .. }
                | StompError::BodyTooLong { .. }
        )
    }

    pub(super) fn head_too_long(limits: &limits::Stomp) -> Self {
        StompError::HeadTooLong { max: limits.head_bytes_max }
    }

    pub(super) fn header_too_long(limits: &limits::Stomp) -> Self {
        StompError::HeaderTooLong { max: limits.header_bytes_max }
    }

    pub(super) fn connect_header_too_long(limits: &limits::Stomp) -> Self {
        StompError::ConnectHeaderTooLong { max: limits.connect_header_bytes_max }
    }

    pub(super) fn too_many_headers(limits: &limits::Stomp) -> Self {
        StompError::TooManyHeaders { max: limits.headers_max }
    }

    pub(super) fn body_too_long(limits: &limits::Stomp) -> Self {
        StompError::BodyTooLong { max: limits.body_bytes_max }
    }
}

impl fmt::Display for StompError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StompError::UnknownCommand => f.write_str("unknown command"),
            StompError::HeadTooLong { max } => {
                write!(f, "head is longer than stomp.head_bytes_max = {max}")
            }
            StompError::HeaderTooLong { max } => {
                write!(f, "header line is longer than stomp.header_bytes_max = {max}")
            }
            StompError::ConnectHeaderTooLong { max } => {
                write!(f, "header line of CONNECT is longer than stomp.connect_header_bytes_max = {max}")
            }
            StompError::TooManyHeaders { max } => {
                write!(f, "more header lines than stomp.headers_max = {max}")
            }
            StompError::BodyTooLong { max } => {
                write!(f, "body is longer than stomp.body_bytes_max = {max}")
            }
            StompError::NulInHead => f.write_str("NUL before the end of the headers"),
            StompError::HeaderMalformed => f.write_str("header line without a name and a colon"),
            StompError::CarriageReturn => f.write_str("carriage return inside a header line"),
            StompError::UndefinedEscape => f.write_str("undefined escape in a header line"),
            StompError::HeadNotUtf8 => f.write_str("head is not UTF-8"),
            StompError::ContentLength => f.write_str("content-length is not a number"),
            StompError::BodyNotAllowed => {
                f.write_str("body on a frame that must have none; or there is no NUL at its end")
            }
            StompError::NulMissing => f.write_str(
                "no NUL after the content-length bytes of the body; content-length counts bytes, not characters",
            ),
            StompError::CharacterCut => f.write_str(
                "no NUL after the content-length bytes of the body, and U+FFFD in it: a character was cut in two; with \
                 splitLargeFrames, stompjs needs forceBinaryWSFrames",
            ),
            StompError::NulForgotten => {
                f.write_str("a frame begins inside the body of another, which has no NUL at its end")
            }
        }
    }
}

impl std::error::Error for StompError {}
