//! The subscriptions of one session: which there are, and how far each is.
//!
//! Most sessions have one, which takes no allocation.
//!
//! Invariant: ids differ among those that are not leaving; those that are leaving are in the order of their UNSUBSCRIBEs,
//! which is the order in which one owner answers.

use std::ops::Deref;

use smallvec::SmallVec;

use crate::footprint::Part;
use crate::message::class::{AckMode, Class};
use crate::message::destination::Kind;
use crate::message::interner::{Interner, Symbol};

/// How far a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its owner has not answered: `position` is the request.
    Joining,
    /// Its owner has answered, and it gets what was before it: `place` is the symbol of the room's key, `position` the request for
    /// a page, or 0.
    Recovering,
    /// It gets messages.
    Joined,
    /// It gets what its owner sequences before it reads the UNSUBSCRIBE. Its id is free.
    Leaving,
    /// It waits for the application's answer, and is in no queue: `position` is the request.
    Asked,
    /// It has had that answer.
    Answered,
}

impl State {
    /// Whether it is no subscription at an owner, but a question to the application.
    pub fn is_question(self) -> bool {
        matches!(self, State::Asked | State::Answered)
    }
}

/// One subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// Its encoding class, which holds its id: unique in the session among those that are not leaving.
    pub class: Symbol,
    /// The room's index once it has joined. The symbol of the key of a queue, of that which was asked, or of a room while it
    /// recovers.
    pub place: u32,
    /// Where the room has it among its members. Of a queue, a question, and one that has not joined, the number of its request.
    pub position: u32,
    /// How its messages are acknowledged.
    pub ack: AckMode,
    /// What it is subscribed to.
    pub kind: Kind,
    /// How far it is.
    pub state: State,
}

const _: () = assert!(size_of::<Subscription>() == 16);

impl Subscription {
    fn is_request(&self, serial: u32) -> bool {
        matches!(self.state, State::Joining | State::Recovering) && self.position == serial
    }

    /// Whether it is a member of a room of its shard, at `position`.
    pub fn is_member(&self) -> bool {
        self.kind != Kind::Queue && matches!(self.state, State::Joined | State::Leaving)
    }

    /// Whether `place` is the symbol of its destination's key.
    pub fn is_named(&self) -> bool {
        self.kind == Kind::Queue || self.state == State::Recovering
    }

    fn is_asked(&self, serial: u32) -> bool {
        self.state == State::Asked && self.position == serial
    }

    fn is_of_room(&self, room: u32) -> bool {
        self.is_member() && self.place == room
    }

    fn has_id(&self, id: &str, classes: &Interner<Class>) -> bool {
        &*classes.value(self.class).id == id
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Subscriptions(SmallVec<[Subscription; 1]>);

impl Deref for Subscriptions {
    type Target = [Subscription];

    fn deref(&self) -> &[Subscription] {
        &self.0
    }
}

impl Subscriptions {
    /// What those take that are not kept in place: nothing while there is one.
    pub fn memory(&self) -> Part {
        if self.0.spilled() {
            Part::array(self.0.len(), self.0.capacity(), size_of::<Subscription>())
        } else {
            Part::default()
        }
    }

    /// The one with this id, unless it is leaving.
    pub(super) fn find(&self, id: &str, classes: &Interner<Class>) -> Option<&Subscription> {
        self.iter().find(|other| other.state != State::Leaving && other.has_id(id, classes))
    }

    /// The one with this class, unless it is leaving.
    pub fn get(&self, class: Symbol) -> Option<&Subscription> {
        self.position_of(class).map(|at| &self.0[at])
    }

    fn position_of(&self, class: Symbol) -> Option<usize> {
        self.iter().position(|other| other.class == class && other.state != State::Leaving)
    }

    /// How many there are to one destination, those that are joining a room not counted: `room` is its room, and `name` the
    /// symbol of its key, if they are known here.
    pub(super) fn count_of(&self, kind: Kind, room: Option<u32>, name: Option<Symbol>) -> usize {
        let is_queue = kind == Kind::Queue;
        let is_here = |other: &&Subscription| {
            if other.is_named() {
                (other.kind == Kind::Queue) == is_queue && Some(Symbol(other.place)) == name
            } else {
                room.is_some_and(|room| other.is_of_room(room))
            }
        };
        self.iter().filter(is_here).count()
    }

    /// Whether one to this destination has joined: `place` is its room, or its queue's name.
    pub fn has_joined(&self, kind: Kind, place: Option<u32>) -> bool {
        let is_queue = kind == Kind::Queue;
        self.iter().any(|other| {
            other.state == State::Joined
                && Some(other.place) == place
                && (other.kind == Kind::Queue) == is_queue
        })
    }

    /// One more, which may be joining.
    pub fn add(&mut self, subscription: Subscription) {
        self.0.push(subscription);
    }

    /// The one whose request has this number, if its owner has not answered: a SUBSCRIBE, or for a page of the past.
    pub fn joining(&self, serial: u32) -> Option<&Subscription> {
        self.iter().find(|other| other.is_request(serial))
    }

    /// The one that has asked by the request with this number, if it has no answer.
    pub fn asked(&self, serial: u32) -> Option<&Subscription> {
        self.iter().find(|other| other.is_asked(serial))
    }

    /// The application answers it, unless it is gone or has had its answer: what it was.
    pub fn answer(&mut self, serial: u32) -> Option<Subscription> {
        let asked = self.0.iter_mut().find(|other| other.is_asked(serial))?;
        let before = *asked;
        asked.state = State::Answered;
        Some(before)
    }

    /// Whether the owner of any has not answered.
    pub fn is_joining(&self) -> bool {
        self.iter().any(|other| other.state == State::Joining)
    }

    /// The owner has answered: it has joined, in a room at this place and position.
    pub fn joined(&mut self, serial: u32, room: Option<(u32, u32)>) {
        let Some(subscription) = self.0.iter_mut().find(|other| other.is_request(serial)) else { return };
        subscription.state = State::Joined;
        if let Some((place, position)) = room {
            (subscription.place, subscription.position) = (place, position);
        }
    }

    /// The owner has answered: it gets what was before it first, from the room whose key has this symbol.
    pub fn recovers(&mut self, serial: u32, name: Symbol) {
        if let Some(subscription) = self.0.iter_mut().find(|other| other.is_request(serial)) {
            (subscription.state, subscription.place, subscription.position) = (State::Recovering, name.0, 0);
        }
    }

    /// It asks for a page of the past by this request; 0 is none.
    pub fn asks(&mut self, class: Symbol, serial: u32) {
        if let Some(at) = self.position_of(class) {
            self.0[at].position = serial;
        }
    }

    /// It leaves, as soon as its owner has answered.
    pub(super) fn leave(&mut self, class: Symbol) {
        if let Some(at) = self.position_of(class) {
            // Behind those that left before it: their owner answers in this order.
            let leaving = Subscription { state: State::Leaving, ..self.0.remove(at) };
            self.0.push(leaving);
        }
    }

    /// Whether one with this id is leaving.
    pub fn is_leaving(&self, id: &str, classes: &Interner<Class>) -> bool {
        self.iter().any(|other| other.state == State::Leaving && other.has_id(id, classes))
    }

    /// The owner of this room has answered an UNSUBSCRIBE: takes out the one that it was for, which is the first that left.
    pub fn left(&mut self, room: u32) -> Option<Subscription> {
        let at = self.iter().position(|other| other.state == State::Leaving && other.is_of_room(room))?;
        Some(self.take(at))
    }

    /// Takes out the one with this class.
    pub(super) fn remove(&mut self, class: Symbol) -> Option<Subscription> {
        let at = self.position_of(class)?;
        Some(self.take(at))
    }

    fn take(&mut self, at: usize) -> Subscription {
        // Those that are leaving keep their order.
        let gone = self.0.remove(at);
        if self.0.len() <= 1 {
            self.0.shrink_to_fit();
        }
        gone
    }

    /// The room has moved the member of one from the position `from` to `to`.
    ///
    /// # Panics
    /// When no subscription has that position.
    pub fn moved(&mut self, room: u32, from: u32, to: u32) {
        let is_it = |other: &&mut Subscription| other.position == from && other.is_of_room(room);
        match self.0.iter_mut().find(is_it) {
            Some(subscription) => subscription.position = to,
            None => unreachable!("a room's member has a subscription"),
        }
    }

    /// Takes one out, whichever; for the end of the session, one at a time: while the shard takes it out of its place, the
    /// others must still be there to be moved.
    pub fn pop(&mut self) -> Option<Subscription> {
        self.0.pop()
    }

    /// Gives back what one subscription does not need.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_once() {
        let mut subscriptions = Subscriptions::default();
        let (ack, kind, state) = (AckMode::Auto, Kind::Queue, State::Asked);
        subscriptions.add(Subscription { class: Symbol(1), place: 7, position: 5, ack, kind, state });
        assert_eq!(subscriptions.answer(4), None, "another was asked");
        assert_eq!(subscriptions.answer(5).map(|asked| asked.place), Some(7));
        assert_eq!((subscriptions.answer(5), subscriptions.asked(5)), (None, None));
        // It is there until it is ended, and in no queue.
        assert_eq!(subscriptions.count_of(Kind::Queue, None, Some(Symbol(7))), 1);
        assert!(!subscriptions.has_joined(Kind::Queue, Some(7)) && !subscriptions.is_joining());
        assert!(subscriptions.remove(Symbol(1)).is_some());
    }

    #[test]
    fn unsubscribes_of_one_room_are_answered_in_their_order() {
        let mut subscriptions = Subscriptions::default();
        for class in 0..4 {
            let (state, ack, kind) = (State::Joined, AckMode::Auto, Kind::Topic);
            let (class, place, position) = (Symbol(class), 7, class);
            subscriptions.add(Subscription { class, place, position, ack, kind, state });
        }
        for class in [2, 0, 1] {
            subscriptions.leave(Symbol(class));
            assert_eq!(subscriptions.get(Symbol(class)), None, "it is leaving");
            let order: Vec<u32> = subscriptions.iter().map(|other| other.class.0).collect();
            subscriptions.leave(Symbol(class));
            assert!(subscriptions.iter().map(|other| other.class.0).eq(order), "it is leaving already");
        }
        // Another one that goes does not change that.
        assert!(subscriptions.remove(Symbol(3)).is_some());
        let left = [(); 4].map(|()| subscriptions.left(7).map(|gone| gone.class.0));
        assert_eq!(left, [Some(2), Some(0), Some(1), None]);
    }
}
