//! Why a connection's input is not taken: a set of reasons, each with one owner.
//!
//! | reason | set by | ended by |
//! |---|---|---|
//! | `Output` | a push that passes `outbound.high_water_bytes`; more than 1,024 pieces of logs owed | the write that passes `outbound.low_water_bytes`; half of that owed |
//! | `Answer` | a frame that must not overtake a request; more than 1,024 requests awaited | the completion of the last such request; half of that awaited |
//! | `Identity` | a CONNECT, or a new token, whose client must prove who it is | the answer of the service |
//! | `Room` | the owner of a full room, for who publishes to it | the owner, when the room has been walked |
//! | `Rate` | a SEND past the rates of `[rate]` | the time in which that is paid |
//! | `Credit` | a publication past the credit of `[mesh]`, or a full mailbox | the credit that comes back, the mailbox that is emptied |
//!
//! Input is taken while the set is empty. What was read before waits in a lease, and its socket is not read. A connection
//! whose last reason ends is on the list that [`Holds::take_free`] gives out; its socket is not read before it is taken up from
//! there ([`Set::take_up`]), because what waits in the lease, and an end that the socket has, are in that order. Who ends a
//! reason keeps the list of those who wait for it; this module only keeps the set.
//!
//! Invariant: a connection is on the list of the free once, and until it is taken up; it was held, and has no reason left
//! unless it was held again.

use crate::conn::Connection;
use crate::message::origin::ConnKey;

/// A reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The peer does not read what it is answered.
    Output,
    /// A request is under way that the next frame must not overtake.
    Answer,
    /// It is being found out who the client is.
    Identity,
    /// A room that the session publishes to has more waiting for its members than it may have.
    Room,
    /// It publishes faster than it may.
    Rate,
    /// Too much mail is under way, or waits for another shard.
    Credit,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 6] =
        [Reason::Output, Reason::Answer, Reason::Identity, Reason::Room, Reason::Rate, Reason::Credit];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The reasons that hold one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u8);

/// Not a reason: the connection is on the list of the free.
const FREED: u8 = 1 << 7;
const _: () = assert!(Reason::ALL.len() < 8);

impl Set {
    /// Whether nothing holds, and nothing that was held waits to be taken up.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A connection from the list of the free goes on. Returns whether it does: it may have been held again.
    pub fn take_up(&mut self) -> bool {
        self.0 &= !FREED;
        self.is_empty()
    }

    /// Whether this reason holds.
    pub fn has(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// Whether any other reason than this one holds.
    pub fn has_other_than(self, reason: Reason) -> bool {
        self.0 & !reason.bit() & !FREED != 0
    }
}

/// Who is free again, and how often each reason held somebody.
#[derive(Debug, Default)]
pub struct Holds {
    free: Vec<ConnKey>,
    held: [u64; Reason::ALL.len()],
}

impl Holds {
    /// Holds a connection. `false` if this reason held it already.
    pub fn hold(&mut self, connection: &mut Connection, reason: Reason) -> bool {
        let is_new = !connection.holds.has(reason);
        connection.holds.0 |= reason.bit();
        self.held[reason as usize] += u64::from(is_new);
        is_new
    }

    /// Ends a reason. If it was the last one, the connection is on the list of the free.
    pub fn release(&mut self, key: ConnKey, connection: &mut Connection, reason: Reason) {
        if connection.holds.has(reason) {
            connection.holds.0 &= !reason.bit();
            if connection.holds.is_empty() {
                connection.holds.0 = FREED;
                self.free.push(key);
            }
        }
    }

    /// Ends all reasons: what a connection says that is ending is thrown away, but for its close frame.
    pub fn release_all(&mut self, key: ConnKey, connection: &mut Connection) {
        let before = std::mem::take(&mut connection.holds);
        if !before.is_empty() && before.0 & FREED == 0 {
            self.free.push(key);
        }
    }

    /// Whether somebody waits for [`Holds::take_free`].
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Those whose last reason has ended. Some may be held again, or gone.
    pub fn take_free(&mut self) -> Vec<ConnKey> {
        std::mem::take(&mut self.free)
    }

    /// Gives a list back that [`Holds::take_free`] gave out, for its memory.
    pub fn reuse(&mut self, mut list: Vec<ConnKey>) {
        if self.free.is_empty() {
            list.clear();
            self.free = list;
        }
    }

    /// How often a reason began to hold somebody.
    pub fn held_total(&self, reason: Reason) -> u64 {
        self.held[reason as usize]
    }

    /// The list, for those who count memory.
    pub fn list(&self) -> &Vec<ConnKey> {
        &self.free
    }

    /// Gives back what a turn with so many free ones does not need.
    pub fn shrink_to(&mut self, kept: usize) {
        self.free.shrink_to(kept);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conn::Phase;
    use crate::time::Tick;
    use crate::wire::framing::Framing;

    const KEY: ConnKey = ConnKey { index: 1, generation: 2 };

    proptest! {
        /// The model is a list of reasons.
        #[test]
        fn input_is_taken_exactly_while_no_reason_holds(steps in prop::collection::vec((0..Reason::ALL.len(), any::<bool>()), 0..40)) {
            let mut holds = Holds::default();
            let mut connection = Connection::new(2, None, Phase::Stomp, Framing::WebSocket, Tick(0));
            let mut model: Vec<Reason> = Vec::new();
            let mut freed = 0;
            for (reason, begins) in steps {
                let reason = Reason::ALL[reason];
                if begins {
                    prop_assert_eq!(holds.hold(&mut connection, reason), !model.contains(&reason));
                    if !model.contains(&reason) {
                        model.push(reason);
                    }
                } else {
                    let had = model.len();
                    model.retain(|other| *other != reason);
                    freed += usize::from(had > 0 && model.is_empty());
                    holds.release(KEY, &mut connection, reason);
                }
                // Its input is taken when it is taken up.
                prop_assert!(!connection.holds.is_empty() || model.is_empty());
                prop_assert!(Reason::ALL.iter().all(|reason| connection.holds.has(*reason) == model.contains(reason)));
            }
            let is_free = model.is_empty();
            prop_assert_eq!(holds.take_free().len(), usize::from(freed > 0));
            prop_assert_eq!(connection.holds.take_up(), is_free);
        }
    }

    #[test]
    fn whoever_ends_is_held_by_nothing() {
        let mut holds = Holds::default();
        let mut connection = Connection::new(2, None, Phase::Stomp, Framing::WebSocket, Tick(0));
        holds.hold(&mut connection, Reason::Output);
        holds.hold(&mut connection, Reason::Credit);
        assert!(connection.holds.has_other_than(Reason::Credit));
        holds.release_all(KEY, &mut connection);
        assert!(connection.holds.is_empty());
        assert_eq!(holds.take_free(), [KEY]);
        holds.release_all(KEY, &mut connection);
        assert!(!holds.has_free());
        assert_eq!((holds.held_total(Reason::Output), holds.held_total(Reason::Answer)), (1, 0));
    }
}
