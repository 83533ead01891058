//! Bounds that change while the shard lives.
//!
//! Only those that are read where they are enforced: what was built from a bound (the pool, the queues, the pace of
//! pings) keeps it. Who swaps bounds in knows which those are ([`RELOADED`]).
//!
//! Invariant: a bound that was lowered ends nobody by itself; it holds for what comes.

use std::sync::Arc;

use crate::conn::hold::Reason;
use crate::members::Terms;
use crate::shard::{Shard, ShardLimits};

/// Sections of the configuration whose numbers [`Shard::set_limits`] puts into force.
pub const RELOADED: &[&str] = &["handshake", "websocket", "stomp", "rate", "outbound", "echo", "history"];

impl Shard {
    /// Takes other bounds, and other rules, from here on. What a session has subscribed to by the old rules, it keeps.
    pub fn set_limits(&mut self, limits: Arc<ShardLimits>) {
        self.env.terms = Terms::new(&limits.turn, &limits.rooms, &limits.outbound);
        self.connections.set_limits(limits.handshake.clone());
        self.sessions.set_limits(&limits.stomp, limits.handshake.credentials_bytes_max);
        if !Arc::ptr_eq(&limits.rules, &self.env.limits.rules) {
            self.authorizer.set_rules(Arc::clone(&limits.rules));
        }
        if limits.rate != self.env.limits.rate {
            for index in self.rates.set_limits(&limits.rate) {
                self.release(self.connections.key_of(index), Reason::Rate);
            }
        }
        let (history, before) = (&limits.history, &self.env.limits.history);
        if history.bytes_max != before.bytes_max || limits.destinations != self.env.limits.destinations {
            let (destinations, now) = (Arc::clone(&limits.destinations), self.timers.now());
            self.topics.set_destinations(destinations, history.bytes_max, now);
        }
        self.flush.set_max(limits.outbound.reactor_bytes_max);
        self.env.limits = limits;
    }
}
