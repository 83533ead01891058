//! Encode once: the bytes of one room's pending messages, per form.
//!
//! All messages that a room has pending in a turn are encoded into one contiguous run per form, and every
//! member of that form is sent the same slice. The runs live in a scratch buffer that is used again; only
//! when a socket does not take all of it is the run copied once into a shared [`Segment`] that queues can hold.
//!
//! Large bodies are not encoded for each form: a run that has one is in *parts*, and the bodies among them are the
//! messages' own memory. So a message of a megabyte takes a megabyte, whatever ids its subscribers chose.
//!
//! This module knows no sockets and no connections.
//!
//! Invariant: a run is whole WebSocket messages, in the room's order.

use std::cell::{Cell, OnceCell};
use std::ops::Range;
use std::slice;

use bytes::Bytes;

use crate::buf::Segment;
use crate::chat::form::Form;
use crate::chat::intern::{Interner, Symbol};
use crate::chat::reply;
use crate::chat::room::Sequenced;

/// Forms whose runs are kept side by side. Past it the last run is overwritten, which costs an encoding
/// per change of form and no memory.
const RUNS_MAX: usize = 32;

/// Bytes of scratch that are kept for the next room; a turn with 1 MB bodies gives the rest back.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

/// Bodies from here on are shared by all forms. Below, one contiguous run costs less than two more slices for each
/// member's write.
const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;

#[derive(Debug)]
struct Run {
    form: Symbol,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Where it is in the scratch buffer, and as queues hold it.
    Contiguous { range: Range<usize>, shared: OnceCell<Segment> },
    /// One of them may be empty.
    Parts(Vec<Segment>),
}

/// Number of a run in the current room; good until [`Fanout::begin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunIndex(usize);

/// The encoder of one shard.
#[derive(Debug, Default)]
pub struct Fanout {
    scratch: Vec<u8>,
    runs: Vec<Run>,
    made: Cell<u64>,
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
            && let Some(Run { content: Content::Contiguous { range, .. }, .. }) = self.runs.pop()
        {
            self.scratch.truncate(range.start);
        }
        let start = self.scratch.len();
        let form_value = forms.value(form);
        let mut parts = Vec::new();
        for Sequenced { id, message } in pending {
            if message.body().len() < SHARED_BODY_BYTES_MIN {
                reply::message(form_value, *id, message, false, &mut self.scratch);
            } else {
                reply::message_head(form_value, *id, message, &mut self.scratch);
                parts.push(Segment { bytes: self.copy(start..self.scratch.len()), continues: true });
                self.scratch.truncate(start);
                let end = message.frame_end();
                if self.runs.is_empty() {
                    self.count(end.len());
                }
                parts.push(end.into());
            }
        }
        let range = start..self.scratch.len();
        let content = if parts.is_empty() {
            Content::Contiguous { range, shared: OnceCell::new() }
        } else {
            parts.push(self.copy(range).into());
            self.scratch.truncate(start);
            Content::Parts(parts)
        };
        self.runs.push(Run { form, content });
        RunIndex(self.runs.len() - 1)
    }

    fn copy(&self, range: Range<usize>) -> Bytes {
        self.count(range.len());
        Bytes::copy_from_slice(&self.scratch[range])
    }

    fn count(&self, bytes: usize) {
        self.made.set(self.made.get() + bytes as u64);
    }

    /// The bytes of a run, unless it is in parts.
    pub fn contiguous(&self, run: RunIndex) -> Option<&[u8]> {
        match &self.runs[run.0].content {
            Content::Contiguous { range, .. } => Some(&self.scratch[range.clone()]),
            Content::Parts(_) => None,
        }
    }

    /// Bytes of a run.
    pub fn bytes(&self, run: RunIndex) -> u64 {
        match &self.runs[run.0].content {
            Content::Contiguous { range, .. } => range.len() as u64,
            Content::Parts(parts) => parts.iter().map(|part| part.bytes.len() as u64).sum(),
        }
    }

    /// A run as it is queued, shared with everybody who asks. One of the segments may be empty.
    pub fn segments(&self, run: RunIndex) -> &[Segment] {
        match &self.runs[run.0].content {
            Content::Contiguous { range, shared } => {
                slice::from_ref(shared.get_or_init(|| self.copy(range.clone()).into()))
            }
            Content::Parts(parts) => parts,
        }
    }

    /// Bytes that queues hold and nobody has held before, since this was last asked: copies, and bodies once in a walk.
    pub fn take_made(&self) -> u64 {
        self.made.take()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chat::destination::Destination;
    use crate::chat::form::AckMode;
    use crate::chat::message::{Message, MessageId};
    use crate::wire::stomp::Version;

    fn form(id: &str) -> Form {
        Form { id: id.into(), is_named: true, version: Version::V12, ack: AckMode::Auto }
    }

    fn pending(bodies: &[Vec<u8>]) -> Vec<Sequenced> {
        let room = Destination::parse_send("/topic/a").unwrap();
        let sequenced = |(at, body): (usize, &Vec<u8>)| Sequenced {
            id: MessageId { life: 1, sequence: at as u64 },
            message: Message::new(&room, b"x:y\n", body),
        };
        bodies.iter().enumerate().map(sequenced).collect()
    }

    #[test]
    fn large_bodies_are_the_messages_own_in_every_run() {
        let pending = pending(&[vec![1; 100], vec![2; 1 << 20], vec![3; 100]]);
        let mut forms = Interner::new(1);
        let mut fanout = Fanout::default();
        fanout.begin();
        for id in ["one", "two"] {
            let form = forms.acquire(form(id));
            let run = fanout.run(form, &pending, &forms);
            assert_eq!(fanout.contiguous(run), None);
            let parts = fanout.segments(run);
            assert!(parts[0].continues && !parts[1].continues && !parts[2].continues);
            assert_eq!(parts[1].bytes.as_ptr(), pending[1].message.body().as_ptr());
        }
        // The body once, and a copy of the rest for each.
        let made = fanout.take_made() - (1 << 20);
        assert!((1..2000).contains(&made), "{made} bytes made");
        assert_eq!(fanout.take_made(), 0);
    }

    proptest! {
        #[test]
        fn a_run_in_parts_is_the_same_bytes(
            lengths in prop::collection::vec(prop_oneof![0..200_usize, SHARED_BODY_BYTES_MIN - 2..SHARED_BODY_BYTES_MIN + 2, 65_400..65_600_usize], 1..5),
            byte: u8,
        ) {
            let pending = pending(&lengths.iter().map(|length| vec![byte; *length]).collect::<Vec<_>>());
            let mut forms = Interner::new(1);
            let symbol = forms.acquire(form("id"));
            let mut fanout = Fanout::default();
            let run = fanout.run(symbol, &pending, &forms);
            let mut expected = Vec::new();
            for Sequenced { id, message } in &pending {
                reply::message(&form("id"), *id, message, false, &mut expected);
            }
            let is_large = lengths.iter().any(|length| *length >= SHARED_BODY_BYTES_MIN);
            prop_assert_eq!(fanout.contiguous(run).is_some(), !is_large);
            let queued: Vec<u8> = fanout.segments(run).iter().flat_map(|part| part.bytes.to_vec()).collect();
            prop_assert_eq!(fanout.bytes(run), expected.len() as u64);
            prop_assert_eq!(queued, expected);
        }
    }
}
