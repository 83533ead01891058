//! The end of a run: all that is under way arrives, queues are read empty, and everybody goes.
//!
//! What is left then, in the model, in the server or in a count, is a fault.

use std::hash::{Hash, Hasher};

use tcbchat::shard::Shard;
use tcbchat::time::Tick;

use super::{QUEUES, World};
use crate::client::Stage;
use crate::coverage::Coverage;
use crate::server::CAPACITY;

const DEAD_LETTER_QUEUES: [&str; 2] = ["/queue/x.dlq", "/queue/y.dlq"];

impl World {
    /// Reads all queues empty, checks the model, and sends everybody home.
    pub fn finish(mut self) -> (Coverage, u64) {
        if let Some(gate) = &self.server.gate {
            gate.calm_down();
        }
        self.server.inquirer.calm_down();
        self.settle();
        // Who publishes too fast is read in the end.
        while self.server.shards.iter().any(Shard::slows_somebody) {
            self.let_pass(5);
            self.settle();
        }
        self.find_the_hung();
        // Who has said DISCONNECT, and waits behind a request that is never completed, hangs up: that is what ends it.
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            if seat.client.stage == Stage::Leaving && !self.server.wire(seat.connection).has_ended() {
                self.end(at);
            }
        }
        self.settle();
        for _ in 0..40 {
            for at in 0..self.seats.len() {
                let seat = &mut self.seats[at];
                while !seat.client.unsettled.is_empty() {
                    seat.client.settle(false);
                }
            }
            self.settle();
        }
        self.empty_queues();
        assert_eq!(self.server.sum(|counters| counters.queue_messages), 0, "a message is left in a queue");
        self.model.check_complete();
        self.seats.iter().for_each(|seat| seat.client.check_complete(&self.model));
        assert!(self.model.confirmed_count() > 0 || self.able < 10, "nothing happened");
        for at in 0..self.seats.len() {
            if self.seats[at].client.stage == Stage::Ready && at % 2 == 0 {
                self.seats[at].client.disconnect(&mut self.model);
            }
        }
        self.settle();
        self.server.shards.iter_mut().for_each(Shard::begin_shutdown);
        self.settle();
        // Whoever does not answer is reset when its time is up: the connection's, or the server's.
        if self.seats.len().is_multiple_of(2) {
            // The receipts that come before an end have a time, and so has the end.
            for _ in 0..2 {
                self.now = Tick(self.now.0 + 10_000);
                self.settle();
            }
        } else {
            self.server.shards.iter_mut().for_each(Shard::begin_reset);
        }
        self.settle();
        assert!(self.seats.is_empty(), "somebody is left");
        self.server.check_empty();
        assert_eq!(self.server.sum(|counters| counters.refused_pending_per_address_total), self.refused);
        assert_eq!(self.server.sum(|counters| counters.closed_by_peer_total), self.ended_by_peer);
        assert_eq!(self.server.sum(|counters| counters.closed_by_server_total), self.ended_by_server);
        let lost = self.server.sum(|counters| counters.receipts_lost_total);
        assert!(self.missed <= lost, "{} receipts were missed, and {lost} given up", self.missed);
        let mut coverage = self.server.post.coverage;
        for shard in &self.server.shards {
            coverage.note_shard(shard);
            shard.counters().iter().for_each(|(_, value)| value.hash(&mut self.trace));
        }
        (coverage, self.trace.finish())
    }

    /// Those who promised beats and neither beat nor read are found, each within the silence that makes it suspect, as
    /// much time to take what was under way, and the time of a closing handshake; and nobody else is. Twice that: what was
    /// held back for a moment, its settlements for a full mailbox, say, counts as heard when that ends.
    fn find_the_hung(&mut self) {
        const TICKS: u32 = 2 * (51 + 51 + 51);
        for _ in 0..TICKS.div_ceil(5) + 2 {
            self.let_pass(5);
            self.settle();
        }
        if let Some(seat) = self.seats.iter().find(|seat| seat.is_hung) {
            let wire = self.server.wire(seat.connection);
            let (unread, has_ended) = (wire.unread(), wire.has_ended());
            let shard = self.server.shard(seat.connection);
            panic!(
                "somebody who hangs is not found: {:?} with {unread} bytes unread, read from {}, end {has_ended}, \
                 at {:?}: {:?}",
                seat.client.stage,
                shard.wants_read(seat.connection.key),
                self.now,
                shard.liveness(seat.connection.key)
            );
        }
    }

    /// A last client takes what is left in the queues.
    fn empty_queues(&mut self) {
        while self.seats.len() >= CAPACITY as usize {
            let mut seat = self.seats.remove(0);
            seat.client.leave(&mut self.model);
            self.seats.push(seat);
            self.end(self.seats.len() - 1);
            self.settle();
        }
        let last = self.named;
        while self.named == last || self.seats.last().is_none_or(|seat| seat.client.stage == Stage::Leaving) {
            // Somebody who has his first place, and a login of his own: one of the application's programs.
            while self.named % 10 != 2 {
                self.named += 1;
            }
            self.arrive_from(9, "", true);
            self.settle();
        }
        let at = self.seats.len() - 1;
        self.seats[at].client.connect(None, false);
        self.settle();
        assert_eq!(self.seats[at].client.stage, Stage::Ready);
        for place in QUEUES.into_iter().chain(DEAD_LETTER_QUEUES) {
            self.seats[at].client.subscribe(place, &mut self.model);
        }
        if self.server.gate.is_some() {
            self.seats[at].client.work_to_the_end();
        }
        let last = self.seats[at].connection;
        for _ in 0..40 {
            self.settle();
            // A dead letter that was refused is sent again in its own time.
            self.let_pass(30);
            // Others may have gone, as time passes.
            assert!(
                self.seats.iter().any(|seat| seat.connection == last),
                "it stays until the queues are empty"
            );
            for seat in &mut self.seats {
                while !seat.client.unsettled.is_empty() {
                    seat.client.settle(false);
                }
            }
        }
        self.settle();
    }
}
