//! What all workers of a run have in common: the layout, the script, the clock.
//!
//! Invariant: nothing here changes during a run but the counts in `sent`.

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use crate::peer::script::Script;
use crate::plan::Plan;
use crate::target::Target;

/// What all workers of a run have in common.
#[derive(Debug)]
pub struct Setup {
    /// Time zero of the run: all times are microseconds after it.
    pub epoch: Instant,
    /// How the clients are laid out.
    pub plan: Plan,
    /// Where they connect to.
    pub target: Target,
    /// What they say.
    pub script: Script,
    /// Members of a room.
    pub room_size: u32,
    /// Bytes of a message's body.
    pub payload_bytes: usize,
    /// How long a client may take to get ready, and to leave.
    pub patience: Duration,
    /// Seed of the random choices.
    pub seed: u64,
    /// One in this many clients stops reading when the chat begins; 0 for none.
    pub deaf_every: u32,
    /// Messages sent to each room, by all workers.
    pub sent: Vec<AtomicU32>,
}

impl Setup {
    /// Microseconds since the start of the run.
    pub fn now_us(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    /// The room of a client.
    pub fn room(&self, client: u32) -> u32 {
        client / self.room_size
    }

    /// Stops reading when the chat begins.
    pub fn is_deaf(&self, client: u32) -> bool {
        self.deaf_every > 0 && client.is_multiple_of(self.deaf_every)
    }
}
