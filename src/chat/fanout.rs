//! Encode once: the bytes of one room's pending messages, per form.
//!
//! All messages that a room has pending in a turn are encoded into one contiguous run per form, and every
//! member of that form is sent the same slice. The runs live in a scratch buffer that is used again; only
//! when a socket does not take all of it is the run copied once into shared [`Bytes`] that queues can hold.
//!
//! This module knows no sockets and no connections.
//!
//! Invariant: a run is whole WebSocket messages, in the room's order.

use std::cell::OnceCell;

use bytes::Bytes;

use crate::chat::form::Form;
use crate::chat::intern::{Interner, Symbol};
use crate::chat::reply;
use crate::chat::room::Sequenced;

/// Forms whose runs are kept side by side. Past it the last run is overwritten, which costs an encoding
/// per change of form and no memory.
const RUNS_MAX: usize = 32;

/// Bytes of scratch that are kept for the next room; a turn with 1 MB bodies gives the rest back.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

#[derive(Debug)]
struct Run {
    form: Symbol,
    start: usize,
    end: usize,
    shared: OnceCell<Bytes>,
}

/// Number of a run in the current room; good until [`Fanout::begin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunIndex(usize);

/// The encoder of one shard.
#[derive(Debug, Default)]
pub struct Fanout {
    scratch: Vec<u8>,
    runs: Vec<Run>,
}

impl Fanout {
    /// Forgets the runs of the room before.
    pub fn begin(&mut self) {
        self.runs.clear();
        self.scratch.clear();
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT {
            self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
        }
    }

    /// Gives back all but `bytes` of the scratch buffer, and the shared copies of the last room.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.begin();
        self.scratch.shrink_to(bytes);
    }

    /// The run for `form`, encoded if nobody has had it.
    pub fn run(&mut self, form: Symbol, pending: &[Sequenced], forms: &Interner<Form>) -> RunIndex {
        if let Some(at) = self.runs.iter().position(|run| run.form == form) {
            return RunIndex(at);
        }
        if self.runs.len() == RUNS_MAX
            && let Some(run) = self.runs.pop()
        {
            self.scratch.truncate(run.start);
        }
        let start = self.scratch.len();
        let form_value = forms.value(form);
        for sequenced in pending {
            reply::message(form_value, sequenced.id, &sequenced.message, false, &mut self.scratch);
        }
        self.runs.push(Run { form, start, end: self.scratch.len(), shared: OnceCell::new() });
        RunIndex(self.runs.len() - 1)
    }

    /// The bytes of a run.
    pub fn bytes(&self, run: RunIndex) -> &[u8] {
        let run = &self.runs[run.0];
        &self.scratch[run.start..run.end]
    }

    /// The bytes of a run, shared with everybody who asks.
    pub fn shared(&self, run: RunIndex) -> Bytes {
        self.runs[run.0].shared.get_or_init(|| Bytes::copy_from_slice(self.bytes(run))).clone()
    }
}
