//! What a shard gives back when traffic is over.
//!
//! Under traffic, lists and buffers are kept for the next turn. Once a second (`Shard::rest`) what they have too
//! much is returned to the allocator; and once a *calm* second follows on much traffic, the reactor is told to have
//! the allocator return it to the kernel: boxes and segments that were freed between others that live on leave holes,
//! which only the allocator can find.
//!
//! Invariant: a shard without traffic holds, two seconds later, nothing that a shard without a past would not hold,
//! the places of its tables excepted; and it is not woken after that (`Shard::has_slack`).

use crate::shard::Shard;

/// Entries that the lists of a turn keep: what a turn with traffic of all days uses.
pub const LIST_KEPT: usize = 256;

/// The same of lists with large entries.
const MAIL_KEPT: usize = 32;

/// Bytes that a scratch buffer keeps.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

/// A second is calm when there was less work than one for so many connections.
const CALM_CONNECTIONS: u64 = 10;

/// Work after which a calm second is worth a look through the allocator's lists; for many connections more.
const WORK_MIN: u64 = 1024;

/// What was done when; work is what can leave memory behind: messages, segments that had to wait, leases, connections
/// that ended.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Segments of fan-outs that were put into outbound queues, ever. Answers come with what they answer, and
    /// heart-beats leave nothing behind.
    pub(super) queued: u64,
    /// At the last look.
    work_seen: u64,
    /// When the heap was last trimmed.
    work_trimmed: u64,
    /// The heap is to be trimmed by whoever asks next.
    is_trim_due: bool,
}

impl Shard {
    /// Shrinks what is larger than a shard at rest needs; once a second.
    pub(super) fn rest(&mut self) {
        let was_leased = self.pool.decay() > 0;
        self.fanout.shrink_to(SCRATCH_BYTES_KEPT);
        for list in [&mut self.dirty, &mut self.lists, &mut self.fired] {
            list.shrink_to(LIST_KEPT);
        }
        for list in [&mut self.resumable, &mut self.resumed, &mut self.stalled] {
            list.shrink_to(LIST_KEPT);
        }
        self.closed.shrink_to(LIST_KEPT);
        self.crowd.shrink_to(LIST_KEPT);
        self.waiting.shrink_to(LIST_KEPT);
        self.delayed.shrink_to(LIST_KEPT);
        self.commands.shrink_to(MAIL_KEPT);
        self.mail.shrink_to(MAIL_KEPT);
        self.outboxes.iter_mut().for_each(|outbox| outbox.shrink_to(MAIL_KEPT));
        self.mesh.shrink_to(self.id, MAIL_KEPT);
        self.deferred.shrink_to(MAIL_KEPT);
        if self.sources.is_empty() {
            self.sources.shrink_to_fit();
        }
        let work = self.work();
        let is_calm = (work - self.rest.work_seen) * CALM_CONNECTIONS <= self.slots.len() as u64;
        if is_calm && !was_leased && work - self.rest.work_trimmed >= self.work_worth() {
            self.rest.work_trimmed = work;
            self.rest.is_trim_due = true;
        }
        self.rest.work_seen = work;
    }

    /// Whether a second without traffic would give something back.
    pub(super) fn has_slack(&self) -> bool {
        self.pool.stats().kept_bytes > 0 || self.work() - self.rest.work_trimmed >= self.work_worth()
    }

    /// Whether the allocator should be asked to return what is free to the kernel. Once for each time.
    pub fn take_trim(&mut self) -> bool {
        std::mem::take(&mut self.rest.is_trim_due)
    }

    fn work(&self) -> u64 {
        let counters = &self.counters;
        let ended = counters.closed_by_peer_total + counters.closed_by_server_total + counters.resets_total;
        counters.messages_published_total + self.rest.queued + self.pool.stats().leases_total + ended
    }

    fn work_worth(&self) -> u64 {
        (self.slots.len() as u64 / 16).max(WORK_MIN)
    }
}
