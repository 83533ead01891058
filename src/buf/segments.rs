//! A queue of byte segments that wait to be sent, each one or more whole frames.
//!
//! The queue does no I/O and has no bound of its own: whoever pushes compares the water marks.
//!
//! Invariant: a queue that is not empty holds no empty segment, its byte count is the sum of its segments, and what was ever
//! pushed is what was taken off the front, what was dropped, and what is queued ([`Segments::check`]).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// Small segments are joined up to this size: a segment takes some 50 bytes beside its content, which nobody
/// counts, and a peer that does not read can make thousands of answers of two bytes.
pub const JOINED_BYTES_MAX: usize = 1024;

/// Room in a joined segment is made in such steps. Doubled, or made at once for all that might be joined, it would be
/// much that nobody counts.
const JOINED_BYTES_STEP: usize = 256;

/// Appends to a segment, in place where nobody else has it and there is room.
fn join(last: &mut Bytes, segment: &[u8]) {
    let copy = |content: &[u8]| {
        let mut own =
            BytesMut::with_capacity((content.len() + segment.len()).next_multiple_of(JOINED_BYTES_STEP));
        own.extend_from_slice(content);
        own
    };
    let mut joined = match std::mem::take(last).try_into_mut() {
        Ok(own) if own.len() + segment.len() <= own.capacity() => own,
        Ok(own) => copy(&own),
        Err(shared) => copy(&shared),
    };
    joined.extend_from_slice(segment);
    *last = joined.freeze();
}

/// What one vectored write is given, without an allocation for as many segments as there mostly are.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; 8]>;

/// Unsent segments, in order.
#[derive(Debug, Default)]
pub struct Segments {
    /// The segment that is sent next, without what of it is sent. Inline, because most queues never hold a second one.
    front: Bytes,
    rest: VecDeque<Bytes>,
    bytes: u64,
    /// Bytes taken off the front, ever.
    taken: u64,
    /// A part of the front segment is sent.
    is_cut: bool,
}

impl Segments {
    /// Whether everything is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Unsent bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that were taken off the front since the queue was made: sent.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// What [`taken`](Self::taken) will be when all that is queued has been sent.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.taken + self.bytes
    }

    /// Whether a part of the first segment is sent, so that nothing else may be sent before its rest.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Segments that are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(!self.front.is_empty()) + self.rest.len()
    }

    /// Bytes of the heap that the queue takes beside its segments' contents.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.rest.capacity() * size_of::<Bytes>()
    }

    /// Appends a segment. An empty one is ignored.
    pub fn push(&mut self, segment: Bytes) {
        if segment.is_empty() || self.joins_last(&segment) {
            return;
        }
        self.bytes += segment.len() as u64;
        if self.front.is_empty() {
            self.front = segment;
        } else {
            self.rest.push_back(segment);
        }
    }

    /// Puts the rest of a frame in front of which a part is sent already: it is sent next.
    ///
    /// # Panics
    /// If another frame is sent in part.
    pub fn push_cut(&mut self, rest: Bytes) {
        assert!(!self.is_cut, "two frames are sent in part");
        if rest.is_empty() {
            return;
        }
        self.bytes += rest.len() as u64;
        let front = std::mem::replace(&mut self.front, rest);
        if !front.is_empty() {
            self.rest.push_front(front);
        }
        self.is_cut = true;
    }

    /// [`push`](Self::push) of a copy, which takes an allocation only where it becomes a segment of its own.
    pub fn append(&mut self, segment: &[u8]) {
        if !segment.is_empty() && !self.joins_last(segment) {
            // Exactly as long as it is: a vector with room to spare would be kept by a second allocation.
            self.push(Bytes::copy_from_slice(segment));
        }
    }

    /// Adds `segment` to the last one if both are small. The first is left alone: it may be under way.
    fn joins_last(&mut self, segment: &[u8]) -> bool {
        match self.rest.back_mut() {
            Some(last) if last.len() + segment.len() <= JOINED_BYTES_MAX => join(last, segment),
            _ => return false,
        }
        self.bytes += segment.len() as u64;
        true
    }

    /// Adds the next bytes to send to `slices`, of as many segments as `slices` may have beside what it has: `max` in all.
    /// Returns how many bytes were added.
    pub fn slices<'a>(&'a self, max: usize, slices: &mut Slices<'a>) -> usize {
        let before = slices.len();
        if before < max && !self.front.is_empty() {
            slices.push(IoSlice::new(&self.front));
            for segment in self.rest.iter().take(max - slices.len()) {
                slices.push(IoSlice::new(segment));
            }
        }
        slices[before..].iter().map(|slice| slice.len()).sum()
    }

    /// Removes the first `n` bytes, which are sent.
    ///
    /// # Panics
    /// If `n` is above [`bytes`](Self::bytes).
    pub fn advance(&mut self, n: usize) {
        assert!(n as u64 <= self.bytes, "sent {n} of {} bytes", self.bytes);
        self.bytes -= n as u64;
        self.taken += n as u64;
        let mut left = n;
        while !self.front.is_empty() && left >= self.front.len() {
            left -= self.front.len();
            self.front = self.rest.pop_front().unwrap_or_default();
            self.is_cut = false;
        }
        if left > 0 {
            self.front.advance(left);
            self.is_cut = true;
        }
    }

    /// Keeps only what must go out so that the peer sees whole frames: the rest of a segment that is partly sent. Returns
    /// the bytes that were dropped.
    ///
    /// For closing: a close frame that is pushed after it comes next on the wire, between two frames.
    pub fn truncate_to_partial(&mut self) -> u64 {
        let before = self.bytes;
        self.rest = VecDeque::new();
        if !self.is_cut {
            self.front = Bytes::new();
        }
        self.bytes = self.front.len() as u64;
        before - self.bytes
    }

    /// Verifies the invariant; for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub fn check(&self) {
        assert!(self.rest.iter().all(|segment| !segment.is_empty()), "an empty segment is queued");
        assert!(!self.front.is_empty() || self.rest.is_empty(), "a segment waits behind nothing");
        let sum = self.front.len() + self.rest.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(sum as u64, self.bytes);
        assert!(!self.is_cut || !self.front.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(queue: &Segments) -> Vec<u8> {
        std::iter::once(&queue.front).chain(&queue.rest).flatten().copied().collect()
    }

    fn queue_of(segments: &[&'static [u8]]) -> Segments {
        let mut queue = Segments::default();
        segments.iter().for_each(|segment| queue.push(Bytes::from_static(segment)));
        queue.check();
        queue
    }

    #[test]
    #[should_panic(expected = "sent 3 of 2 bytes")]
    fn sending_more_than_there_is_is_a_bug_of_the_caller() {
        queue_of(&[b"ab"]).advance(3);
    }

    #[test]
    fn truncating_keeps_a_frame_that_is_on_its_way_and_nothing_between_frames() {
        let mut queue = queue_of(&[b"abc", b"def"]);
        queue.push(Bytes::from(vec![0; JOINED_BYTES_MAX]));
        queue.advance(4);
        assert_eq!(queue.truncate_to_partial(), JOINED_BYTES_MAX as u64);
        queue.push(Bytes::from_static(b"close"));
        assert_eq!(content(&queue), b"efclose");
        let mut queue = queue_of(&[b"abc", b"def"]);
        queue.advance(3);
        assert_eq!((queue.truncate_to_partial(), queue.is_empty()), (3, true));
        assert_eq!(queue.truncate_to_partial(), 0);
        queue.check();
    }

    #[test]
    fn the_rest_of_a_frame_comes_first_and_is_kept() {
        let mut queue = queue_of(&[b"answer"]);
        queue.push_cut(Bytes::new());
        assert!(!queue.is_cut());
        queue.push_cut(Bytes::from_static(b"rest"));
        queue.check();
        assert_eq!((content(&queue).as_slice(), queue.is_cut()), (&b"restanswer"[..], true));
        assert_eq!(queue.truncate_to_partial(), 6);
        assert_eq!(content(&queue), b"rest");
    }

    #[test]
    fn slices_stop_at_either_end() {
        let large: &'static [u8] = &[7; JOINED_BYTES_MAX];
        let queue = queue_of(&[b"a", b"b", large]);
        let of = |max| {
            let mut slices = Slices::new();
            let bytes = queue.slices(max, &mut slices);
            (bytes, slices.len())
        };
        assert_eq!((of(1), of(2), of(4)), ((1, 1), (2, 2), (2 + large.len(), 3)));
        let mut slices = Slices::new();
        slices.push(IoSlice::new(b"first"));
        assert_eq!(queue.slices(2, &mut slices), 1);
        assert_eq!(queue.slices(2, &mut slices), 0);
        assert_eq!(Segments::default().slices(4, &mut Slices::new()), 0);
    }

    #[test]
    fn small_segments_share_one_and_shared_ones_are_left_alone() {
        let shared = Bytes::from(vec![1; 10]);
        let mut queue = queue_of(&[b"first"]);
        queue.push(shared.clone());
        (0..200).for_each(|_| queue.push(Bytes::from_static(b"\x8a\x00")));
        assert_eq!((queue.len(), queue.bytes()), (2, 5 + 10 + 400));
        assert_eq!(shared, [1; 10][..]);
        queue.check();
    }

    #[derive(Debug, Clone)]
    enum Op {
        Push(Vec<u8>),
        Append(Vec<u8>),
        /// A write of this share of what the slices offered.
        Send {
            slices: usize,
            share: u8,
        },
        Truncate,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Op::Push),
            4 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Op::Append),
            3 => (0..2 * JOINED_BYTES_MAX).prop_map(|length| Op::Push(vec![9; length])),
            8 => (1..20_usize, any::<u8>()).prop_map(|(slices, share)| Op::Send { slices, share }),
            1 => Just(Op::Truncate),
        ]
    }

    proptest! {
        /// The model is the unsent bytes, and the lengths of their segments.
        #[test]
        fn agrees_with_a_plain_byte_queue(ops in prop::collection::vec(op(), 1..150)) {
            let mut queue = Segments::default();
            let (mut unsent, mut segments) = (Vec::<u8>::new(), VecDeque::<usize>::new());
            let (mut pushed, mut sent, mut dropped) = (0, 0, 0);
            // Bytes of the first segment that are sent.
            let mut partial = 0;
            for op in ops {
                match op {
                    Op::Push(ref segment) | Op::Append(ref segment) => {
                        pushed += segment.len() as u64;
                        unsent.extend_from_slice(segment);
                        let is_behind_the_front = segments.len() > 1;
                        match segments.back_mut() {
                            _ if segment.is_empty() => {}
                            Some(last) if is_behind_the_front && *last + segment.len() <= JOINED_BYTES_MAX => {
                                *last += segment.len();
                            }
                            _ => segments.push_back(segment.len()),
                        }
                        match &op {
                            Op::Append(segment) => queue.append(segment),
                            _ => queue.push(Bytes::from(segment.clone())),
                        }
                    }
                    Op::Send { slices, share } => {
                        let mut list = Slices::new();
                        let count = queue.slices(slices, &mut list);
                        let offered: Vec<u8> = list.iter().flat_map(|slice| slice.to_vec()).collect();
                        prop_assert_eq!(count, offered.len());
                        prop_assert!(unsent.starts_with(&offered));
                        prop_assert_eq!(offered.is_empty(), unsent.is_empty());
                        drop(list);
                        let n = offered.len() * usize::from(share) / 255;
                        queue.advance(n);
                        unsent.drain(..n);
                        sent += n as u64;
                        partial += n;
                        while let Some(&length) = segments.front()
                            && partial >= length
                        {
                            partial -= length;
                            segments.pop_front();
                        }
                    }
                    Op::Truncate => {
                        dropped += queue.truncate_to_partial();
                        segments.truncate(usize::from(partial > 0));
                        unsent.truncate(segments.iter().sum::<usize>().saturating_sub(partial));
                    }
                }
                queue.check();
                prop_assert_eq!(content(&queue), &unsent[..]);
                prop_assert_eq!(queue.bytes(), unsent.len() as u64);
                prop_assert_eq!(queue.is_cut(), partial > 0);
                prop_assert_eq!(queue.taken(), sent);
                prop_assert_eq!(pushed, sent + dropped + queue.bytes());
            }
        }
    }
}
