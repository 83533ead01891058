//! What is true of a shard between any two calls, for its tests and the simulation.

use crate::conn::Phase;
use crate::session::State;
use crate::shard::Shard;

impl Shard {
    /// Panics unless all that the shard counts is what it holds.
    pub fn check(&self) {
        self.connections.check();
        self.sessions.check();
        self.authorizer.check();
        self.topics.check();
        self.queues.check();
        self.members.check(&self.connections);
        self.timers.check(|index| {
            self.connections.get(index).is_some_and(|connection| connection.phase != Phase::Closed)
        });
        let (mut answers, mut members) = (0, 0);
        for (index, connection) in self.connections.iter() {
            let session = &self.sessions[index];
            assert_eq!(connection.has_one_source, session.subscriptions().len() == 1);
            answers += connection.output.answer_bytes();
            assert!(
                connection.phase.has_session() || (session.subscriptions().is_empty() && !session.awaits()),
                "a connection without a session is in no room and waits for nothing"
            );
            // Else nothing would end it.
            assert!(connection.phase != Phase::Concluding || session.is_due_receipts());
            assert!(connection.phase.is_open() || connection.holds.is_empty());
            for subscription in session.subscriptions().iter() {
                if !subscription.is_member() {
                    continue;
                }
                members += 1;
                let member = self.members.room(subscription.place).members()[subscription.position as usize];
                assert_eq!((member.connection, member.class), (index, subscription.class));
            }
        }
        assert_eq!(answers, self.flush.answer_bytes());
        let is_there =
            |index| self.connections.get(index).is_some_and(|connection| connection.phase != Phase::Closed);
        self.flush.check(is_there);
        self.recoveries.check(|index, class| {
            let subscription = self.sessions[index].subscriptions().get(class);
            subscription.is_some_and(|subscription| subscription.state == State::Recovering)
        });
        self.behind.check(is_there);
        self.inputs.check(&self.connections);
        assert_eq!(members, self.members.members());
    }

    /// Panics unless nothing is left of any connection: all leases returned, all names forgotten.
    pub fn check_empty(&self) {
        self.check();
        self.connections.check_empty();
        self.sessions.check_empty();
        self.port.check_empty();
        assert!(self.logins.is_empty() && self.addresses.is_empty());
        assert!(self.dead_letters.is_empty() && self.inquiries.is_empty(), "each has had its answer");
        assert_eq!(self.inputs.pool.stats().leased, 0);
        assert_eq!(self.unsent_bytes(), 0);
        assert!(self.members.is_empty() && self.topics.has_nobody(), "{:?} {:?}", self.members, self.topics);
        self.recoveries.check_empty();
        assert!(self.members.classes().is_empty());
        self.queues.check_nobody();
        assert!(!self.holds.has_free() && !self.timers.has_suspects());
    }
}
