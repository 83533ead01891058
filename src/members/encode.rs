//! Encode once: the bytes of consecutive messages of a room, for one encoding class.
//!
//! A *run* is the encoded form of some messages that follow one another in a room. Everybody of one class who is owed the same
//! messages is sent the same run. Runs lie in a scratch buffer that is used again; nobody keeps one.
//!
//! Large bodies are not copied: a run that has one is in parts, and the bodies among them are the messages' own memory. So a
//! message of a megabyte takes a megabyte, whatever ids its subscribers chose.
//!
//! This module knows no rooms, no sockets and no connections.
//!
//! Invariant: a run is whole STOMP frames, as the class's connections frame them, in the order in which they were given.

use std::borrow::Cow;
use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

use crate::buf::Slices;
use crate::message::class::Class;
use crate::message::interner::{Interner, Symbol};
use crate::message::{MessageId, Sequenced, reply};

/// Runs that are kept side by side. Past it the last one is overwritten, which costs an encoding per change of class and no
/// memory.
const RUNS_MAX: usize = 32;

/// Runs that one plan of a write may use: [`Encoder::make_room`] leaves places for so many.
pub const PLAN_RUNS_MAX: usize = 16;

/// Bytes of scratch that are kept for the next room; a turn with 1 MB bodies gives the rest back.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

/// Bytes of scratch past which a plan begins with an empty one.
const SCRATCH_BYTES_MAX: usize = 1024 * 1024;

/// Bodies from here on are not copied. Below, one contiguous run costs less than two more slices for each
/// member's write.
pub const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;

#[derive(Debug)]
struct Run {
    class: Symbol,
    /// The first message, which no other message is called.
    first: MessageId,
    count: u32,
    bytes: usize,
    /// Where it is in the scratch buffer.
    range: Range<usize>,
    /// Where its messages end, counted from its begin.
    ends: Range<usize>,
    /// Bodies that are not in the scratch buffer, and behind which byte of it each belongs.
    bodies: Vec<(usize, Bytes)>,
}

/// Number of a run; good until [`Encoder::begin`], or [`Encoder::make_room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunIndex(usize);

/// The encoder of one shard.
#[derive(Debug, Default)]
pub struct Encoder {
    scratch: Vec<u8>,
    ends: Vec<usize>,
    runs: Vec<Run>,
}

impl Encoder {
    /// Forgets all runs.
    pub fn begin(&mut self) {
        self.runs.clear();
        self.ends.clear();
        self.scratch.clear();
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT {
            self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
        }
    }

    /// Forgets all runs unless there is room for those of one more plan.
    pub fn make_room(&mut self) {
        if self.runs.len() + PLAN_RUNS_MAX > RUNS_MAX || self.scratch.len() > SCRATCH_BYTES_MAX {
            self.begin();
        }
    }

    /// Gives back all but `bytes` of the scratch buffer, and the last runs.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.begin();
        self.scratch.shrink_to(bytes);
        self.ends.shrink_to(bytes / size_of::<usize>());
    }

    /// The run of these messages for `class`, encoded if it is not there. There must be a message.
    pub fn run<'a>(
        &mut self,
        class: Symbol,
        messages: impl ExactSizeIterator<Item = &'a Sequenced> + Clone,
        classes: &Interner<Class>,
    ) -> RunIndex {
        let count = messages.len() as u32;
        let first = messages.clone().next().map_or(MessageId { epoch: 0, sequence: 0 }, |first| first.id);
        let is_it = |run: &Run| run.class == class && run.first == first && run.count == count;
        if let Some(at) = self.runs.iter().position(is_it) {
            return RunIndex(at);
        }
        if self.runs.len() == RUNS_MAX
            && let Some(last) = self.runs.pop()
        {
            self.scratch.truncate(last.range.start);
            self.ends.truncate(last.ends.start);
        }
        let (start, ends_start) = (self.scratch.len(), self.ends.len());
        let wanted = classes.value(class);
        let (mut bodies, mut elsewhere) = (Vec::new(), 0);
        for Sequenced { id, message } in messages {
            if message.body().len() < SHARED_BODY_BYTES_MIN {
                reply::message(wanted, *id, message, false, &mut self.scratch);
            } else {
                reply::message_head(wanted, *id, message, &mut self.scratch);
                let end = message.frame_end();
                elsewhere += end.len();
                bodies.push((self.scratch.len(), end));
            }
            self.ends.push(self.scratch.len() - start + elsewhere);
        }
        let bytes = self.scratch.len() - start + elsewhere;
        let (range, ends) = (start..self.scratch.len(), ends_start..self.ends.len());
        self.runs.push(Run { class, first, count, bytes, range, ends, bodies });
        RunIndex(self.runs.len() - 1)
    }

    /// The bytes of a run, unless it is in parts.
    pub fn contiguous(&self, run: RunIndex) -> Option<&[u8]> {
        let run = &self.runs[run.0];
        run.bodies.is_empty().then(|| &self.scratch[run.range.clone()])
    }

    /// Bytes of a run.
    pub fn bytes(&self, run: RunIndex) -> usize {
        self.runs[run.0].bytes
    }

    /// Adds a run without its first `skip` bytes to `slices`, as far as these may be `max`. Returns how many bytes were added.
    pub fn slices<'a>(&'a self, run: RunIndex, skip: usize, max: usize, slices: &mut Slices<'a>) -> usize {
        let run = &self.runs[run.0];
        let (mut skip, mut added, mut at) = (skip, 0, run.range.start);
        let mut add = |bytes: &'a [u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() && slices.len() < max {
                slices.push(IoSlice::new(&bytes[skipped..]));
                added += bytes.len() - skipped;
            }
        };
        for (end, body) in &run.bodies {
            add(&self.scratch[at..*end]);
            add(body);
            at = *end;
        }
        add(&self.scratch[at..run.range.end]);
        added
    }

    /// Gives each frame of a run to `take`, whole.
    pub fn each_frame(&self, run: RunIndex, mut take: impl FnMut(&[u8])) {
        let all = match self.contiguous(run) {
            Some(bytes) => Cow::Borrowed(bytes),
            None => {
                let mut slices = Slices::new();
                self.slices(run, 0, usize::MAX, &mut slices);
                Cow::Owned(slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat())
            }
        };
        let mut begin = 0;
        for end in &self.ends[self.runs[run.0].ends.clone()] {
            take(&all[begin..*end]);
            begin = *end;
        }
    }

    /// Of how many messages of a run the first `bytes` bytes are all, and how many bytes they have of the next one.
    pub fn locate(&self, run: RunIndex, bytes: usize) -> (u32, u32) {
        let ends = &self.ends[self.runs[run.0].ends.clone()];
        let whole = ends.partition_point(|end| *end <= bytes);
        let begin = if whole == 0 { 0 } else { ends[whole - 1] };
        (whole as u32, (bytes - begin) as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Message;
    use crate::message::class::AckMode;
    use crate::message::destination::Destination;
    use crate::wire::framing::Framing;
    use crate::wire::stomp::Version;

    fn class(id: &str) -> Class {
        Class {
            id: id.into(),
            is_named: true,
            version: Version::V12,
            ack: AckMode::Auto,
            framing: Framing::WebSocket,
        }
    }

    fn messages(bodies: &[Vec<u8>]) -> Vec<Sequenced> {
        let room = Destination::parse_send("/topic/a").unwrap();
        let sequenced = |(at, body): (usize, &Vec<u8>)| Sequenced {
            id: MessageId { epoch: 1, sequence: at as u64 },
            message: Message::new(&room, b"x:y\n", body),
        };
        bodies.iter().enumerate().map(sequenced).collect()
    }

    fn content(encoder: &Encoder, run: RunIndex, skip: usize) -> Vec<u8> {
        let mut slices = Slices::new();
        let added = encoder.slices(run, skip, 1000, &mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(bytes.len(), added);
        bytes
    }

    #[test]
    fn large_bodies_are_the_messages_own_in_every_run() {
        let messages = messages(&[vec![1; 100], vec![2; 1 << 20], vec![3; 100]]);
        let mut classes = Interner::new(1);
        let mut encoder = Encoder::default();
        for id in ["one", "two"] {
            let class = classes.acquire(class(id));
            let run = encoder.run(class, messages.iter(), &classes);
            assert_eq!(encoder.contiguous(run), None);
            let mut slices = Slices::new();
            encoder.slices(run, 0, 64, &mut slices);
            assert_eq!(slices.len(), 3);
            assert_eq!(slices[1].as_ptr(), messages[1].message.body().as_ptr());
        }
        assert!(encoder.scratch.len() < 4000);
    }

    #[test]
    fn a_run_is_encoded_once_and_many_classes_take_no_more_memory() {
        let messages = messages(&[vec![1; 100]]);
        let mut classes = Interner::new(1);
        let mut encoder = Encoder::default();
        let first = classes.acquire(class("first"));
        assert_eq!(
            encoder.run(first, messages.iter(), &classes),
            encoder.run(first, messages.iter(), &classes)
        );
        for other in 0..1000 {
            let class = classes.acquire(class(&other.to_string()));
            let run = encoder.run(class, messages.iter(), &classes);
            assert!(encoder.bytes(run) > 100);
        }
        assert_eq!(encoder.runs.len(), RUNS_MAX);
        assert!(encoder.scratch.len() < RUNS_MAX * 300);
        encoder.make_room();
        assert!(encoder.runs.is_empty());
    }

    proptest! {
        #[test]
        fn runs_are_the_messages_one_behind_the_other_from_any_byte_on(
            lengths in prop::collection::vec(prop_oneof![0..200_usize, SHARED_BODY_BYTES_MIN - 2..SHARED_BODY_BYTES_MIN + 2, 65_400..65_600_usize], 1..5),
            byte: u8,
            share in 0.0..1.0_f64,
        ) {
            let messages = messages(&lengths.iter().map(|length| vec![byte; *length]).collect::<Vec<_>>());
            let mut classes = Interner::new(1);
            let symbol = classes.acquire(class("id"));
            let mut encoder = Encoder::default();
            let run = encoder.run(symbol, messages.iter(), &classes);
            let (mut expected, mut ends) = (Vec::new(), Vec::new());
            for Sequenced { id, message } in &messages {
                reply::message(&class("id"), *id, message, false, &mut expected);
                ends.push(expected.len());
            }
            let is_large = lengths.iter().any(|length| *length >= SHARED_BODY_BYTES_MIN);
            prop_assert_eq!(encoder.contiguous(run).is_some(), !is_large);
            prop_assert_eq!(encoder.bytes(run), expected.len());
            let skip = (expected.len() as f64 * share) as usize;
            prop_assert_eq!(content(&encoder, run, skip), &expected[skip..]);
            let mut frames = Vec::new();
            encoder.each_frame(run, |frame| {
                frames.extend_from_slice(frame);
                assert!(ends.contains(&frames.len()));
            });
            prop_assert_eq!(&frames, &expected);
            let (whole, rest) = encoder.locate(run, skip);
            prop_assert_eq!(whole as usize, ends.iter().filter(|end| **end <= skip).count());
            let begin = if whole == 0 { 0 } else { ends[whole as usize - 1] };
            prop_assert_eq!(begin + rest as usize, skip);
        }
    }
}
