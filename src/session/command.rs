//! What a session says to its shard: commands, and the ways in which it ends.
//!
//! Values only; the shard carries them out.

use compact_str::CompactString;

use crate::auth::{Credentials, Secret};
use crate::message::Message;
use crate::message::class::AckMode;
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::past::Past;
use crate::session::Unsettled;
use crate::wire::ws::WsError;

/// What a frame asks the shard to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Answer CONNECTED; the session is connected.
    Connected,
    /// Ask who the client is, and answer CONNECTED then.
    Authenticate(Box<Credentials>),
    /// Ask again, by this token, so that the session may last longer.
    Renew(Secret),
    /// Add a subscription; the class has been acquired for it.
    Subscribe {
        /// The class.
        class: Symbol,
        /// The place's key.
        key: Box<str>,
        /// What the place is.
        kind: Kind,
        /// The mode.
        ack: AckMode,
        /// What it asks of the past.
        past: Option<Past>,
    },
    /// Put a question to the application; the class has been acquired for it.
    Ask(Question),
    /// Take the subscription with this class out.
    Unsubscribe(Symbol),
    /// Hand a message to its place.
    Publish(Message),
    /// Tell the owner of a queue what became of a message.
    Settle {
        /// The message.
        unsettled: Unsettled,
        /// Refused rather than done.
        is_nack: bool,
    },
    /// Answer RECEIPT when everything before has been done.
    Receipt(CompactString),
    /// End the session when everything before has been done.
    Disconnect,
}

/// A SUBSCRIBE that the application answers once.
#[derive(Debug, Clone)]
pub struct Question {
    /// The class of what becomes of it in the session.
    pub class: Symbol,
    /// The key of the queue that it goes to.
    pub key: Box<str>,
    /// The mode of the subscription.
    pub ack: AckMode,
    /// Headers of the message that it is, but for where the answer goes.
    pub lines: Vec<u8>,
}

/// A way in which a session ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It said DISCONNECT.
    Disconnect,
    /// A frame of its, or what that asked an owner for, failed; with the receipt that the frame asked for.
    Fault(Fault, Option<CompactString>),
    /// The framing is broken.
    Broken(WsError),
    /// The peer's close frame has come, with this code.
    PeerClosed(Option<u16>),
    /// The peer's stream has ended.
    StreamEnded,
    /// The server ends: the close code, and why.
    Goodbye(u16, &'static str),
}

impl Command {
    /// Bytes that count against `stomp.transaction_bytes_max` while a transaction holds it.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Command::Publish(message) => message.weight(),
            _ => size_of::<Command>() as u64,
        }
    }
}
