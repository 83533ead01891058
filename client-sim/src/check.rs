//! Sent = received, exactly: every member of a room gets every message once, all in the same order.
//!
//! One [`RoomLog`] is one room as the members of one worker see it. It keeps the order that its members
//! agree on and, for each member, how far along that order it is; a message that is not the next one is
//! sorted into lost, duplicated or out of order. A room that is spread over several workers has a log in
//! each; [`RoomLog::digest`] lets them be compared at the end.
//!
//! The order is found, not given, and server-made message ids play no part in it: the first member that
//! receives a message puts it at its own place. A member that is behind and receives a message that nobody
//! else has keeps it *unplaced* until the next message it shares with the others says where it belongs: so
//! one lost delivery is charged to the member that lacks it and to nobody else.
//!
//! Lost and duplicated messages are counted exactly, always. Out of order is exact while nothing is lost; if
//! several members lost different messages at the same place, their order is a guess.
//!
//! Not its job: knowing how many messages were sent. [`Member::distinct`] against the senders' own count
//! gives the lost ones.
//!
//! Invariant: for every member, `next` less its missing positions and plus its unplaced messages is the
//! number of distinct messages that it received (`check()`).

mod member;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

pub use member::Member;

/// Length of the kept order at which the part that every member has passed is dropped.
const TRIM_LEN_MIN: usize = 256;

/// What one delivery was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The next message of the room's order.
    InOrder,
    /// A message that this member had before.
    Duplicate,
    /// A message that belongs before one that this member had already.
    OutOfOrder,
}

/// What the logs of one room are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Messages in the order.
    pub len: u32,
    /// Hash over the ids in their order.
    pub hash: u64,
}

/// One room as the members of one worker see it.
#[derive(Debug, Default)]
pub struct RoomLog {
    /// Ids by position, without the first `base`.
    order: VecDeque<u64>,
    base: u32,
    /// Hash over the dropped part of the order.
    base_hash: u64,
    members: Vec<Member>,
    /// Per sender the sequence number after the highest seen: a lower one is no new message, unless it is
    /// in `skipped`.
    senders: HashMap<u32, u32>,
    /// Messages passed over by their sender's sequence, not seen by any member.
    skipped: HashSet<u64>,
    /// Messages that reached some members late, seen from the order; the members.
    late: HashMap<u64, Vec<usize>>,
    trim_at: usize,
}

impl RoomLog {
    /// Adds a member that has received nothing; returns its index. To be called before the first delivery:
    /// a late member would be charged with all that was before it.
    pub fn join(&mut self) -> u32 {
        self.members.push(Member::default());
        (self.members.len() - 1) as u32
    }

    /// Takes a member out of the count.
    pub fn leave(&mut self, member: u32) {
        self.members[member as usize].gone = true;
    }

    /// The members, by index.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Notes that `member` received message `id` ([`crate::payload::Stamp::id`]).
    pub fn deliver(&mut self, member: u32, id: u64) -> Verdict {
        let m = member as usize;
        let next = self.members[m].next;
        if self.order.get((next - self.base) as usize) == Some(&id) && !self.members[m].has_unplaced() {
            self.members[m].next += 1;
            return Verdict::InOrder;
        }
        match self.novelty(id) {
            Novelty::New => {
                self.place_or_keep(m, id);
                Verdict::InOrder
            }
            Novelty::Overtaken => {
                let is_late = self.has_later(m, id);
                self.place_or_keep(m, id);
                if !is_late {
                    // It was somebody else who has lost this one.
                    return Verdict::InOrder;
                }
                self.members[m].odd().overtaken += 1;
                Verdict::OutOfOrder
            }
            Novelty::Known => self.deliver_known(m, id),
        }
    }

    /// Messages out of order, per member. The order is the one in which a message was first seen; if most
    /// members got a message late in that sense, it was the others that got it early.
    pub fn disorder(&self) -> Vec<u32> {
        let mut disorder: Vec<u32> = self.members.iter().map(Member::overtaken).collect();
        let counting = self.members.iter().filter(|member| member.counts()).count();
        for late in self.late.values() {
            let late: HashSet<usize> = late.iter().copied().filter(|m| self.members[*m].counts()).collect();
            let most = 2 * late.len() > counting;
            for (m, count) in disorder.iter_mut().enumerate() {
                *count += u32::from(late.contains(&m) != most);
            }
        }
        disorder
    }

    /// Length and hash of the whole order.
    pub fn digest(&self) -> Digest {
        Digest { len: self.end(), hash: self.order.iter().fold(self.base_hash, |hash, id| mix(hash, *id)) }
    }

    /// Asserts the invariant; for tests.
    #[cfg(test)]
    pub fn check(&self) {
        let end = self.end();
        let mut ids: Vec<_> = self.order.iter().collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), self.order.len(), "an id has two positions");
        for member in &self.members {
            assert!(member.next <= end);
            assert!(member.gone || member.next >= self.base);
            if let Some(odd) = &member.odd {
                assert!(odd.missing.iter().all(|position| *position < member.next));
                assert!(odd.unplaced.iter().all(|id| !self.order.contains(id)), "placed and unplaced");
                assert!(odd.unplaced.is_empty() || member.next < end, "nothing to wait for");
            }
        }
    }

    /// A message that no member has a position for: appended by a member that is at the end, kept by others.
    fn place_or_keep(&mut self, m: usize, id: u64) {
        if self.members[m].next == self.end() {
            self.insert(m, self.end(), &[id]);
            self.trim();
        } else {
            self.members[m].odd().unplaced.push(id);
        }
    }

    /// A message that some member received already, perhaps this one.
    fn deliver_known(&mut self, m: usize, id: u64) -> Verdict {
        // The newest first: what comes out of order is mostly near the end.
        let position = self.order.iter().rposition(|known| *known == id).map(|at| self.base + at as u32);
        let next = self.members[m].next;
        match position {
            Some(position) if position >= next => {
                self.members[m].odd().unplaced.push(id);
                self.catch_up(m, id);
                Verdict::InOrder
            }
            Some(position) if self.members[m].odd().missing.remove(&position) => {
                self.late.entry(id).or_default().push(m);
                Verdict::OutOfOrder
            }
            None if self.members.iter().enumerate().any(|(n, member)| n != m && member.keeps(id))
                && !self.members[m].keeps(id) =>
            {
                self.place_or_keep(m, id);
                Verdict::InOrder
            }
            // A place before this member's, or one that every member had passed when it was dropped.
            Some(_) | None => {
                self.members[m].odd().duplicated += 1;
                Verdict::Duplicate
            }
        }
    }

    fn novelty(&mut self, id: u64) -> Novelty {
        let (sender, seq) = ((id >> 32) as u32, id as u32);
        let expected = self.senders.entry(sender).or_insert(0);
        if seq < *expected {
            return if self.skipped.remove(&id) { Novelty::Overtaken } else { Novelty::Known };
        }
        self.skipped.extend((*expected..seq).map(|passed| u64::from(sender) << 32 | u64::from(passed)));
        *expected = seq + 1;
        Novelty::New
    }

    /// Whether member `m` has received a later message of the same sender.
    fn has_later(&self, m: usize, id: u64) -> bool {
        let (sender, seq) = (id >> 32, id as u32);
        let expected = self.senders.get(&(sender as u32)).copied().unwrap_or(0);
        let later = (seq + 1..expected).map(|seq| sender << 32 | u64::from(seq));
        let member = &self.members[m];
        later.filter(|later| !self.skipped.contains(later)).any(|later| {
            match self.order.iter().rposition(|known| *known == later) {
                Some(at) => {
                    let position = self.base + at as u32;
                    position < member.next && !member.lacks(position)
                }
                // In nobody's hand: it was dropped when all had passed it.
                None => member.keeps(later) || !self.members.iter().any(|member| member.keeps(later)),
            }
        })
    }

    /// Gives `ids`, all received by member `m`, the positions from `at`, where that member is; tells the
    /// others: those that are past `at` lack them, those that kept one of them unplaced are at it now.
    fn insert(&mut self, m: usize, at: u32, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        let at_end = at == self.end();
        for (n, id) in ids.iter().enumerate() {
            self.order.insert((at - self.base) as usize + n, *id);
        }
        let count = ids.len() as u32;
        self.members[m].next += count;
        let mut reached = Vec::new();
        for (n, member) in self.members.iter_mut().enumerate() {
            if n == m || (at_end && !member.has_unplaced()) {
                continue;
            }
            if member.next > at {
                for id in member.make_room(at, ids) {
                    self.late.entry(id).or_default().push(n);
                }
            } else if let Some(last) = member.last_kept(ids) {
                reached.push((n, last));
            }
        }
        for (n, id) in reached {
            self.catch_up(n, id);
        }
    }

    /// Moves member `m` to `id`, which it kept unplaced and which has a position now: what it received
    /// before goes in front of it, what it did not receive is missing.
    fn catch_up(&mut self, m: usize, id: u64) {
        // Placing what another member kept may have brought this one further already.
        let Some(kept) = self.members[m].odd().unplaced.iter().position(|known| *known == id) else { return };
        let Some(found) = self.order.iter().rposition(|known| *known == id) else { return };
        let position = self.base + found as u32;
        let before: Vec<u64> = self.members[m].odd().unplaced.drain(..=kept).collect();
        let next = self.members[m].next;
        let passed: BTreeSet<u32> = (next..position)
            .filter(|passed| !before.contains(&self.order[(passed - self.base) as usize]))
            .collect();
        let unplaced: Vec<u64> =
            before.into_iter().filter(|id| !self.order.iter().any(|known| known == id)).collect();
        let member = &mut self.members[m];
        member.next = position;
        member.odd().missing.extend(passed);
        self.insert(m, position, &unplaced);
        self.members[m].next += 1;
        if self.members[m].next == self.end() {
            let rest = std::mem::take(&mut self.members[m].odd().unplaced);
            self.insert(m, self.end(), &rest);
        }
    }

    fn end(&self) -> u32 {
        self.base + self.order.len() as u32
    }

    /// Drops what every member has passed. Missing positions may lie in it: they only count then.
    fn trim(&mut self) {
        if self.order.len() < self.trim_at.max(TRIM_LEN_MIN) {
            return;
        }
        let passed = self.members.iter().filter(|member| !member.gone).map(|member| member.next).min();
        let drop = passed.map_or(0, |next| (next - self.base) as usize);
        for id in self.order.drain(..drop) {
            self.base_hash = mix(self.base_hash, id);
        }
        self.base += drop as u32;
        self.trim_at = 2 * self.order.len();
    }
}

enum Novelty {
    /// Not seen by any member.
    New,
    /// Not seen by any member, but a later one of its sender was, by some member.
    Overtaken,
    /// Seen by a member.
    Known,
}

fn mix(hash: u64, id: u64) -> u64 {
    // The multiplier of Knuth's MMIX generator; the rotation makes the order count.
    (hash.rotate_left(5) ^ id).wrapping_mul(6_364_136_223_846_793_005)
}

#[cfg(test)]
mod tests;
