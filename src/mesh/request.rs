//! Requests and their completions: the one way to ask.
//!
//! | asked | of | completed |
//! |---|---|---|
//! | SUBSCRIBE | the destination's owner | [`Completion::Subscribed`], in order with the room's messages |
//! | UNSUBSCRIBE | the same | [`Completion::Unsubscribed`], the same |
//! | SEND with a receipt | the same | [`Completion::Published`], when the message has its place |
//! | any of them | | [`Completion::Refused`] |
//!
//! A request is named by the connection and a serial number; who asks keeps what it waits for with its session
//! (`session::awaiting`), so that the session's end ends its waiting. A completion whose session is gone finds nothing. An owner
//! completes in any order; a service may, from any thread: [`Mesh::complete`].
//!
//! Invariant: a request whose origin has a serial number is completed exactly once.

use super::mail::Mail;
use super::mailbox::Mesh;
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::origin::Origin;

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// The session is subscribed: what comes behind this in the mailbox is for it.
    Subscribed {
        /// The destination's key.
        key: Box<str>,
        /// What it names.
        kind: Kind,
    },
    /// The session is no more subscribed: what came before this is for it.
    Unsubscribed {
        /// The destination's key.
        key: Box<str>,
    },
    /// A message has its place.
    Published,
    /// It was refused; the session ends with this.
    Refused(Fault),
}

impl Mesh {
    /// Completes a request, from any thread. Nothing happens if nobody waits for it.
    pub fn complete(&self, origin: Origin, completion: Completion) {
        let Origin { shard, connection, serial, .. } = origin;
        self.post(shard, &mut vec![Mail::Completed { connection, serial, completion }]);
    }
}
