//! One shard's end of the mesh: what it writes, what it has under way, and whom that holds.
//!
//! Credit, not refusal, bounds a mailbox: subscriptions and completions must never be lost. A shard counts what it has under
//! way to each owner and holds its publishers when that is too much ([`Port::spend`]). The owner gives the credit
//! back when it has handed the messages on, or parked them, and does not hand on into a mailbox that is over its bound.
//!
//! Invariant: what is under way to an owner is what was sent to it less what it has given back; whoever is held for credit is
//! on the list exactly once.

use std::collections::VecDeque;
use std::sync::Arc;

use super::mail::Mail;
use super::mailbox::Mesh;
use crate::broker::topic::Residency;
use crate::limits;
use crate::message::origin::ConnKey;
use crate::message::{Message, MessageId, Sequenced};

/// Messages and bytes under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Messages.
    pub messages: u64,
    /// Their weight in bytes.
    pub bytes: u64,
}

impl Credit {
    /// Counts one message.
    pub fn add(&mut self, weight: u64) {
        self.messages += 1;
        self.bytes += weight;
    }

    /// Takes off what was given back.
    ///
    /// # Panics
    /// If that is more than was counted.
    pub fn subtract(&mut self, other: Credit) {
        let taken = self.messages.checked_sub(other.messages).zip(self.bytes.checked_sub(other.bytes));
        let (messages, bytes) = taken.expect("no more credit is given back than was used");
        *self = Credit { messages, bytes };
    }
}

/// See the module.
#[derive(Debug)]
pub struct Port {
    shard: u16,
    limits: limits::Mesh,
    mesh: Arc<Mesh>,
    outboxes: Vec<Vec<Mail>>,
    /// Completions of publications, posted behind all that they are about.
    answers: Vec<(u16, Mail)>,
    /// What this shard has under way to each owner.
    under_way: Vec<Credit>,
    /// What this shard, as an owner, has handed on and not yet told the publishers' shards.
    handled: Vec<Credit>,
    /// Publications held back because a member's shard is behind, and what must not overtake them.
    deferred: VecDeque<Mail>,
    /// Connections that wait for credit.
    held: Vec<ConnKey>,
    mail: Vec<Mail>,
}

impl Port {
    /// The end of shard `shard`.
    pub fn new(shard: u16, limits: limits::Mesh, mesh: Arc<Mesh>) -> Port {
        let shards = usize::from(mesh.shards());
        Port {
            shard,
            limits,
            mesh,
            outboxes: (0..shards).map(|_| Vec::new()).collect(),
            answers: Vec::new(),
            under_way: vec![Credit::default(); shards],
            handled: vec![Credit::default(); shards],
            deferred: VecDeque::new(),
            held: Vec::new(),
            mail: Vec::new(),
        }
    }

    /// Writes to another shard; posted in order with all that is written to it.
    pub fn write(&mut self, to: u16, mail: Mail) {
        debug_assert_ne!(to, self.shard, "a shard does not write to itself");
        self.outboxes[usize::from(to)].push(mail);
    }

    /// Writes to another shard what must come behind all that is written to any.
    pub fn write_last(&mut self, to: u16, mail: Mail) {
        self.answers.push((to, mail));
    }

    /// Writes a message to each of these shards but this one; returns whether this one is among them.
    pub fn hand_on(&mut self, id: MessageId, message: &Message, shards: &[Residency]) -> bool {
        let mut is_own = false;
        for &Residency { shard, .. } in shards {
            if shard == self.shard {
                is_own = true;
            } else {
                let sequenced = Sequenced { id, message: message.clone() };
                self.outboxes[usize::from(shard)].push(Mail::Deliver(sequenced));
            }
        }
        is_own
    }

    /// Puts all mail into mailboxes. Done before sockets are written: whoever reads an answer and acts on it comes behind what
    /// the answer was about.
    pub fn post(&mut self) {
        self.post_outboxes();
        if !self.answers.is_empty() {
            for (shard, answer) in self.answers.drain(..) {
                self.outboxes[usize::from(shard)].push(answer);
            }
            self.post_outboxes();
        }
    }

    fn post_outboxes(&mut self) {
        for shard in (0..self.mesh.shards()).filter(|shard| *shard != self.shard) {
            let to = usize::from(shard);
            let credit = std::mem::take(&mut self.handled[to]);
            if credit != Credit::default() {
                self.outboxes[to].push(Mail::Handled { owner: self.shard, credit });
            }
            self.mesh.post(shard, &mut self.outboxes[to]);
        }
    }

    /// Takes all mail out of the mailbox. [`Port::reuse`] takes the list back.
    pub fn take(&mut self) -> Vec<Mail> {
        let mut mail = std::mem::take(&mut self.mail);
        self.mesh.take(self.shard, &mut mail);
        mail
    }

    /// Takes back the memory of a list that [`Port::take`] gave out.
    pub fn reuse(&mut self, mut mail: Vec<Mail>) {
        mail.clear();
        self.mail = mail;
    }

    // ---- credit ----

    /// A publication is under way to an owner. Returns whether the credit for that is spent, so that its publisher is to be
    /// held.
    pub fn spend(&mut self, owner: u16, weight: u64) -> bool {
        self.under_way[usize::from(owner)].add(weight);
        self.is_spent(owner)
    }

    /// Whether as much is under way to an owner as may be.
    fn is_spent(&self, owner: u16) -> bool {
        let credit = self.under_way[usize::from(owner)];
        credit.messages >= u64::from(self.limits.messages_max) || credit.bytes >= self.limits.bytes_max
    }

    /// An owner has given credit back.
    pub fn give_back(&mut self, owner: u16, credit: Credit) {
        self.under_way[usize::from(owner)].subtract(credit);
    }

    /// As an owner: a publication of another shard has been handed on, or parked.
    pub fn handle(&mut self, publisher: u16, weight: u64) {
        if publisher != self.shard {
            self.handled[usize::from(publisher)].add(weight);
        }
    }

    /// Whether the mailbox of another shard holds more than it may. Who writes there what has no credit of its own is held then: it
    /// must not be lost.
    pub fn is_full(&self, shard: u16) -> bool {
        shard != self.shard && self.mesh.is_full(shard, self.limits.bytes_max)
    }

    /// Whether the mailbox of any other shard holds more than it may.
    fn is_any_full(&self) -> bool {
        (0..self.mesh.shards()).any(|shard| self.is_full(shard))
    }

    /// A connection waits for credit.
    pub fn wait(&mut self, key: ConnKey) {
        self.held.push(key);
    }

    /// Those who waited, if there is credit again: all credits are below half, so that publishers do not stop and go for every
    /// message, and no mailbox is full.
    pub fn take_waiting(&mut self) -> Vec<ConnKey> {
        let is_over = |credit: &Credit| {
            credit.messages > u64::from(self.limits.messages_max / 2)
                || credit.bytes > self.limits.bytes_max / 2
        };
        let is_held_up = self.held.is_empty()
            || !self.deferred.is_empty()
            || self.under_way.iter().any(is_over)
            || self.is_any_full();
        if is_held_up { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    // ---- publications that wait for a mailbox ----

    /// Holds a publication back, or what must not overtake one, behind those that are.
    pub fn defer(&mut self, mail: Mail) {
        self.deferred.push_back(mail);
    }

    /// The mailboxes, for a service that completes requests of this shard.
    pub fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.mesh)
    }

    /// Whether any is held back.
    pub fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// The one that was held back first.
    pub fn next_deferred(&self) -> Option<&Mail> {
        self.deferred.front()
    }

    /// Takes that one.
    pub fn take_deferred(&mut self) -> Option<Mail> {
        self.deferred.pop_front()
    }

    // ---- memory and checks ----

    /// Bytes in this shard's mailbox.
    pub fn mailbox_bytes(&self) -> u64 {
        self.mesh.bytes(self.shard)
    }

    /// Connections that wait for credit, and the room that their list has.
    pub fn waiting(&self) -> (usize, usize) {
        (self.held.len(), self.held.capacity())
    }

    /// Gives back what a calm turn does not need.
    pub fn shrink_to(&mut self, mail: usize, connections: usize) {
        self.mail.shrink_to(mail);
        self.answers.shrink_to(mail);
        self.deferred.shrink_to(mail);
        self.held.shrink_to(connections);
        self.outboxes.iter_mut().for_each(|outbox| outbox.shrink_to(mail));
        self.mesh.shrink_to(self.shard, mail);
    }

    /// Panics unless nothing is under way, and nobody waits.
    pub fn check_empty(&self) {
        assert!(self.under_way.iter().all(|credit| *credit == Credit::default()));
        assert!(self.deferred.is_empty() && self.held.is_empty());
        assert!(self.outboxes.iter().all(Vec::is_empty) && self.answers.is_empty());
        assert_eq!(self.mailbox_bytes(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::destination::Destination;
    use crate::message::origin::{Holder, Origin};

    fn ports() -> [Port; 2] {
        let mesh = Arc::new(Mesh::new((0..2).map(|_| Box::new(|| {}) as _).collect()));
        let limits = limits::Mesh { messages_max: 4, bytes_max: 4096 };
        [0, 1].map(|shard| Port::new(shard, limits.clone(), Arc::clone(&mesh)))
    }

    #[test]
    fn publishers_wait_when_credit_is_spent_and_go_on_at_half() {
        let [mut port, _] = ports();
        let key = ConnKey { index: 1, generation: 1 };
        assert_eq!([10, 10, 10, 10].map(|weight| port.spend(1, weight)), [false, false, false, true]);
        port.wait(key);
        assert!(port.take_waiting().is_empty());
        port.give_back(1, Credit { messages: 1, bytes: 10 });
        assert!(port.take_waiting().is_empty(), "three of four are above half");
        port.give_back(1, Credit { messages: 1, bytes: 10 });
        assert_eq!(port.take_waiting(), [key]);
        assert!(port.spend(1, 5000), "bytes are counted, too");
    }

    #[test]
    #[should_panic(expected = "no more credit is given back than was used")]
    fn more_credit_than_was_used_is_a_bug() {
        ports()[0].give_back(1, Credit { messages: 1, bytes: 0 });
    }

    #[test]
    fn completions_come_behind_what_they_are_about_and_bring_the_credit_back() {
        let [mut owner, mut publisher] = ports();
        publisher.spend(0, 100);
        let full = || Mail::RoomFull { key: "a".into(), shard: 0, is_full: true };
        let done = Mail::Parked { connection: ConnKey::DEAD_LETTERS, is_parked: false };
        owner.write_last(1, done);
        owner.write(1, full());
        owner.handle(1, 100);
        owner.handle(0, 100);
        owner.post();
        let mail = publisher.take();
        let [Mail::RoomFull { .. }, Mail::Handled { owner: 0, credit }, Mail::Parked { .. }] = &mail[..]
        else {
            panic!("{mail:?}")
        };
        publisher.give_back(0, *credit);
        publisher.reuse(mail);
        publisher.check_empty();
        owner.check_empty();
    }

    #[test]
    fn a_full_mailbox_holds_everybody_until_it_was_taken() {
        let [mut writer, mut reader] = ports();
        let message = Message::new(&Destination::parse_send("/topic/a").unwrap(), b"", &[0; 8192]);
        let origin =
            Origin { shard: 0, connection: ConnKey::DEAD_LETTERS, serial: None, holder: Holder::Address(1) };
        writer.write(1, Mail::Publish { origin, message });
        assert!(!writer.is_any_full());
        writer.post();
        writer.wait(ConnKey::DEAD_LETTERS);
        assert!(writer.is_full(1) && writer.is_any_full() && writer.take_waiting().is_empty());
        assert!(reader.mailbox_bytes() > 8192);
        reader.take();
        assert_eq!(writer.take_waiting(), [ConnKey::DEAD_LETTERS]);
    }
}
