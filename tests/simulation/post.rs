//! What is between the mailboxes and the shards: it sees all mail, and is the service that completes requests.
//!
//! Before a shard takes its mail, the list goes through [`Post::look`]. Completions of publications may come late there, in
//! another order, as failures, or never: as from a thread beside the shards. And what nobody waits for is completed all the
//! same ([`Post::stray`]): requests of sessions that have ended, and numbers that no request has.
//!
//! Invariant: mail that is no completion of a publication keeps its place.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tcbchat::broker::queue::Settlement;
use tcbchat::mesh::Mesh;
use tcbchat::mesh::mail::Mail;
use tcbchat::mesh::request::Completion;
use tcbchat::message::destination::Kind;
use tcbchat::message::fault::Fault;
use tcbchat::message::origin::{Holder, Origin};
use tcbchat::shard::ConnKey;

use crate::coverage::Coverage;
use crate::gate::Gate;

/// A number that no request of a world has.
const NO_SERIAL: u32 = u32::MAX - 7;

/// See the module.
pub struct Post {
    mesh: Arc<Mesh>,
    rng: StdRng,
    /// Completions go by the service; else they are left alone.
    has_service: bool,
    held: Vec<(Origin, Completion)>,
    mail: Vec<Mail>,
    /// Connections that have ended, and their shards.
    ended: Vec<(u16, ConnKey)>,
    pub coverage: Coverage,
}

impl Post {
    pub fn new(seed: u64, mesh: Arc<Mesh>) -> Post {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        Post {
            mesh,
            has_service: rng.random_bool(0.5),
            rng,
            held: Vec::new(),
            mail: Vec::new(),
            ended: Vec::new(),
            coverage: Coverage::default(),
        }
    }

    /// No completion goes by the service.
    pub fn leave_alone(&mut self) {
        self.has_service = false;
    }

    /// Looks at the mail that a shard is about to take.
    pub fn look(&mut self, shard: usize) {
        let of = shard as u16;
        let mut mail = std::mem::take(&mut self.mail);
        self.mesh.take(of, &mut mail);
        mail.retain(|piece| {
            self.coverage.note("mail", kind_of(piece));
            let Mail::Completed { connection, serial, completion: Completion::Published } = piece else {
                return true;
            };
            if !self.has_service {
                return true;
            }
            let (connection, holder) = (*connection, Holder::Session(of, *connection));
            let origin = Origin { shard: of, connection, serial: *serial, holder };
            // A dead letter stays in its queue until it is answered, so it is.
            let is_of_session = connection.own().is_none();
            match self.rng.random_range(0..100) {
                0..4 if is_of_session => self.coverage.note("service", "never completes"),
                4..8 if is_of_session => {
                    self.coverage.note("service", "refuses");
                    self.held
                        .push((origin, Completion::Refused(Fault::QueueFull { bound: "a service", max: 0 })));
                }
                8..60 => {
                    self.coverage.note("service", "completes late");
                    self.held.push((origin, Completion::Published));
                }
                _ => return true,
            }
            false
        });
        self.mesh.post(of, &mut mail);
        self.mail = mail;
    }

    /// Completes some of what the service holds, in no order.
    pub fn complete_some(&mut self) {
        while !self.held.is_empty() && self.rng.random_bool(0.2) {
            self.complete_one();
        }
    }

    /// Has the gate answer some of what it was asked, or all of it. Returns whether there was any.
    pub fn answer_by(&mut self, gate: &Gate, is_all: bool) -> bool {
        gate.answer(is_all, &mut self.coverage)
    }

    /// Completes all of it. Returns whether there was any.
    pub fn complete_all(&mut self) -> bool {
        let has_any = !self.held.is_empty();
        while !self.held.is_empty() {
            self.complete_one();
        }
        has_any
    }

    fn complete_one(&mut self) {
        let at = self.rng.random_range(0..self.held.len());
        if at > 0 {
            self.coverage.note("service", "completes in another order");
        }
        let (origin, completion) = self.held.remove(at);
        if self.ended.contains(&(origin.shard, origin.connection)) {
            self.coverage.note("service", "completes for a session that has ended");
        }
        self.mesh.complete(origin, completion);
    }

    /// A connection has ended.
    pub fn ended(&mut self, shard: usize, key: ConnKey) {
        self.ended.push((shard as u16, key));
    }

    /// Completes, now and then, what nobody waits for; `live` is a connection that is there.
    pub fn stray(&mut self, live: Option<(usize, ConnKey)>) {
        if !self.has_service || !self.rng.random_bool(0.05) {
            return;
        }
        let ended = (!self.ended.is_empty()).then(|| self.ended[self.rng.random_range(0..self.ended.len())]);
        let ((shard, connection), is_ended) = match (ended, live) {
            (Some(ended), None) => (ended, true),
            (Some(ended), Some(_)) if self.rng.random_bool(0.5) => (ended, true),
            (_, Some((shard, key))) => ((shard as u16, key), false),
            (None, None) => return,
        };
        self.coverage
            .note("service", if is_ended { "stray of an ended session" } else { "stray of a live one" });
        // The serials of a world begin at zero: an ended session had one of the first ones.
        let serial = Some(if is_ended { self.rng.random_range(0..40) } else { NO_SERIAL });
        let origin = Origin { shard, connection, serial, holder: Holder::Session(shard, connection) };
        let completion = match self.rng.random_range(0..3) {
            0 => Completion::Published,
            1 if is_ended => Completion::Unsubscribed { key: "/topic/a".into() },
            _ => Completion::Refused(Fault::QueueFull { bound: "a stray", max: 0 }),
        };
        self.mesh.complete(origin, completion);
    }

    /// Panics if the service holds something back still.
    pub fn check_empty(&self) {
        assert!(self.held.is_empty());
    }
}

fn kind_of(mail: &Mail) -> &'static str {
    match mail {
        Mail::Subscribe { kind: Kind::Queue, .. } => "Subscribe to a queue",
        Mail::Subscribe { .. } => "Subscribe to a room",
        Mail::Recover { .. } => "Recover",
        Mail::Unsubscribe { kind: Kind::Queue, .. } => "Unsubscribe from a queue",
        Mail::Unsubscribe { origin: Origin { serial: Some(_), .. }, .. } => {
            "Unsubscribe from a room, awaited"
        }
        Mail::Unsubscribe { .. } => "Unsubscribe from a room",
        Mail::Publish { origin: Origin { connection: ConnKey::DEAD_LETTERS, .. }, .. } => {
            "Publish a dead letter"
        }
        Mail::Publish { message, .. } if message.kind() == Kind::Reply => "Publish an answer",
        Mail::Publish { .. } => "Publish",
        Mail::Deliver(_) => "Deliver",
        Mail::Completed { connection: ConnKey::DEAD_LETTERS, completion: Completion::Refused(_), .. } => {
            "Completed: a dead letter refused"
        }
        Mail::Completed { connection: ConnKey::DEAD_LETTERS, .. } => "Completed: a dead letter",
        Mail::Completed { completion: Completion::Subscribed { kind: Kind::Queue, .. }, .. } => {
            "Completed: Subscribed to a queue"
        }
        Mail::Completed { completion: Completion::Subscribed { start: Some(_), .. }, .. } => {
            "Completed: Subscribed to a room, with nothing to recover"
        }
        Mail::Completed { completion: Completion::Subscribed { .. }, .. } => {
            "Completed: Subscribed to a room"
        }
        Mail::Completed { completion: Completion::Recovering { .. }, .. } => "Completed: Recovering",
        Mail::Completed { completion: Completion::Page { page: Ok(page), .. }, .. } if page.is_last => {
            "Completed: the last page"
        }
        Mail::Completed { completion: Completion::Page { .. }, .. } => "Completed: a page",
        Mail::Completed { completion: Completion::Unsubscribed { .. }, .. } => "Completed: Unsubscribed",
        Mail::Completed { completion: Completion::Published, .. } => "Completed: Published",
        Mail::Completed { completion: Completion::Identified(_), .. } => "Completed: Identified",
        Mail::Completed { completion: Completion::Refused(_), .. } => "Completed: Refused",
        Mail::Handled { .. } => "Handled",
        Mail::RoomFull { is_full: true, .. } => "RoomFull",
        Mail::RoomFull { is_full: false, .. } => "RoomFull, no more",
        Mail::Parked { is_parked: true, .. } => "Parked",
        Mail::Parked { is_parked: false, .. } => "Parked, no more",
        Mail::Settle { settlement: Settlement::Ack, .. } => "Settle: Ack",
        Mail::Settle { settlement: Settlement::Nack, .. } => "Settle: Nack",
        Mail::Offer(_) => "Offer",
        Mail::Inquire(inquiry) => inquiry.name(),
    }
}
