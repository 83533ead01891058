//! STOMP 1.0, 1.1 and 1.2: frames from a stream of bytes, and back.
//!
//! The decoder works on a byte stream, so WebSocket message boundaries mean nothing to it. It knows how
//! frames look, not what they are for: which command may come when, and which headers it needs, is the
//! session's business.
//!
//! Invariant: a [`StompFrame`] that the decoder gives out is well-formed for its version (commands known,
//! head UTF-8, escapes defined, lengths right), so that reading it cannot fail.

mod command;
mod decode;
mod encode;
mod error;
mod header;
mod passing;

use std::fmt;

pub use command::Command;
pub use decode::{Decoder, Step, begins_with_head};
pub use encode::Encoder;
pub use error::StompError;
pub use header::{Headers, StompFrame};
pub use passing::{
    REPLY_TO, SERVER_HEADERS, is_blank_of_name, is_server_header, own_header_line, server_header_lines,
    transcode_lines, user_header_lines, whence_lines,
};

/// A protocol version. They differ in escapes, in the headers that frames must have (the session's
/// business), and in trimming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// No escapes; blanks around a header value do not belong to it.
    V10,
    /// Escapes `\n`, `\c` and `\\`.
    V11,
    /// Escapes `\r` besides.
    V12,
}

impl Version {
    /// All versions, newest first.
    pub const ALL: [Version; 3] = [Version::V12, Version::V11, Version::V10];

    /// As in the `version` and `accept-version` headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V10 => "1.0",
            Version::V11 => "1.1",
            Version::V12 => "1.2",
        }
    }

    /// As in `Sec-WebSocket-Protocol`.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Version::V10 => "v10.stomp",
            Version::V11 => "v11.stomp",
            Version::V12 => "v12.stomp",
        }
    }

    /// The newest version that a client offers in CONNECT's `accept-version`; a client that has no such
    /// header speaks 1.0 (STOMP 1.2, "Protocol Negotiation"). `None`: it offers none of these.
    pub fn negotiate(accept_version: Option<&str>) -> Option<Version> {
        let Some(offered) = accept_version else {
            return Some(Version::V10);
        };
        let offers = |version: &Version| offered.split(',').any(|one| one.trim() == version.as_str());
        Version::ALL.into_iter().find(offers)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
