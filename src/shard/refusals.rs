//! Frames that are refused: by an ERROR, which ends the session, or by a MESSAGE, if `stomp.refusals` says so.
//!
//! A session goes on only after what has had no effect ([`Fault::is_refusal`]). A COMMIT is many frames in one: what refuses it
//! ends the session, but for owners of other shards, who refuse one message of it.
//!
//! Invariant: a frame that was refused gets no RECEIPT.

use compact_str::CompactString;

use crate::conn::hold::Reason;
use crate::message::class::Class;
use crate::message::destination::{Destination, Kind};
use crate::message::fault::{Fault, Refusals};
use crate::message::interner::Symbol;
use crate::message::reply::{self, ERRORS};
use crate::session::{End, State, Subscription};
use crate::shard::Shard;
use crate::time::Tick;
use crate::wire::stomp::Command;

impl Shard {
    /// A frame of the session is refused.
    pub(super) fn refuse(
        &mut self,
        index: u32,
        command: Command,
        fault: Fault,
        receipt: Option<CompactString>,
        now: Tick,
    ) {
        if command != Command::Commit && self.survives(index, &fault) {
            return self.tell_refusal(index, &fault, receipt.as_deref(), now);
        }
        self.end(index, End::Fault(fault, receipt), now);
    }

    /// An owner or a service has refused what an earlier frame asked for; `serial` is its request, if it has one.
    pub(super) fn refuse_earlier(&mut self, index: u32, serial: Option<u32>, fault: Fault, now: Tick) {
        if self.survives(index, &fault) {
            let receipt = serial.and_then(|serial| self.sessions[index].take_receipt(serial));
            self.tell_refusal(index, &fault, receipt.as_deref(), now);
            if let Some(serial) = serial {
                self.give_up(index, serial, &fault);
                self.completed(index, serial, now);
            }
            return;
        }
        let Some(serial) = serial else {
            // Which frames came behind it is not known, and none of them may be confirmed.
            return self.fault(index, fault, None, now);
        };
        // The session ends by this, whatever it was to end by.
        let receipt = self.sessions[index].refused(serial);
        let has_deadline = self.has_deadline(index);
        self.sessions[index].end_first_by(fault, receipt);
        if self.waits_to_end(index) {
            self.await_receipts(index, !has_deadline, now);
        }
        self.conclude_if_done(index, now);
    }

    fn survives(&self, index: u32, fault: &Fault) -> bool {
        // Of a session that is connected, these two are about a new token: the old one holds, and nobody has done wrong.
        let is_renewal = matches!(fault, Fault::AuthBusy | Fault::AuthUnavailable);
        (is_renewal || self.env.limits.refusals == Refusals::Message)
            && fault.is_refusal()
            && self.connections.phase(index).has_session()
            && self.sessions[index].is_connected()
    }

    /// Takes out what a refused request was for.
    fn give_up(&mut self, index: u32, serial: u32, fault: &Fault) {
        let subscriptions = self.sessions[index].subscriptions();
        let asking = subscriptions.joining(serial).or_else(|| subscriptions.asked(serial));
        let joining = asking.map(|asking| asking.class);
        if let Some(gone) = joining.and_then(|class| self.sessions[index].unsubscribed(class)) {
            self.leave_place(index, gone, None);
            self.count_sources(index);
        }
        // A new token that could not be judged: the old one holds.
        if matches!(fault, Fault::AuthBusy | Fault::AuthUnavailable) {
            self.sessions.answered(index);
            self.release(self.connections.key_of(index), Reason::Identity);
        }
    }

    /// Sends the MESSAGE that says what the ERROR would.
    fn tell_refusal(&mut self, index: u32, fault: &Fault, receipt: Option<&str>, now: Tick) {
        self.counters.refusals_survived_total += 1;
        self.count_fault(fault);
        self.note_refusal(index, fault, now);
        let number = self.counters.refusals_survived_total;
        let session = &self.sessions[index];
        let version = session.version_or_newest();
        let classes = self.errors_of(index);
        if classes.is_empty() {
            return self
                .say_stomp(index, |out| reply::refusal(version, Some(ERRORS), number, fault, receipt, out));
        }
        for class in classes {
            let id = class.is_named.then_some(&*class.id);
            self.say_stomp(index, |out| reply::refusal(version, id, number, fault, receipt, out));
        }
    }

    /// The session's subscriptions to [`ERRORS`]; those that it has asked for count.
    fn errors_of(&self, index: u32) -> Vec<Class> {
        let login = self.login(index);
        let Ok(own) = Destination::parse_subscribe(ERRORS, login) else { return Vec::new() };
        let hash = self.env.hash_of(own.key().as_bytes());
        let session = &self.sessions[index];
        let is_it = |subscription: &&Subscription| match subscription.state {
            _ if subscription.kind != Kind::User => false,
            State::Recovering => **self.sessions.names().value(Symbol(subscription.place)) == *own.key(),
            State::Joined => self.members.key(subscription.place) == own.key(),
            State::Joining => session.is_joining_by(subscription.position, hash),
            State::Leaving | State::Asked | State::Answered => false,
        };
        let found = session.subscriptions().iter().filter(is_it);
        found.map(|subscription| self.members.classes().value(subscription.class).clone()).collect()
    }

    /// Counts a fault by what was refused.
    pub(super) fn count_fault(&mut self, fault: &Fault) {
        self.counters.bounds_refused_total += u64::from(fault.is_input_bound());
        match fault {
            Fault::TooManyRooms { .. } => self.counters.rooms_refused_total += 1,
            Fault::NotAuthenticated(_) => self.counters.logins_refused_total += 1,
            Fault::AuthBusy | Fault::AuthUnavailable => self.counters.logins_put_off_total += 1,
            Fault::TooManySessions { .. } => self.counters.logins_over_quota_total += 1,
            Fault::Forbidden { .. } => self.counters.frames_forbidden_total += 1,
            Fault::Kicked { .. } => self.counters.sessions_kicked_total += 1,
            Fault::Banned { .. } => self.counters.sessions_banned_total += 1,
            _ => {}
        }
    }
}
