//! What sessions have of one bound, on behalf of which holders, and who of them is the worst.
//!
//! Invariant: the bytes of all sessions, the bytes of all holders and the total are the same sum, and nothing
//! that holds nothing has an entry.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;
use slab::Slab;

use super::ranks::{Linked, Links, Ranks, rank};
use super::{Account, Counted, Held, admits, is_scarce};

#[derive(Debug)]
struct Session<S> {
    key: S,
    holder: u32,
    bytes: u64,
    links: Links,
}

impl<S> Linked for Session<S> {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[derive(Debug)]
struct Holder<H> {
    key: H,
    bytes: u64,
    links: Links,
    /// Its sessions.
    sessions: Ranks,
}

impl<H> Linked for Holder<H> {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// Who holds how much of one bound in one shard.
///
/// A session `S` holds bytes on behalf of a holder `H`: its verified login, else its address, else itself. For the last,
/// the caller gives a value of `H` that nobody else has. Bytes are whole bytes: what a thing takes beside its
/// contents is the caller's to add.
#[derive(Debug)]
pub struct Shares<S, H> {
    max: u64,
    total: Account<Held>,
    // Hashed with random keys, as peers may choose their addresses. No answer depends on the order of these maps.
    session_of: HashMap<S, u32, RandomState>,
    holder_of: HashMap<H, u32, RandomState>,
    sessions: Slab<Session<S>>,
    holders: Slab<Holder<H>>,
    /// The holders.
    ranks: Ranks,
}

impl<S: Copy + Eq + Hash, H: Copy + Eq + Hash> Shares<S, H> {
    /// Nobody holds anything of a bound of `max` bytes.
    pub fn new(max: u64) -> Self {
        Shares {
            max,
            total: Account::new(),
            session_of: HashMap::default(),
            holder_of: HashMap::default(),
            sessions: Slab::new(),
            holders: Slab::new(),
            ranks: Ranks::default(),
        }
    }

    /// The bound, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The bound is another one from here on. What is held stays.
    pub fn set_max(&mut self, max: u64) {
        self.max = max;
    }

    /// Bytes that all hold together.
    pub fn total(&self) -> u64 {
        self.total.get()
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.total.is_zero()
    }

    /// Sessions that hold something.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Holders that hold something.
    pub fn holders(&self) -> usize {
        self.holders.len()
    }

    /// Whether the total is above three quarters of the bound, so that somebody is to give way.
    pub fn is_scarce(&self) -> bool {
        is_scarce(self.total.get(), self.max)
    }

    /// Bytes that a session holds.
    pub fn held_by(&self, session: S) -> u64 {
        self.session_of.get(&session).map_or(0, |index| self.sessions[*index as usize].bytes)
    }

    /// Bytes that all sessions of a holder hold together.
    pub fn held_for(&self, holder: H) -> u64 {
        self.holder_of.get(&holder).map_or(0, |index| self.holders[*index as usize].bytes)
    }

    /// Whether a holder may have so many bytes more, by [`admits`].
    pub fn admits(&self, holder: H, bytes: u64) -> bool {
        admits(self.total.get(), self.held_for(holder), bytes, self.max)
    }

    /// A session holds so many bytes more, for a holder. It is the caller's to ask [`admits`](Self::admits) before, or
    /// to cut back [`worst`](Self::worst) after. A session has one holder at a time: if it held something for another
    /// (before it logged in), that passes to this one.
    ///
    /// # Panics
    /// When the sum exceeds [`u64::MAX`].
    pub fn charge(&mut self, session: S, holder: H, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut bytes = bytes;
        let index = match self.session_of.get(&session).copied() {
            Some(index) if self.holders[self.sessions[index as usize].holder as usize].key == holder => index,
            Some(_) => {
                bytes += self.release_all(session);
                self.add_session(session, holder)
            }
            None => self.add_session(session, holder),
        };
        self.total.add(bytes);
        let Session { holder, bytes: held, .. } = self.sessions[index as usize];
        self.set_session(index, held + bytes);
        let held = self.holders[holder as usize].bytes;
        self.set_holder(holder, held + bytes);
    }

    /// A session holds so many bytes less.
    ///
    /// # Panics
    /// When it holds less than that.
    pub fn release(&mut self, session: S, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let held = self.held_by(session);
        assert!(held >= bytes, "{}: {bytes} are taken off a session's {held}", Held::NAME);
        let index = self.session_of[&session];
        let holder = self.sessions[index as usize].holder;
        self.total.remove(bytes);
        self.set_session(index, held - bytes);
        if held == bytes {
            self.sessions.remove(index as usize);
            self.session_of.remove(&session);
        }
        let held = self.holders[holder as usize].bytes - bytes;
        self.set_holder(holder, held);
        if held == 0 {
            let gone = self.holders.remove(holder as usize);
            self.holder_of.remove(&gone.key);
        }
        self.shrink();
    }

    /// A session holds so many bytes, and no more. The holder is asked for if it held nothing before.
    pub fn set(&mut self, session: S, bytes: u64, holder: impl FnOnce() -> H) {
        match self.session_of.get(&session).copied() {
            Some(index) => {
                let Session { bytes: held, holder, .. } = self.sessions[index as usize];
                if bytes > held {
                    let holder = self.holders[holder as usize].key;
                    self.charge(session, holder, bytes - held);
                } else {
                    self.release(session, held - bytes);
                }
            }
            None if bytes > 0 => self.charge(session, holder(), bytes),
            None => {}
        }
    }

    /// The sessions that hold something, in no order.
    pub fn keys(&self) -> impl Iterator<Item = S> {
        self.sessions.iter().map(|(_, session)| session.key)
    }

    /// A session holds nothing any more. Returns what it held.
    pub fn release_all(&mut self, session: S) -> u64 {
        let held = self.held_by(session);
        self.release(session, held);
        held
    }

    /// Whose bytes are to go first when they are scarce: a session of the highest power of two among the sessions of a
    /// holder of the highest power of two. Of several, the one that has been in its power of two for longest. O(1).
    pub fn worst(&self) -> Option<S> {
        let holder = self.ranks.first_of_highest()?;
        let session = self.holders[holder as usize].sessions.first_of_highest()?;
        Some(self.sessions[session as usize].key)
    }

    /// About how many bytes of heap the account takes itself. O(holders).
    pub fn heap_bytes(&self) -> u64 {
        // A map keeps an eighth of its places free, and a byte beside each.
        let map = |capacity: usize, each: usize| (capacity * (each + 1) * 8 / 7) as u64;
        // The slab's own mark of a free place.
        let slab = |capacity: usize, each: usize| (capacity * (each + 8)) as u64;
        map(self.session_of.capacity(), size_of::<(S, u32)>())
            + map(self.holder_of.capacity(), size_of::<(H, u32)>())
            + slab(self.sessions.capacity(), size_of::<Session<S>>())
            + slab(self.holders.capacity(), size_of::<Holder<H>>())
            + self.ranks.heap_bytes()
            + self.holders.iter().map(|(_, holder)| holder.sessions.heap_bytes()).sum::<u64>()
    }

    /// Panics unless all sums agree.
    pub fn check(&self) {
        let mut held = vec![0; self.holders.iter().map(|(index, _)| index + 1).max().unwrap_or(0)];
        for (index, session) in &self.sessions {
            assert!(session.bytes > 0);
            assert_eq!(self.session_of.get(&session.key), Some(&(index as u32)));
            held[session.holder as usize] += session.bytes;
        }
        for (index, holder) in &self.holders {
            assert!(holder.bytes > 0);
            assert_eq!(self.holder_of.get(&holder.key), Some(&(index as u32)));
            assert_eq!(held[index], holder.bytes);
        }
        assert_eq!(held.iter().sum::<u64>(), self.total.get());
        assert_eq!((self.sessions.len(), self.holders.len()), (self.session_of.len(), self.holder_of.len()));
        let mut listed = 0;
        for (rank_of_ring, holder) in self.ranks.members(&self.holders) {
            let holder = &self.holders[holder];
            assert_eq!(rank(holder.bytes), rank_of_ring);
            listed += 1;
            for (rank_of_ring, session) in holder.sessions.members(&self.sessions) {
                assert_eq!(rank(self.sessions[session].bytes), rank_of_ring);
                assert!(self.holders[self.sessions[session].holder as usize].key == holder.key);
                listed += 1;
            }
        }
        assert_eq!(listed, self.holders.len() + self.sessions.len());
        assert!(!self.is_empty() || self.heap_bytes() == 0);
    }

    /// An entry without bytes, which is in no ring yet.
    fn add_session(&mut self, session: S, holder: H) -> u32 {
        let holder = *self.holder_of.entry(holder).or_insert_with(|| {
            let holder = Holder { key: holder, bytes: 0, links: Links::NONE, sessions: Ranks::default() };
            self.holders.insert(holder) as u32
        });
        let index =
            self.sessions.insert(Session { key: session, holder, bytes: 0, links: Links::NONE }) as u32;
        self.session_of.insert(session, index);
        index
    }

    fn set_session(&mut self, index: u32, bytes: u64) {
        let session = &mut self.sessions[index as usize];
        let before = std::mem::replace(&mut session.bytes, bytes);
        let ranks = &mut self.holders[session.holder as usize].sessions;
        ranks.moved(index, rank(before), rank(bytes), &mut self.sessions);
    }

    fn set_holder(&mut self, index: u32, bytes: u64) {
        let before = std::mem::replace(&mut self.holders[index as usize].bytes, bytes);
        self.ranks.moved(index, rank(before), rank(bytes), &mut self.holders);
    }

    /// Gives memory back: all of it when nobody holds anything, and that of maps that are mostly empty.
    fn shrink(&mut self) {
        if self.sessions.is_empty() {
            *self = Shares::new(self.max);
            return;
        }
        // Seldom enough that growing and shrinking in turn does not cost more than what is charged.
        if self.session_of.capacity() > 8 * self.session_of.len().max(8) {
            self.session_of.shrink_to(2 * self.session_of.len());
            self.sessions.shrink_to_fit();
        }
        if self.holder_of.capacity() > 8 * self.holder_of.len().max(8) {
            self.holder_of.shrink_to(2 * self.holder_of.len());
            self.holders.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[should_panic(expected = "3 are taken off a session's 2")]
    fn a_session_does_not_give_back_more_than_it_holds() {
        let mut shares: Shares<u8, u8> = Shares::new(100);
        shares.charge(1, 1, 2);
        shares.charge(2, 2, 2);
        shares.release(1, 3);
    }

    #[test]
    fn the_worst_session_of_the_worst_holder_is_found() {
        let mut shares: Shares<u32, &str> = Shares::new(1 << 20);
        // Many small ones of one address are worse than one that is larger than each.
        for session in 0..10_000 {
            shares.charge(session, "many", 10);
        }
        shares.charge(10_000, "large", 5_000);
        assert_eq!(shares.worst(), Some(0));
        shares.charge(77, "many", 100);
        assert_eq!(shares.worst(), Some(77));
        for session in 0..10_000 {
            shares.release_all(session);
        }
        assert_eq!(shares.worst(), Some(10_000));
        assert!(!shares.is_scarce());
        shares.charge(10_000, "large", 800_000);
        assert!(shares.is_scarce());
        assert_eq!(shares.release_all(10_000), 805_000);
        assert_eq!((shares.worst(), shares.total(), shares.heap_bytes()), (None, 0, 0));
        shares.check();
    }

    #[test]
    fn a_session_that_logs_in_takes_along_what_it_holds() {
        let mut shares: Shares<u32, &str> = Shares::new(100);
        shares.charge(1, "address", 30);
        shares.charge(1, "login", 1);
        assert_eq!((shares.held_for("address"), shares.held_for("login"), shares.held_by(1)), (0, 31, 31));
        shares.check();
    }

    proptest! {
        #[test]
        fn shares_agree_with_a_plain_table(
            steps in prop::collection::vec((0u8..4, 0u16..12, 0u8..4, 0u64..5_000), 1..300)
        ) {
            let mut shares: Shares<u16, u8> = Shares::new(40_000);
            let mut twin: Shares<u16, u8> = Shares::new(40_000);
            let mut model: HashMap<u16, (u8, u64)> = HashMap::new();
            for (step, session, holder, bytes) in steps {
                match step {
                    0 | 1 => {
                        shares.charge(session, holder, bytes);
                        twin.charge(session, holder, bytes);
                        if bytes > 0 {
                            let entry = model.entry(session).or_insert((holder, 0));
                            *entry = (holder, entry.1 + bytes);
                        }
                    }
                    2 => {
                        let held = model.get(&session).map_or(0, |entry| entry.1);
                        shares.release(session, bytes.min(held));
                        twin.release(session, bytes.min(held));
                        if let Some(entry) = model.get_mut(&session) {
                            entry.1 -= bytes.min(held);
                        }
                    }
                    _ => {
                        let held = model.remove(&session).map_or(0, |entry| entry.1);
                        prop_assert_eq!(shares.release_all(session), held);
                        twin.release_all(session);
                    }
                }
                model.retain(|_, entry| entry.1 > 0);
                shares.check();
                let total: u64 = model.values().map(|entry| entry.1).sum();
                prop_assert_eq!(shares.total(), total);
                prop_assert_eq!(shares.is_scarce(), total > 30_000);
                prop_assert_eq!(shares.is_empty(), model.is_empty());
                prop_assert_eq!(shares.sessions(), model.len());
                let held_for = |holder: u8| model.values().filter(|entry| entry.0 == holder).map(|e| e.1).sum::<u64>();
                for holder in 0..4 {
                    prop_assert_eq!(shares.held_for(holder), held_for(holder));
                    prop_assert_eq!(shares.admits(holder, 1), admits(total, held_for(holder), 1, 40_000));
                }
                for session in 0..12 {
                    prop_assert_eq!(shares.held_by(session), model.get(&session).map_or(0, |entry| entry.1));
                }
                // The same history gives the same answer, whatever the keys of the hash.
                prop_assert_eq!(shares.worst(), twin.worst());
                if let Some(worst) = shares.worst() {
                    let (holder, bytes) = model[&worst];
                    let highest = (0..4).map(|holder| rank(held_for(holder))).max();
                    prop_assert_eq!(Some(rank(held_for(holder))), highest);
                    let highest = model.values().filter(|e| e.0 == holder).map(|e| rank(e.1)).max();
                    prop_assert_eq!(Some(rank(bytes)), highest);
                } else {
                    prop_assert!(model.is_empty());
                }
            }
        }
    }
}
