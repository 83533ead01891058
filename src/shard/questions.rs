//! What the application answers once: SUBSCRIBE to `/app/<name>` by a session that is none of its programs.
//!
//! The SUBSCRIBE becomes a message in the queue of that name, as a SEND would. It says where the answer goes: the session, and
//! the number of the request. An answer is a message to that place. It travels to the session's shard as others do to the owner
//! of their room, and is given to the subscription with that number. So no owner knows of a question, and an answer that comes
//! twice, or too late, finds nothing.
//!
//! Invariant: a question is answered at most once; one that is refused or ended leaves nothing in its session.

use crate::message::destination::{APP_PREFIX, Destination, Kind};
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::message::origin::ReplyTo;
use crate::message::{Message, MessageId, reply};
use crate::session::{Question, State, Subscription};
use crate::shard::Shard;
use crate::shard::commands::Covered;
use crate::time::Tick;
use crate::wire::stomp::{self, REPLY_TO, StompFrame};

impl Shard {
    /// Whether a frame is a question.
    pub(super) fn is_question(&self, index: u32, stomp_frame: &StompFrame<'_>) -> bool {
        stomp_frame.command == stomp::Command::Subscribe
            && stomp_frame.header("destination").is_some_and(|text| text.starts_with(APP_PREFIX))
            && !self.is_service(index)
    }

    /// Whether a frame becomes a message.
    pub(super) fn is_publication(&self, index: u32, stomp_frame: &StompFrame<'_>) -> bool {
        stomp_frame.command == stomp::Command::Send || self.is_question(index, stomp_frame)
    }

    /// A session asks the application.
    pub(super) fn ask_application(
        &mut self,
        index: u32,
        question: Question,
        covered: &mut Covered,
        now: Tick,
    ) -> Result<(), Fault> {
        let Question { class, key, ack, lines } = question;
        let (kind, hash) = (Kind::Queue, self.env.hash_of(key.as_bytes()));
        if let Err(fault) = self.may_subscribe(index, &key, kind, hash) {
            self.members.classes_mut().release(class);
            return Err(fault);
        }
        // Its queue may refuse it, and must then say which one.
        let serial = *covered.serial.get_or_insert_with(|| self.sessions.serial());
        let place = self.sessions.names_mut().acquire(key.clone()).0;
        self.sessions.count_subscription();
        let (position, state) = (serial, State::Asked);
        let asked = Subscription { class, place, position, ack, kind, state };
        self.sessions[index].subscriptions_mut().add(asked);
        self.count_sources(index);
        let reply_to = ReplyTo { session: self.name_of(index), serial };
        let lines = [format!("{REPLY_TO}:{reply_to}\n").as_bytes(), &lines].concat();
        let message = Message::new(&Destination::queue(key.into()), &lines, b"");
        let published = self.publish(index, message, covered, now);
        if published.is_err() {
            self.forget_question(index, class);
        }
        published
    }

    /// A question was refused, or its session wants no answer any more.
    pub(super) fn forget_question(&mut self, index: u32, class: Symbol) {
        if let Some(gone) = self.sessions[index].unsubscribed(class) {
            self.leave_place(index, gone, None);
        }
    }

    /// An answer for one of this shard's sessions: the first one reaches it.
    pub(super) fn take_reply(&mut self, message: &Message) {
        let Some((index, asked)) = self.answered_by(message.key()) else {
            self.counters.replies_dropped_total += 1;
            return;
        };
        self.counters.replies_delivered_total += 1;
        let id = MessageId { epoch: self.env.answers, sequence: self.counters.replies_delivered_total };
        let class = self.members.classes().value(asked.class);
        let destination = self.sessions.names().value(Symbol(asked.place));
        let mut bytes = Vec::with_capacity(message.body().len() + 256);
        reply::answer(class, id, destination, message, &mut bytes);
        self.counters.messages_delivered_total += 1;
        self.push_vec(index, bytes);
    }

    /// The question that an answer to this destination is for, and its session, if it waits for one.
    fn answered_by(&mut self, destination: &str) -> Option<(u32, Subscription)> {
        let ReplyTo { session, serial } = destination.parse().ok()?;
        if session.shard != self.env.id || !self.is_current(session.connection) {
            return None;
        }
        let index = session.connection.index;
        self.sessions[index].subscriptions_mut().answer(serial).map(|asked| (index, asked))
    }
}
