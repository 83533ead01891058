//! What is true of a shard between any two calls, for its tests and the simulation.

use crate::conn::Phase;
use crate::shard::Shard;
use crate::shard::mesh::Credit;

impl Shard {
    /// Panics unless all that the shard counts is what it holds.
    pub fn check(&self) {
        self.rooms.check();
        self.queues.check();
        self.forms.check();
        self.names.check();
        self.pool.check();
        self.wheel.check();
        let mut transactions = 0;
        let (mut outbound, mut handshakes, mut members, mut subscriptions, mut refused) = (0, 0, 0, 0, 0);
        for (index, slot) in &self.slots {
            let connection = &slot.connection;
            connection.outbound.check();
            assert_eq!(connection.has_one_source, slot.session.subscriptions().len() == 1);
            assert!(
                connection.phase == Phase::Closed
                    || !connection.is_writable
                    || connection.is_dirty
                    || connection.outbound.is_empty(),
                "who has unsent bytes waits for the socket or for the flush"
            );
            outbound += connection.outbound.bytes();
            handshakes += u32::from(connection.phase.is_handshake());
            refused += usize::from(connection.phase != Phase::Closed && connection.tcb.is_none());
            subscriptions += slot.session.subscriptions().len() as u64;
            transactions += slot.session.transaction_bytes();
            assert!(
                connection.phase == Phase::Stomp || slot.session.subscriptions().is_empty(),
                "a connection that is not open is in no room"
            );
            for subscription in slot.session.subscriptions() {
                if subscription.kind == crate::chat::destination::Kind::Queue {
                    continue;
                }
                members += 1;
                let member = self.rooms.room(subscription.place).members()[subscription.position as usize];
                assert_eq!((member.connection, member.form), (index as u32, subscription.form));
            }
        }
        assert_eq!(outbound, self.unsent.bytes);
        assert_eq!(transactions, self.transaction_bytes);
        assert_eq!(handshakes, self.handshakes);
        assert_eq!(handshakes as usize, self.sources.len());
        self.pending.check();
        assert_eq!(members, self.rooms.members());
        assert_eq!(subscriptions, self.subscriptions);
        assert_eq!(refused, self.refused_peers.len());
    }

    /// Panics unless nothing is left of any connection: all leases returned, all names forgotten.
    pub fn check_empty(&self) {
        self.check();
        assert_eq!(self.slots.len(), 0);
        assert_eq!(self.pool.stats().leased, 0);
        assert_eq!(self.unsent.bytes, 0);
        assert!(self.rooms.is_empty(), "{:?}", self.rooms);
        assert!(self.forms.is_empty() && self.names.is_empty());
        assert_eq!(self.wheel.len(), 0);
        assert!(self.under_way.iter().all(|credit| *credit == Credit::default()));
        assert!(!self.has_mail());
        assert!(self.dead_letters.is_empty(), "each has had its answer");
        assert!(self.deferred.is_empty() && self.stalled.is_empty() && self.stalled_served.is_empty());
    }
}
