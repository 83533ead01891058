//! One member of a room: how far along the room's order it is, and what was odd on the way.
//!
//! It keeps positions, not messages; the order itself is the room's ([`super::RoomLog`]).
//!
//! Invariant: what is odd is in a box that an orderly member does not have, so that one costs 16 bytes.

use std::collections::BTreeSet;

/// How far one member of the room is.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Position in the room's order after the last one received.
    pub(super) next: u32,
    /// Only for members that saw something odd, so that an orderly one costs 16 bytes.
    pub(super) odd: Option<Box<Odd>>,
    /// Left or failed: no longer counted, and no reason to keep the order for it.
    pub(super) gone: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Odd {
    /// Positions before `next` that were not received.
    pub(super) missing: BTreeSet<u32>,
    /// Messages received after `next - 1` that have no position yet.
    pub(super) unplaced: Vec<u64>,
    pub(super) duplicated: u32,
    /// Messages that came after a later one of the same sender.
    pub(super) overtaken: u32,
}

impl Member {
    /// Distinct messages received.
    pub fn distinct(&self) -> u32 {
        let (missing, unplaced) =
            self.odd.as_ref().map_or((0, 0), |odd| (odd.missing.len(), odd.unplaced.len()));
        self.next - missing as u32 + unplaced as u32
    }

    /// Deliveries of messages that it had already.
    pub fn duplicated(&self) -> u32 {
        self.odd.as_ref().map_or(0, |odd| odd.duplicated)
    }

    /// Messages that came after a later one of the same sender.
    pub fn overtaken(&self) -> u32 {
        self.odd.as_ref().map_or(0, |odd| odd.overtaken)
    }

    /// False once it was taken out of the count.
    pub fn counts(&self) -> bool {
        !self.gone
    }

    pub(super) fn odd(&mut self) -> &mut Odd {
        self.odd.get_or_insert_default()
    }

    pub(super) fn has_unplaced(&self) -> bool {
        self.odd.as_ref().is_some_and(|odd| !odd.unplaced.is_empty())
    }

    /// The last of its unplaced messages that is among `ids`.
    pub(super) fn last_kept(&self, ids: &[u64]) -> Option<u64> {
        self.odd.as_ref()?.unplaced.iter().rfind(|id| ids.contains(id)).copied()
    }

    /// `ids` were inserted at `at`, which it has passed: it lacks them, except those it kept unplaced, which
    /// reached it too late and are returned.
    pub(super) fn make_room(&mut self, at: u32, ids: &[u64]) -> Vec<u64> {
        let count = ids.len() as u32;
        self.next += count;
        let odd = self.odd();
        let shifted = |position: &u32| position + if *position >= at { count } else { 0 };
        odd.missing = odd.missing.iter().map(shifted).collect();
        let mut late = Vec::new();
        for (position, id) in (at..).zip(ids) {
            match odd.unplaced.iter().position(|known| known == id) {
                Some(kept) => {
                    odd.unplaced.remove(kept);
                    late.push(*id);
                }
                None => drop(odd.missing.insert(position)),
            }
        }
        late
    }

    /// It has passed this position without the message.
    pub(super) fn lacks(&self, position: u32) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.missing.contains(&position))
    }

    pub(super) fn keeps(&self, id: u64) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.unplaced.contains(&id))
    }
}
