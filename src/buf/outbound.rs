//! What waits to be sent to one connection: a queue of segments that are shared with other connections.
//!
//! A segment is one or more whole WebSocket frames, encoded once for all who get them; the queue holds a
//! reference. A frame may be in two segments, so that connections can share its end and not its beginning. The queue
//! does no I/O and has no bound of its own: the water marks are compared by who pushes.
//!
//! Invariant: an empty queue is a null pointer, 8 bytes; a queue that is not empty holds no empty segment and ends where
//! a frame ends, and its byte count is the sum of its segments ([`Outbound::check`]).

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use foldhash::fast::FixedState;
use smallvec::SmallVec;

// Every connection has one, mostly empty.
const _: () = assert!(size_of::<Outbound>() == 8);
const _: () = assert!(size_of::<Queue>() <= 80);

/// Small segments are joined up to this size: a segment takes some 80 bytes beside its content, which nobody
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

/// Bytes to send, shared with everybody who sends them.
#[derive(Debug, Clone)]
pub struct Segment {
    /// One or more whole WebSocket frames, or what the segments before and after make whole.
    pub bytes: Bytes,
    /// The last frame goes on in the segment that must follow.
    pub continues: bool,
}

impl From<Bytes> for Segment {
    /// Whole frames.
    fn from(bytes: Bytes) -> Self {
        Segment { bytes, continues: false }
    }
}

/// What one vectored write is given, without an allocation for as many segments as there mostly are.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; 4]>;

/// The unsent segments of one connection, in order.
#[derive(Debug, Default)]
pub struct Outbound(Option<Box<Queue>>);

#[derive(Debug)]
struct Queue {
    /// The segment that is sent next, without what of it is sent. Inline, because most queues never hold a
    /// second one: then the box is the only allocation.
    front: Bytes,
    rest: VecDeque<Segment>,
    bytes: u64,
    /// The last frame of `front` goes on in the next segment.
    continues: bool,
    /// A part of the first frame of `front` is sent.
    cut: bool,
}

impl Outbound {
    /// True if everything is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Unsent bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Bytes that the queue takes beside itself and its segments' contents.
    #[must_use]
    pub fn boxed_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| size_of::<Queue>() + queue.rest.capacity() * size_of::<Segment>())
    }

    /// Appends a segment. An empty one is ignored. One that continues must be followed by what it continues in before
    /// anything else is done with the queue.
    pub fn push(&mut self, segment: impl Into<Segment>) {
        let segment = segment.into();
        if segment.bytes.is_empty() || (!segment.continues && self.joins_last(&segment.bytes)) {
            return;
        }
        let bytes = segment.bytes.len() as u64;
        match &mut self.0 {
            Some(queue) => {
                queue.bytes += bytes;
                queue.rest.push_back(segment);
            }
            empty => {
                let Segment { bytes: front, continues } = segment;
                let rest = VecDeque::new();
                *empty = Some(Box::new(Queue { front, rest, bytes, continues, cut: false }));
            }
        }
    }

    /// [`push`](Self::push) of a copy, which takes an allocation only where it becomes a segment of its own.
    pub fn append(&mut self, segment: &[u8]) {
        if !self.joins_last(segment) {
            // Exactly as long as it is: a vector with room to spare would be kept by a second allocation.
            self.push(Bytes::copy_from_slice(segment));
        }
    }

    /// Adds `segment` to the last one if both are small. The first is left alone: it may be under way.
    fn joins_last(&mut self, segment: &[u8]) -> bool {
        let Some(queue) = &mut self.0 else { return false };
        match queue.rest.back_mut() {
            Some(last) if !last.continues && last.bytes.len() + segment.len() <= JOINED_BYTES_MAX => {
                join(&mut last.bytes, segment);
            }
            _ => return false,
        }
        queue.bytes += segment.len() as u64;
        true
    }

    /// The next bytes to send, for one vectored write: of up to `max` segments, at least one.
    pub fn slices(&self, max: usize) -> Slices<'_> {
        let Some(queue) = &self.0 else { return Slices::new() };
        let count = (1 + queue.rest.len()).min(max.max(1));
        let mut slices = Slices::with_capacity(count);
        slices.push(IoSlice::new(&queue.front));
        for segment in queue.rest.range(..count - 1) {
            slices.push(IoSlice::new(&segment.bytes));
        }
        slices
    }

    /// Removes the first `n` bytes, which are sent. The last byte takes the queue's memory with it.
    ///
    /// # Panics
    /// If `n` is above [`bytes`](Self::bytes).
    pub fn advance(&mut self, n: usize) {
        assert!(n as u64 <= self.bytes(), "sent {n} of {} bytes", self.bytes());
        let Some(queue) = &mut self.0 else { return };
        queue.bytes -= n as u64;
        let mut left = n;
        while left >= queue.front.len() {
            left -= queue.front.len();
            match queue.rest.pop_front() {
                Some(next) => {
                    queue.cut = queue.continues;
                    (queue.front, queue.continues) = (next.bytes, next.continues);
                }
                None => {
                    self.0 = None;
                    return;
                }
            }
        }
        if left > 0 {
            queue.front.advance(left);
            queue.cut = true;
        }
    }

    /// Keeps only what must go out so that the peer sees whole frames: the rest of what is partly sent, if anything
    /// is. The bytes dropped.
    ///
    /// For closing: a close frame pushed after it comes next on the wire, between two frames.
    pub fn truncate_to_partial(&mut self) -> u64 {
        match &mut self.0 {
            Some(queue) if queue.cut => {
                let rest = std::mem::take(&mut queue.rest);
                let mut kept = queue.front.len() as u64;
                let mut continues = queue.continues;
                for segment in rest {
                    if !continues {
                        break;
                    }
                    continues = segment.continues;
                    kept += segment.bytes.len() as u64;
                    queue.rest.push_back(segment);
                }
                std::mem::replace(&mut queue.bytes, kept) - kept
            }
            _ => self.clear(),
        }
    }

    /// Drops everything. The bytes dropped.
    pub fn clear(&mut self) -> u64 {
        self.0.take().map_or(0, |queue| queue.bytes)
    }

    /// Notes the segments in `held`, each once however many queues it is in: by where its content ends, which does not
    /// change while it is sent; how much of it is unsent where most is, and with the room that a joined one may have.
    pub fn note_held(&self, held: &mut HashMap<usize, usize, FixedState>) {
        for segment in self.segments() {
            let length = segment.len();
            let room =
                if length <= JOINED_BYTES_MAX { length.next_multiple_of(JOINED_BYTES_STEP) } else { length };
            let most = held.entry(segment.as_ptr_range().end.addr()).or_default();
            *most = room.max(*most);
        }
    }

    fn segments(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter().flat_map(|queue| {
            std::iter::once(&queue.front).chain(queue.rest.iter().map(|segment| &segment.bytes))
        })
    }

    /// Verifies the invariant; for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub fn check(&self) {
        assert!(self.segments().all(|segment| !segment.is_empty()), "an empty segment is queued");
        assert_eq!(self.segments().map(|segment| segment.len() as u64).sum::<u64>(), self.bytes());
        assert_eq!(self.is_empty(), self.bytes() == 0);
        if let Some(queue) = &self.0 {
            let continues = queue.rest.back().map_or(queue.continues, |last| last.continues);
            assert!(!continues, "the last frame has no end");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(outbound: &Outbound) -> Vec<u8> {
        outbound.segments().flatten().copied().collect()
    }

    fn queue_of(segments: &[&'static [u8]]) -> Outbound {
        let mut outbound = Outbound::default();
        segments.iter().for_each(|segment| outbound.push(Bytes::from_static(segment)));
        outbound.check();
        outbound
    }

    #[test]
    fn nothing_is_held_when_nothing_waits() {
        let mut outbound = queue_of(&[b""]);
        assert!(outbound.is_empty());
        outbound.push(Bytes::from_static(b"abc"));
        outbound.push(Bytes::from_static(b"de"));
        assert_eq!(outbound.bytes(), 5);
        outbound.advance(0);
        outbound.advance(5);
        assert!(outbound.is_empty());
        outbound.advance(0);
    }

    #[test]
    #[should_panic(expected = "sent 3 of 2 bytes")]
    fn sending_more_than_there_is_is_a_bug_of_the_caller() {
        queue_of(&[b"ab"]).advance(3);
    }

    #[test]
    fn truncating_keeps_a_frame_that_is_on_its_way() {
        let mut outbound = queue_of(&[b"abc", b"def"]);
        outbound.push(Bytes::from(vec![0; JOINED_BYTES_MAX]));
        outbound.advance(4);
        assert_eq!(outbound.truncate_to_partial(), JOINED_BYTES_MAX as u64);
        assert_eq!(content(&outbound), b"ef");
        outbound.push(Bytes::from_static(b"close"));
        assert_eq!(content(&outbound), b"efclose");
        outbound.check();
    }

    #[test]
    fn truncating_keeps_the_end_of_a_frame_whose_beginning_is_on_its_way() {
        // From within the beginning, at its end, and within the end.
        for sent in [1, 4, 5] {
            let mut outbound = Outbound::default();
            outbound.push(Segment { bytes: Bytes::from_static(b"head"), continues: true });
            outbound.push(Bytes::from_static(b"tail"));
            outbound.push(Bytes::from_static(&[0; JOINED_BYTES_MAX]));
            outbound.advance(sent);
            assert_eq!(outbound.truncate_to_partial(), JOINED_BYTES_MAX as u64);
            assert_eq!(content(&outbound), b"headtail"[sent..]);
            outbound.check();
        }
    }

    #[test]
    fn a_segment_in_many_queues_is_held_once() {
        let shared = Bytes::from(vec![1; 5000]);
        let mut queues = [Outbound::default(), Outbound::default(), Outbound::default()];
        for (sent, queue) in queues.iter_mut().enumerate() {
            queue.push(shared.clone());
            queue.push(Bytes::from(vec![2; 2000]));
            queue.advance(1000 + sent);
        }
        let mut held = HashMap::default();
        queues.iter().for_each(|queue| queue.note_held(&mut held));
        assert_eq!(held.values().sum::<usize>(), 4000 + 3 * 2000);
    }

    #[test]
    fn truncating_between_frames_keeps_nothing() {
        let mut outbound = queue_of(&[b"abc", b"def"]);
        outbound.advance(3);
        assert_eq!(outbound.truncate_to_partial(), 3);
        assert!(outbound.is_empty());
        assert_eq!(outbound.truncate_to_partial(), 0);
    }

    #[test]
    fn slices_stop_at_either_end() {
        let large: &'static [u8] = &[7; JOINED_BYTES_MAX];
        let outbound = queue_of(&[b"a", b"b", large]);
        let two = outbound.slices(2);
        assert_eq!((&*two[0], &*two[1], two.len()), (&b"a"[..], &b"b"[..], 2));
        assert_eq!(outbound.slices(4).len(), 3);
        assert!(Outbound::default().slices(4).is_empty());
        let mut many = Outbound::default();
        (0..9).for_each(|number| many.push(Bytes::from(vec![number; JOINED_BYTES_MAX])));
        let numbers = |max: usize| many.slices(max).iter().map(|slice| slice[0]).collect::<Vec<u8>>();
        assert_eq!(numbers(7), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(numbers(64), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn small_segments_share_one_and_shared_ones_are_left_alone() {
        let shared = Bytes::from(vec![1; 10]);
        let mut outbound = queue_of(&[b"first"]);
        outbound.push(shared.clone());
        (0..200).for_each(|_| outbound.push(Bytes::from_static(b"\x8a\x00")));
        assert_eq!(outbound.segments().count(), 2);
        assert_eq!(outbound.bytes(), 5 + 10 + 400);
        assert_eq!(shared, [1; 10][..]);
        outbound.check();
    }

    #[derive(Debug, Clone)]
    enum Op {
        Push(Vec<u8>),
        Append(Vec<u8>),
        /// A frame in two segments.
        Parts(Vec<u8>, Vec<u8>),
        /// A write of this share of what the slices offered.
        Send {
            slices: usize,
            share: u8,
        },
        Truncate,
        Clear,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Op::Push),
            4 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Op::Append),
            4 => [1..30_usize, 1..2 * JOINED_BYTES_MAX].prop_map(|[head, tail]| Op::Parts(vec![3; head], vec![4; tail])),
            3 => (0..2 * JOINED_BYTES_MAX).prop_map(|length| Op::Push(vec![9; length])),
            8 => (1..20_usize, any::<u8>()).prop_map(|(slices, share)| Op::Send { slices, share }),
            1 => Just(Op::Truncate),
            1 => Just(Op::Clear),
        ]
    }

    proptest! {
        /// The model is the unsent bytes, and the lengths of their segments and which of them continue.
        #[test]
        fn agrees_with_a_plain_byte_queue(ops in prop::collection::vec(op(), 1..150)) {
            let mut outbound = Outbound::default();
            let (mut unsent, mut segments) = (Vec::<u8>::new(), VecDeque::<(usize, bool)>::new());
            let (mut pushed, mut sent, mut dropped) = (0, 0, 0);
            // Bytes of the first segment that are sent, and whether it is the end of a frame that is sent in part.
            let (mut partial, mut is_end) = (0, false);
            for op in ops {
                match op {
                    Op::Push(ref segment) | Op::Append(ref segment) => {
                        pushed += segment.len() as u64;
                        unsent.extend_from_slice(segment);
                        let is_behind_the_front = segments.len() > 1;
                        match segments.back_mut() {
                            _ if segment.is_empty() => {}
                            Some((last, _)) if is_behind_the_front && *last + segment.len() <= JOINED_BYTES_MAX => {
                                *last += segment.len();
                            }
                            _ => segments.push_back((segment.len(), false)),
                        }
                        match &op {
                            Op::Append(segment) => outbound.append(segment),
                            _ => outbound.push(Bytes::from(segment.clone())),
                        }
                    }
                    Op::Parts(head, tail) => {
                        pushed += (head.len() + tail.len()) as u64;
                        for (bytes, continues) in [(head, true), (tail, false)] {
                            unsent.extend_from_slice(&bytes);
                            segments.push_back((bytes.len(), continues));
                            outbound.push(Segment { bytes: bytes.into(), continues });
                        }
                    }
                    Op::Send { slices, share } => {
                        let offered: Vec<u8> =
                            outbound.slices(slices).iter().flat_map(|slice| slice.to_vec()).collect();
                        prop_assert!(unsent.starts_with(&offered));
                        prop_assert_eq!(offered.is_empty(), unsent.is_empty());
                        let n = offered.len() * usize::from(share) / 255;
                        outbound.advance(n);
                        unsent.drain(..n);
                        sent += n as u64;
                        partial += n;
                        while let Some(&(length, continues)) = segments.front()
                            && partial >= length
                        {
                            partial -= length;
                            is_end = continues;
                            segments.pop_front();
                        }
                    }
                    Op::Truncate => {
                        dropped += outbound.truncate_to_partial();
                        let mut count = 0;
                        if partial > 0 || is_end {
                            count = 1 + segments.iter().take_while(|(_, continues)| *continues).count();
                        }
                        segments.truncate(count);
                        let kept = segments.iter().map(|(length, _)| length).sum::<usize>() - partial;
                        unsent.truncate(kept);
                    }
                    Op::Clear => {
                        dropped += outbound.clear();
                        unsent.clear();
                        segments.clear();
                        (partial, is_end) = (0, false);
                    }
                }
                outbound.check();
                prop_assert_eq!(content(&outbound), &unsent[..]);
                prop_assert_eq!(outbound.bytes(), unsent.len() as u64);
                prop_assert_eq!(pushed, sent + dropped + outbound.bytes());
            }
        }
    }
}
