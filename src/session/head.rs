//! The headers by which a client says what a frame is for.
//!
//! They are found in one walk over the lines: a frame has few, and each reading of it looks at all of them. Bounds are
//! held when a value is asked for, so that a header which means nothing in this frame refuses nothing.
//!
//! Invariant: an id, a receipt or a destination that is given out is within its bound.

use std::borrow::Cow;

use crate::limits;
use crate::message::destination::Destination;
use crate::message::fault::Fault;
use crate::wire::stomp::{Command, StompFrame};

/// What a frame says of itself.
pub(super) struct Head<'a> {
    command: Command,
    destination: Option<Cow<'a, str>>,
    pub(super) receipt: Value<'a>,
    pub(super) transaction: Value<'a>,
    pub(super) id: Value<'a>,
    pub(super) message_id: Value<'a>,
    pub(super) ack: Option<Cow<'a, str>>,
}

/// A header that a frame may have, and its value if it has.
pub(super) struct Value<'a> {
    pub(super) header: &'static str,
    pub(super) text: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    pub(super) fn of(stomp_frame: &StompFrame<'a>) -> Head<'a> {
        let [destination, receipt, transaction, id, message_id, ack] =
            stomp_frame.values(["destination", "receipt", "transaction", "id", "message-id", "ack"]);
        Head {
            command: stomp_frame.command,
            destination,
            receipt: Value { header: "receipt", text: receipt },
            transaction: Value { header: "transaction", text: transaction },
            id: Value { header: "id", text: id },
            message_id: Value { header: "message-id", text: message_id },
            ack,
        }
    }

    /// The destination, within `stomp.destination_bytes_max`.
    pub(super) fn destination(&self, limits: &limits::Stomp) -> Result<&str, Fault> {
        let missing = Fault::MissingHeader { command: self.command, header: "destination" };
        let text = self.destination.as_deref().ok_or(missing)?;
        let max = limits.destination_bytes_max;
        if Destination::is_too_long(text, max) { Err(Fault::DestinationTooLong { max }) } else { Ok(text) }
    }

    /// One of the values, which the frame must have.
    pub(super) fn required<'v>(
        &self,
        value: &'v Value<'_>,
        limits: &limits::Stomp,
    ) -> Result<&'v str, Fault> {
        let missing = Fault::MissingHeader { command: self.command, header: value.header };
        value.bounded(limits)?.ok_or(missing)
    }
}

impl Value<'_> {
    /// The value, within `stomp.id_bytes_max`.
    pub(super) fn bounded(&self, limits: &limits::Stomp) -> Result<Option<&str>, Fault> {
        let Some(text) = self.text.as_deref() else { return Ok(None) };
        let max = limits.id_bytes_max;
        if text.len() > max as usize {
            return Err(Fault::IdTooLong { header: self.header, max });
        }
        Ok(Some(text))
    }
}
