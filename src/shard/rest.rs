//! What a shard gives back when traffic is over.
//!
//! Under traffic, lists and buffers are kept for the next turn. Once a second (`Shard::rest`) what they have too
//! much is returned to the allocator; and once a *calm* second follows on much traffic, the reactor is told to have
//! the allocator return it to the kernel: boxes and segments that were freed between others that live on leave holes,
//! which only the allocator can find.
//!
//! Invariant: a shard without traffic holds, two seconds later, nothing that a shard without a past would not hold,
//! the places of its tables excepted; and it is not woken after that (`Shard::has_slack`).

use crate::buf::LEASE_BYTES_MIN;
use crate::shard::Shard;

/// Entries that the lists of a turn keep: what a turn with traffic of all days uses.
pub const LIST_KEPT: usize = 256;

/// The same of lists with large entries.
const MAIL_KEPT: usize = 32;

/// Bytes that a scratch buffer keeps.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

/// Turnover after which a calm second is worth a look through the allocator's lists; for many connections more.
const TURNOVER_MIN: u64 = 64 * 1024;
const TURNOVER_PER_CONNECTION: u64 = 4;

/// A second is calm if its turnover is this part of what is worth a look.
const CALM_PART: u64 = 4;

/// About what the entry of a segment in an outbound queue takes from the heap.
const QUEUED_BYTES: u64 = 64;

/// About what the session and the places of a connection take from the heap.
const ENDED_BYTES: u64 = 256;

/// What went through the heap and when: bytes of what can leave holes behind. Answers come with what they answer, and
/// heart-beats leave nothing behind.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Bytes of messages that were published here, ever.
    pub(super) published_bytes: u64,
    /// Segments of fan-outs that were put into outbound queues, ever.
    pub(super) queued: u64,
    /// Turnover at the last look.
    seen: u64,
    /// Turnover when the heap was last trimmed.
    trimmed: u64,
    /// The heap is to be trimmed by whoever asks next.
    is_trim_due: bool,
}

impl Shard {
    /// Shrinks what is larger than a shard at rest needs; once a second.
    pub(super) fn rest(&mut self) {
        let was_leased = self.pool.decay() > 0;
        self.fanout.shrink_to(SCRATCH_BYTES_KEPT);
        self.said.shrink_to(SCRATCH_BYTES_KEPT);
        for list in [&mut self.dirty, &mut self.lists, &mut self.fired] {
            list.shrink_to(LIST_KEPT);
        }
        for list in [&mut self.resumable, &mut self.resumed, &mut self.stalled, &mut self.stalled_served] {
            list.shrink_to(LIST_KEPT);
        }
        self.closed.shrink_to(LIST_KEPT);
        self.crowd.shrink_to(LIST_KEPT);
        self.waiting.shrink_to(LIST_KEPT);
        self.delayed.shrink_to(LIST_KEPT);
        self.rooms.shrink_to(MAIL_KEPT);
        self.commands.shrink_to(MAIL_KEPT);
        self.mail.shrink_to(MAIL_KEPT);
        self.unhandled.shrink_to(MAIL_KEPT);
        self.answers.shrink_to(MAIL_KEPT);
        self.outboxes.iter_mut().for_each(|outbox| outbox.shrink_to(MAIL_KEPT));
        self.mesh.shrink_to(self.id, MAIL_KEPT);
        self.deferred.shrink_to(MAIL_KEPT);
        if self.sources.is_empty() {
            self.sources.shrink_to_fit();
        }
        let turnover = self.turnover();
        let is_calm = (turnover - self.rest.seen) * CALM_PART <= self.turnover_worth();
        if is_calm && !was_leased && self.is_worth_trimming() {
            self.rest.trimmed = turnover;
            self.rest.is_trim_due = true;
        }
        self.rest.seen = turnover;
    }

    /// Whether a second without traffic would give something back.
    pub(super) fn has_slack(&self) -> bool {
        self.pool.stats().kept_bytes > 0 || self.is_worth_trimming()
    }

    /// Whether the allocator should be asked to return what is free to the kernel. Once for each time.
    pub fn take_trim(&mut self) -> bool {
        std::mem::take(&mut self.rest.is_trim_due)
    }

    fn is_worth_trimming(&self) -> bool {
        self.turnover() - self.rest.trimmed >= self.turnover_worth()
    }

    fn turnover(&self) -> u64 {
        let Self { counters, rest, pool, .. } = self;
        let ended = counters.closed_by_peer_total + counters.closed_by_server_total + counters.resets_total;
        let leased = pool.stats().leases_total * LEASE_BYTES_MIN as u64;
        rest.published_bytes + rest.queued * QUEUED_BYTES + leased + ended * ENDED_BYTES
    }

    fn turnover_worth(&self) -> u64 {
        (self.slots.len() as u64 * TURNOVER_PER_CONNECTION).max(TURNOVER_MIN)
    }
}
