//! Requests and their completions: the one way to ask.
//!
//! | asked | of | completed |
//! |---|---|---|
//! | SUBSCRIBE | the destination's owner | [`Completion::Subscribed`], in order with the room's messages; [`Completion::Recovering`] if the past comes first |
//! | a page of the past | the same | [`Completion::Page`], the same |
//! | UNSUBSCRIBE | the same | [`Completion::Unsubscribed`], the same |
//! | SEND with a receipt | the same | [`Completion::Published`], when the message has its place |
//! | CONNECT, a new token | the [`Authenticator`] | [`Completion::Identified`] |
//! | any of them | | [`Completion::Refused`] |
//!
//! A request is named by the connection and a serial number; who asks keeps what it waits for with its session
//! (`session::awaiting`), so that the session's end ends its waiting. A completion whose session is gone finds nothing. An owner
//! completes in any order; a service may, from any thread: [`Mesh::complete`].
//!
//! Invariant: a request whose origin has a serial number is completed exactly once.

use std::sync::{Arc, Weak};

use super::mail::Mail;
use super::mailbox::Mesh;
use crate::auth::{Credentials, Principal};
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::origin::Origin;
use crate::message::past::{Page, Start};
use crate::session::ticket::Sources;

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its login, roles and claims; `None` for one that may be nobody.
    pub principal: Option<Principal>,
    /// Until when that holds, if not for as long as the session lasts.
    pub expiry: Option<Expiry>,
}

/// When a proof ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Seconds since 1970.
    pub at_s: u64,
    /// Milliseconds from the answer on, so that no later step of the wall clock counts.
    pub in_ms: u64,
}

/// Knows who clients are.
pub trait Authenticator: Send + Sync {
    /// Where credentials are looked for.
    fn sources(&self) -> &Sources;

    /// Takes a question, in the thread of a shard: it must not wait. It is answered from any thread, at any time.
    fn ask(&self, question: Question);
}

/// Who somebody is who says so. It is answered once: one that is dropped is refused as nobody's fault.
#[derive(Debug)]
pub struct Question {
    origin: Origin,
    credentials: Box<Credentials>,
    waits: Weak<()>,
    mesh: Arc<Mesh>,
    is_answered: bool,
}

impl Question {
    /// A question of this origin, which has a serial number. `waits` is dead when nobody waits for the answer any more.
    pub fn new(origin: Origin, credentials: Box<Credentials>, waits: Weak<()>, mesh: Arc<Mesh>) -> Question {
        Question { origin, credentials, waits, mesh, is_answered: false }
    }

    /// Whether its session waits for the answer still.
    pub fn is_awaited(&self) -> bool {
        self.waits.strong_count() > 0
    }

    /// Who asks.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the client says.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Who it is, or the fault that its session ends by.
    pub fn answer(mut self, answer: Result<Identity, Fault>) {
        self.complete(match answer {
            Ok(identity) => Completion::Identified(Box::new(identity)),
            Err(fault) => Completion::Refused(fault),
        });
    }

    fn complete(&mut self, completion: Completion) {
        self.is_answered = true;
        self.mesh.complete(self.origin, completion);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if !self.is_answered {
            self.complete(Completion::Refused(Fault::AuthUnavailable));
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// The session is subscribed: what comes behind this in the mailbox is for it.
    Subscribed {
        /// The destination's key.
        key: Box<str>,
        /// What it names.
        kind: Kind,
        /// The answer to what it asked of the past.
        start: Option<Box<Start>>,
    },
    /// The session will be subscribed when it has recovered what was before: it asks for that a page at a time.
    Recovering {
        /// The destination's key.
        key: Box<str>,
        /// How it begins.
        start: Box<Start>,
    },
    /// Some of the past. With the last page the session is subscribed: what comes behind this in the mailbox is for it.
    Page {
        /// The destination's key.
        key: Box<str>,
        /// What it names.
        kind: Kind,
        /// The messages, or why there are none: no room can be made.
        page: Result<Box<Page>, Fault>,
    },
    /// The session is no more subscribed: what came before this is for it.
    Unsubscribed {
        /// The destination's key.
        key: Box<str>,
    },
    /// A message has its place.
    Published,
    /// The client has proved who it is, or need not.
    Identified(Box<Identity>),
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
