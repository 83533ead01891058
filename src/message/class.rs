//! Encoding classes: how a MESSAGE must look to one subscription.
//!
//! Subscriptions of the same class get the same bytes, so a broadcast is encoded once per class. Most
//! clients of one application use the same subscription ids, so there is usually one.

use crate::wire::framing::Framing;
use crate::wire::stomp::Version;

/// The mode of acknowledgement of a subscription (STOMP 1.2, SUBSCRIBE, `ack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckMode {
    /// `auto`: a message counts as received when it was handed to the client's socket.
    Auto,
    /// `client`: an ACK covers all messages of the subscription up to the one it names.
    Client,
    /// `client-individual`: an ACK covers the one message it names.
    Individual,
}

impl AckMode {
    /// Reads the `ack` header; its absence means `auto`.
    pub fn parse(text: Option<&str>) -> Option<AckMode> {
        match text {
            None | Some("auto") => Some(AckMode::Auto),
            Some("client") => Some(AckMode::Client),
            Some("client-individual") => Some(AckMode::Individual),
            Some(_) => None,
        }
    }
}

/// The encoding class of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    /// The subscription's id.
    pub id: Box<str>,
    /// Whether the client gave the id: a STOMP 1.0 client need not, and then gets no `subscription` header
    /// (its id is the destination).
    pub is_named: bool,
    /// The session's version, which decides on escapes.
    pub version: Version,
    /// The mode, which decides on the `ack` header.
    pub ack: AckMode,
    /// Where the session's frames are.
    pub framing: Framing,
}
