//! A hierarchical timing wheel: the deadlines of any number of keys, at most one for each.
//!
//! It reads no clock and calls nobody: [`Wheel::expire`] is told the time and hands out the keys that are due.
//!
//! Invariant: every armed key is in exactly one list, the one of the slot that its deadline and the wheel's
//! position demand ([`Wheel::check`]).

use super::Tick;

/// Bytes that each key costs, armed or not, up to the highest key in use.
pub const BYTES_PER_KEY: usize = size_of::<Link>();
const _: () = assert!(BYTES_PER_KEY == 12);

/// The highest key that a wheel takes.
pub const KEY_MAX: u32 = SLOT - 1;

const LEVELS: usize = 6;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// The list of what is due already, behind the lists of all slots.
const DUE: usize = LEVELS * SLOTS;
const LISTS: usize = DUE + 1;

/// Set in a node address that names the head of a list; clear in one that names a key.
const SLOT: u32 = 1 << 31;
/// `Link::next` of a key that is not armed. No address has this value: `LISTS` is far below it.
const IDLE: u32 = u32::MAX;

/// A node of a circular, doubly linked list: a key, or the head of the list itself.
///
/// With heads that are nodes, unlinking needs neither the slot nor a special case for the ends.
#[derive(Debug, Copy, Clone)]
struct Link {
    next: u32,
    prev: u32,
    deadline: Tick,
}

impl Link {
    const IDLE: Link = Link { next: IDLE, prev: IDLE, deadline: Tick(0) };

    fn is_armed(&self) -> bool {
        self.next != IDLE
    }
}

/// Deadlines by key.
///
/// A key is a slab index of the caller. Its deadline and its place in a list are one record of
/// [`BYTES_PER_KEY`], found by indexing with the key, so arming, re-arming and cancelling are a few stores and
/// never allocate (but for growth to a higher key).
///
/// Six levels of 64 slots cover all 32 bits of a [`Tick`]: a deadline lies on the level of the highest 6-bit
/// digit in which it differs from the wheel's position, in the slot of its own digit there. When the position
/// reaches a slot, its entries move down a level, at most five times in an entry's life; on the lowest level
/// a slot is one tick and its whole list becomes due at once. Occupied slots are the bits of one word per
/// level, so the position jumps from one occupied slot to the next: a clock that leaps ahead costs time for
/// the entries on the way, not for the ticks.
///
/// ```
/// use tcbchat::time::{Tick, Wheel};
///
/// let mut wheel = Wheel::new(Tick(0));
/// wheel.arm(7, Tick(0).after_ms(1_500));
/// let mut fired = Vec::new();
/// assert!(!wheel.expire(Tick(14), 100, &mut fired));
/// assert!(fired.is_empty());
/// assert!(!wheel.expire(Tick(15), 100, &mut fired));
/// assert_eq!(fired, [7]);
/// ```
#[derive(Debug)]
pub struct Wheel {
    /// All deadlines up to here are in the due list.
    position: Tick,
    /// The latest moment that `expire` was told; ahead of the position while a budget holds that up.
    now: Tick,
    len: usize,
    /// Bit `slot` of word `level`: the list is not empty.
    occupied: [u64; LEVELS],
    heads: Box<[Link; LISTS]>,
    links: Vec<Link>,
}

impl Wheel {
    /// An empty wheel whose first moment is `now`.
    #[must_use]
    pub fn new(now: Tick) -> Wheel {
        Wheel::with_capacity(now, 0)
    }

    /// An empty wheel with memory for the keys below `keys`.
    #[must_use]
    pub fn with_capacity(now: Tick, keys: usize) -> Wheel {
        let mut heads = Box::new([Link::IDLE; LISTS]);
        for (list, head) in heads.iter_mut().enumerate() {
            (head.next, head.prev) = (address(list), address(list));
        }
        Wheel { position: now, now, len: 0, occupied: [0; LEVELS], heads, links: Vec::with_capacity(keys) }
    }

    /// Keys that are armed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Keys that there is memory for, [`BYTES_PER_KEY`] each.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.links.capacity()
    }

    /// True if no key is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the deadline of `key`, in place of the one it had. A deadline that has passed fires at the next
    /// [`expire`](Self::expire). O(1).
    ///
    /// # Panics
    /// If `key` is above [`KEY_MAX`].
    pub fn arm(&mut self, key: u32, deadline: Tick) {
        assert!(key <= KEY_MAX, "key {key} is above {KEY_MAX}");
        let index = key as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, Link::IDLE);
        }
        if self.links[index].is_armed() {
            self.unlink(key);
        } else {
            self.len += 1;
        }
        self.links[index].deadline = deadline;
        self.link(key);
    }

    /// Takes the deadline of `key` away. False if it had none. O(1).
    pub fn cancel(&mut self, key: u32) -> bool {
        let armed = self.links.get(key as usize).is_some_and(Link::is_armed);
        if armed {
            self.unlink(key);
            self.len -= 1;
        }
        armed
    }

    /// The deadline of `key`, if it is armed.
    #[must_use]
    pub fn deadline(&self, key: u32) -> Option<Tick> {
        self.links.get(key as usize).filter(|link| link.is_armed()).map(|link| link.deadline)
    }

    /// Disarms keys whose deadline is at or before `now` and appends them to `fired`. True if the budget ended
    /// before the work did: call again, soon.
    ///
    /// Keys come in the order of their deadlines, except those that were armed when their deadline had
    /// passed: they come behind what was due then. `budget` bounds the entries that are fired or moved to a
    /// lower level, so a million deadlines in one slot are spread over several turns; 0 does nothing.
    ///
    /// A `now` before an earlier one is taken as that earlier one. O(entries fired or moved).
    pub fn expire(&mut self, now: Tick, budget: usize, fired: &mut Vec<u32>) -> bool {
        self.now = self.now.max(now);
        let mut left = budget;
        loop {
            left -= self.fire(left, fired);
            if self.first(DUE).is_some() {
                return true;
            }
            let Some((begin, level, list)) = self.next_slot().filter(|&(begin, ..)| begin <= self.now) else {
                self.position = self.now;
                return false;
            };
            self.position = begin;
            if level == 0 {
                self.make_due(list);
                continue;
            }
            // A cut by the budget leaves the rest in a slot that begins at the position: it is the next
            // slot again, and nothing can be added to it.
            while let Some(key) = self.first(list) {
                if left == 0 {
                    return true;
                }
                left -= 1;
                self.unlink(key);
                self.link(key);
            }
        }
    }

    /// Disarms up to `max` of the keys that are due, and appends them to `fired`. How many.
    fn fire(&mut self, max: usize, fired: &mut Vec<u32>) -> usize {
        let before = fired.len();
        for _ in 0..max {
            let Some(key) = self.first(DUE) else { break };
            self.unlink(key);
            fired.push(key);
        }
        let count = fired.len() - before;
        self.len -= count;
        count
    }

    /// A moment to wake up at: no later than the earliest deadline, and not before the time has passed in
    /// which there is nothing to do. `None` if no key is armed.
    ///
    /// A deadline on a higher level is known only by the begin of its slot; `expire` there moves it down.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        if self.first(DUE).is_some() {
            return Some(self.position);
        }
        self.next_slot().map(|(begin, ..)| begin)
    }

    /// The occupied slot that begins first: its begin, its level, its list.
    fn next_slot(&self) -> Option<(Tick, usize, usize)> {
        (0..LEVELS)
            .filter(|&level| self.occupied[level] != 0)
            .map(|level| {
                let slot = self.occupied[level].trailing_zeros();
                (self.slot_begin(level, slot), level, level * SLOTS + slot as usize)
            })
            .min()
    }

    /// The first tick of a slot: the digits of the position above the level, the slot's own, zeros below.
    fn slot_begin(&self, level: usize, slot: u32) -> Tick {
        let shift = DIGIT_BITS * level as u32;
        let above = u64::from(self.position.0) >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
        // The topmost slots of level 5 have no digits above, and slots past 2^32 are never occupied.
        Tick((above | u64::from(slot) << shift) as u32)
    }

    /// The list where a deadline belongs, given the position.
    fn list_of(&self, deadline: Tick) -> usize {
        if deadline <= self.position {
            return DUE;
        }
        let differs = deadline.0 ^ self.position.0;
        let level = differs.ilog2() / DIGIT_BITS;
        let slot = deadline.0 >> (DIGIT_BITS * level) & (SLOTS as u32 - 1);
        level as usize * SLOTS + slot as usize
    }

    /// Appends `key`, which is in no list, to the list of its deadline.
    fn link(&mut self, key: u32) {
        let list = self.list_of(self.links[key as usize].deadline);
        let head = address(list);
        let last = self.heads[list].prev;
        let link = &mut self.links[key as usize];
        (link.next, link.prev) = (head, last);
        self.node(last).next = key;
        self.heads[list].prev = key;
        if list != DUE {
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
        }
    }

    /// Takes `key` out of its list, whichever that is.
    fn unlink(&mut self, key: u32) {
        let Link { next, prev, .. } = self.links[key as usize];
        self.node(prev).next = next;
        self.node(next).prev = prev;
        self.links[key as usize].next = IDLE;
        if next == prev && next & SLOT != 0 {
            self.mark_empty((next & !SLOT) as usize);
        }
    }

    /// Appends the whole list of a slot to the due list. O(1).
    fn make_due(&mut self, list: usize) {
        let Link { next: first, prev: last, .. } = self.heads[list];
        let behind = self.heads[DUE].prev;
        self.node(behind).next = first;
        self.node(first).prev = behind;
        self.node(last).next = address(DUE);
        self.heads[DUE].prev = last;
        let head = address(list);
        (self.heads[list].next, self.heads[list].prev) = (head, head);
        self.mark_empty(list);
    }

    fn mark_empty(&mut self, list: usize) {
        if list != DUE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn first(&self, list: usize) -> Option<u32> {
        let next = self.heads[list].next;
        (next & SLOT == 0).then_some(next)
    }

    fn node(&mut self, address: u32) -> &mut Link {
        if address & SLOT == 0 {
            &mut self.links[address as usize]
        } else {
            &mut self.heads[(address & !SLOT) as usize]
        }
    }

    /// Verifies the invariant. O(keys); for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub fn check(&self) {
        let mut armed = 0;
        for list in 0..LISTS {
            let head = address(list);
            let mut prev = head;
            let mut node = self.heads[list].next;
            while node != head {
                let link = &self.links[node as usize];
                assert_eq!(link.prev, prev, "key {node}: wrong back link");
                let moving = list < DUE && {
                    let (level, slot) = (list / SLOTS, list % SLOTS);
                    level > 0 && self.slot_begin(level, slot as u32) == self.position
                };
                assert!(
                    moving || self.list_of(link.deadline) == list,
                    "key {node}, {:?}: in list {list} at {:?}",
                    link.deadline,
                    self.position
                );
                armed += 1;
                (prev, node) = (node, link.next);
            }
            assert_eq!(self.heads[list].prev, prev, "list {list}: wrong end");
            if list != DUE {
                let bit = self.occupied[list / SLOTS] >> (list % SLOTS) & 1;
                assert_eq!(bit == 1, self.first(list).is_some(), "list {list}: wrong bit");
            }
        }
        assert!(self.position <= self.now);
        assert_eq!(armed, self.len);
        assert_eq!(armed, self.links.iter().filter(|link| link.is_armed()).count());
    }
}

/// The node address of a list's head.
fn address(list: usize) -> u32 {
    SLOT | list as u32
}

#[cfg(test)]
mod tests;
