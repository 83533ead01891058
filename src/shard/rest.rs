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

/// Bytes that must have been held, and be gone, for the heap to be trimmed while traffic goes on.
const SHRUNK_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// A second is calm if its turnover is this part of what is worth a look.
const CALM_PART: u64 = 4;

/// Of bytes that are encoded for debts, this part goes through the heap: the records of the debts.
const ENCODED_PART: u64 = 4;

/// About what the session and the places of a connection take from the heap.
const ENDED_BYTES: u64 = 256;

/// About what a request to another owner takes from the heap until it is answered: mail, and what the session waits for.
const ASKED_BYTES: u64 = 256;

/// What went through the heap and when: bytes of what can leave holes behind. Answers come with what they answer, and
/// heart-beats leave nothing behind.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Bytes of messages that were published here, ever.
    pub(super) published_bytes: u64,
    /// Requests to other owners, ever.
    pub(super) asked: u64,
    /// Bytes that were encoded for debts, ever.
    pub(super) encoded_bytes: u64,
    /// Turnover at the last look.
    seen: u64,
    /// Turnover when the heap was last trimmed.
    trimmed: u64,
    /// Most bytes that were held at once since the heap was last trimmed.
    peak: u64,
    /// The heap is to be trimmed by whoever asks next.
    is_trim_due: bool,
}

impl Shard {
    /// Shrinks what is larger than a shard at rest needs; once a second.
    pub(super) fn rest(&mut self) {
        let was_leased = self.inputs.pool.decay() > 0;
        self.members.shrink_to(LIST_KEPT, SCRATCH_BYTES_KEPT);
        self.flush.shrink_to(LIST_KEPT, SCRATCH_BYTES_KEPT);
        self.timers.shrink_to(LIST_KEPT);
        self.holds.shrink_to(LIST_KEPT);
        self.inputs.shrink_to(LIST_KEPT);
        self.connections.shrink_to(LIST_KEPT);
        self.sessions.shrink_to(MAIL_KEPT);
        self.port.shrink_to(MAIL_KEPT, LIST_KEPT);
        let turnover = self.turnover();
        let is_calm = (turnover - self.rest.seen) * CALM_PART <= self.turnover_worth();
        let held = self.unsent_bytes() + self.inputs.pool.stats().leased_bytes + self.queues.bytes();
        self.rest.peak = self.rest.peak.max(held);
        // Much that is gone is given back also while traffic goes on.
        let has_shrunk = self.rest.peak > held.saturating_mul(2).max(SHRUNK_BYTES_MIN);
        if has_shrunk || (is_calm && !was_leased && self.is_worth_trimming()) {
            (self.rest.trimmed, self.rest.peak) = (turnover, held);
            self.authorizer.shrink();
            self.rest.is_trim_due = true;
        }
        self.rest.seen = turnover;
    }

    /// Whether a second without traffic would give something back.
    pub(super) fn has_slack(&self) -> bool {
        self.inputs.pool.stats().kept_bytes > 0 || self.is_worth_trimming()
    }

    /// Whether the allocator should be asked to return what is free to the kernel. Once for each time.
    pub fn take_trim(&mut self) -> bool {
        std::mem::take(&mut self.rest.is_trim_due)
    }

    fn is_worth_trimming(&self) -> bool {
        self.turnover() - self.rest.trimmed >= self.turnover_worth()
    }

    fn turnover(&self) -> u64 {
        let Self { counters, rest, inputs, .. } = self;
        let ended = counters.closed_by_peer_total + counters.closed_by_server_total + counters.resets_total;
        let leased = inputs.pool.stats().leases_total * LEASE_BYTES_MIN as u64;
        rest.published_bytes
            + rest.encoded_bytes / ENCODED_PART
            + leased
            + ended * ENDED_BYTES
            + rest.asked * ASKED_BYTES
    }

    fn turnover_worth(&self) -> u64 {
        (self.connections.len() as u64 * TURNOVER_PER_CONNECTION).max(TURNOVER_MIN)
    }
}
