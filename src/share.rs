//! Shared bounds: who holds how much, and who is to give way when it gets scarce.
//!
//! [`Account`] is a number that cannot wrap. [`Holdings`] counts what each holder has of one bound of one shard, and
//! [`Shares`] what each of their sessions has, and knows the worst of them. [`admits`] is the rule by which a holder
//! gets more of a bound.
//!
//! This module refuses nothing and ends nobody: it answers questions, and its user acts. It knows no connections:
//! sessions and holders are values that can be hashed.
//!
//! Invariant: the bytes of all sessions, the bytes of all holders and the total are the same sum, and nothing
//! that holds nothing has an entry.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

/// What an [`Account`] counts.
pub trait Counted {
    /// Its name and unit, for the message of the panic: `bytes of queues`.
    const NAME: &'static str;
}

/// A sum that panics, in release builds as well, rather than wrap: a wrong sum is a bug, and a bound that is kept by a
/// wrong sum is none. It takes eight bytes; `N` says what it counts, so that two of them are not confused.
pub struct Account<N> {
    sum: u64,
    counted: PhantomData<fn() -> N>,
}

impl<N: Counted> Account<N> {
    /// An account with nothing on it.
    pub const fn new() -> Self {
        Account { sum: 0, counted: PhantomData }
    }

    /// What is on it.
    pub const fn get(&self) -> u64 {
        self.sum
    }

    /// Whether nothing is on it.
    pub const fn is_zero(&self) -> bool {
        self.sum == 0
    }

    /// Puts `amount` on it.
    ///
    /// # Panics
    /// When the sum exceeds [`u64::MAX`].
    #[inline]
    #[track_caller]
    pub fn add(&mut self, amount: u64) {
        match self.sum.checked_add(amount) {
            Some(sum) => self.sum = sum,
            None => panic!("{}: {} and {amount} more exceed u64", N::NAME, self.sum),
        }
    }

    /// Takes `amount` off it.
    ///
    /// # Panics
    /// When less than that is on it.
    #[inline]
    #[track_caller]
    pub fn remove(&mut self, amount: u64) {
        match self.sum.checked_sub(amount) {
            Some(sum) => self.sum = sum,
            None => panic!("{}: {amount} are taken off {}", N::NAME, self.sum),
        }
    }
}

impl<N: Counted> Default for Account<N> {
    fn default() -> Self {
        Account::new()
    }
}

impl<N: Counted> fmt::Debug for Account<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sum, N::NAME)
    }
}

/// Whether `total` is above three quarters of `max`. Below that, nobody is judged.
pub const fn is_scarce(total: u64, max: u64) -> bool {
    total > max - max / 4
}

/// Whether a holder that has `held` of the `total` may have `amount` more of a bound of `max`.
///
/// Until the total is above three quarters of the bound: yes. Above: if the holder then has no more than what is then
/// still free. So one holder alone stops at three quarters; the next gets half of what is left, and there is always
/// something left for one more. Where `n` holders use as much as they can from the start, each gets `max / (n + 1)`.
/// The total never exceeds the bound.
pub const fn admits(total: u64, held: u64, amount: u64, max: u64) -> bool {
    let Some(total) = total.checked_add(amount) else { return false };
    if !is_scarce(total, max) {
        return true;
    }
    match max.checked_sub(total) {
        Some(free) => held.saturating_add(amount) <= free,
        None => false,
    }
}

/// Names what [`Holdings`] and [`Shares`] sum up.
#[derive(Debug)]
struct Held;

impl Counted for Held {
    const NAME: &'static str = "bytes of a shared bound";
}

/// Who holds how much of one bound in one shard, where nobody is ever cut back: what is refused is refused before.
#[derive(Debug)]
pub struct Holdings<H> {
    max: u64,
    total: Account<Held>,
    // Hashed with random keys, as peers may choose their addresses. No answer depends on the order.
    held: HashMap<H, u64, RandomState>,
}

impl<H: Copy + Eq + Hash> Holdings<H> {
    /// Nobody holds anything of a bound of `max` bytes.
    pub fn new(max: u64) -> Self {
        Holdings { max, total: Account::new(), held: HashMap::default() }
    }

    /// The bound, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Bytes that all hold together.
    pub fn total(&self) -> u64 {
        self.total.get()
    }

    /// Holders that hold something.
    pub fn holders(&self) -> usize {
        self.held.len()
    }

    /// Bytes that a holder holds.
    pub fn held_for(&self, holder: H) -> u64 {
        self.held.get(&holder).copied().unwrap_or(0)
    }

    /// Whether a holder may have so many bytes more, by [`admits`].
    pub fn admits(&self, holder: H, bytes: u64) -> bool {
        let total = self.total.get();
        match total.checked_add(bytes) {
            // Who is not judged need not be looked up.
            Some(sum) if !is_scarce(sum, self.max) => true,
            _ => admits(total, self.held_for(holder), bytes, self.max),
        }
    }

    /// A holder holds so many bytes more.
    ///
    /// # Panics
    /// When the sum exceeds [`u64::MAX`].
    pub fn charge(&mut self, holder: H, bytes: u64) {
        self.total.add(bytes);
        if bytes > 0 {
            *self.held.entry(holder).or_insert(0) += bytes;
        }
    }

    /// A holder holds so many bytes less.
    ///
    /// # Panics
    /// When it holds less than that.
    pub fn release(&mut self, holder: H, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let left = self.held.get_mut(&holder).and_then(|held| {
            *held = held.checked_sub(bytes)?;
            Some(*held)
        });
        let Some(left) = left else {
            panic!("{}: {bytes} are taken off a holder's {}", Held::NAME, self.held_for(holder))
        };
        self.total.remove(bytes);
        if left == 0 {
            self.held.remove(&holder);
            if self.held.capacity() > 8 * self.held.len().max(8) {
                self.held.shrink_to(2 * self.held.len());
            }
        }
    }

    /// Panics unless the sums agree.
    pub fn check(&self) {
        assert!(self.held.values().all(|held| *held > 0));
        assert_eq!(self.held.values().sum::<u64>(), self.total.get());
    }
}

/// Neighbours in a ring of entries of the same rank.
#[derive(Debug, Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

trait Linked {
    fn links(&mut self) -> &mut Links;
}

#[derive(Debug)]
struct Session<S> {
    key: S,
    holder: u32,
    bytes: u64,
    links: Links,
}

impl<S> Linked for Session<S> {
    fn links(&mut self) -> &mut Links {
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
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// The power of two that `bytes` are in: 1 for one byte, 2 for two or three, 0 for none.
const fn rank(bytes: u64) -> u8 {
    (u64::BITS - bytes.leading_zeros()) as u8
}

/// Rings of entries, one for each rank that has any, the highest last. Who came first is the first of its ring.
#[derive(Debug, Default)]
struct Ranks(SmallVec<[(u8, u32); 1]>);

impl Ranks {
    /// Moves an entry from one rank to another; rank 0 has no ring.
    fn moved<T: Linked>(&mut self, index: u32, from: u8, to: u8, entries: &mut Slab<T>) {
        if from == to {
            return;
        }
        if from > 0 {
            self.take(index, from, entries);
        }
        if to > 0 {
            self.put(index, to, entries);
        }
    }

    fn put<T: Linked>(&mut self, index: u32, rank: u8, entries: &mut Slab<T>) {
        match self.0.binary_search_by_key(&rank, |ring| ring.0) {
            Ok(at) => {
                let next = self.0[at].1;
                let previous = std::mem::replace(&mut entries[next as usize].links().previous, index);
                entries[previous as usize].links().next = index;
                *entries[index as usize].links() = Links { previous, next };
            }
            Err(at) => {
                self.0.insert(at, (rank, index));
                *entries[index as usize].links() = Links { previous: index, next: index };
            }
        }
    }

    fn take<T: Linked>(&mut self, index: u32, rank: u8, entries: &mut Slab<T>) {
        let Ok(at) = self.0.binary_search_by_key(&rank, |ring| ring.0) else {
            unreachable!("an entry that holds something is in the ring of its rank");
        };
        let Links { previous, next } = *entries[index as usize].links();
        if next == index {
            self.0.remove(at);
            return;
        }
        entries[previous as usize].links().next = next;
        entries[next as usize].links().previous = previous;
        if self.0[at].1 == index {
            self.0[at].1 = next;
        }
    }

    fn first_of_highest(&self) -> Option<u32> {
        self.0.last().map(|ring| ring.1)
    }

    fn heap_bytes(&self) -> u64 {
        if self.0.spilled() { (self.0.capacity() * size_of::<(u8, u32)>()) as u64 } else { 0 }
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
        for (rank_of_ring, holder) in self.ring_members(&self.ranks, |index| self.holders[index].links.next) {
            let holder = &self.holders[holder];
            assert_eq!(rank(holder.bytes), rank_of_ring);
            listed += 1;
            for (rank_of_ring, session) in
                self.ring_members(&holder.sessions, |index| self.sessions[index].links.next)
            {
                assert_eq!(rank(self.sessions[session].bytes), rank_of_ring);
                assert!(self.holders[self.sessions[session].holder as usize].key == holder.key);
                listed += 1;
            }
        }
        assert_eq!(listed, self.holders.len() + self.sessions.len());
        assert!(!self.is_empty() || self.heap_bytes() == 0);
    }

    /// All that is in the rings, with the rank of each ring.
    fn ring_members(&self, ranks: &Ranks, next: impl Fn(usize) -> u32) -> Vec<(u8, usize)> {
        assert!(ranks.0.is_sorted_by(|a, b| a.0 < b.0));
        let mut members = Vec::new();
        for &(rank, first) in &ranks.0 {
            let mut at = first;
            loop {
                members.push((rank, at as usize));
                at = next(at as usize);
                if at == first {
                    break;
                }
            }
        }
        members
    }

    /// An entry without bytes, which is in no ring yet.
    fn add_session(&mut self, session: S, holder: H) -> u32 {
        let unlinked = Links { previous: 0, next: 0 };
        let holder = *self.holder_of.entry(holder).or_insert_with(|| {
            let holder = Holder { key: holder, bytes: 0, links: unlinked, sessions: Ranks::default() };
            self.holders.insert(holder) as u32
        });
        let index = self.sessions.insert(Session { key: session, holder, bytes: 0, links: unlinked }) as u32;
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

    struct Apples;

    impl Counted for Apples {
        const NAME: &'static str = "apples";
    }

    #[test]
    fn an_account_takes_eight_bytes_and_keeps_a_sum() {
        let mut account = Account::<Apples>::new();
        assert_eq!(size_of_val(&account), 8);
        account.add(5);
        account.remove(3);
        assert_eq!(account.get(), 2);
        account.remove(2);
        assert!(account.is_zero());
    }

    #[test]
    #[should_panic(expected = "apples: 3 are taken off 2")]
    fn an_account_does_not_go_below_nothing() {
        let mut account = Account::<Apples>::new();
        account.add(2);
        account.remove(3);
    }

    #[test]
    #[should_panic(expected = "apples: 18446744073709551615 and 1 more exceed u64")]
    fn an_account_does_not_wrap() {
        let mut account = Account::<Apples>::new();
        account.add(u64::MAX);
        account.add(1);
    }

    #[test]
    #[should_panic(expected = "3 are taken off a session's 2")]
    fn a_session_does_not_give_back_more_than_it_holds() {
        let mut shares: Shares<u8, u8> = Shares::new(100);
        shares.charge(1, 1, 2);
        shares.charge(2, 2, 2);
        shares.release(1, 3);
    }

    #[test]
    fn one_holder_stops_at_three_quarters_and_each_next_one_finds_room() {
        let mut total = 0;
        let mut got = Vec::new();
        for _ in 0..7 {
            let mut held = 0;
            while admits(total, held, 1, 1_000) {
                held += 1;
                total += 1;
            }
            got.push(held);
        }
        assert_eq!(got, [750, 125, 62, 31, 16, 8, 4]);
        assert!(!admits(total, 0, 5, 1_000));
    }

    #[test]
    fn holders_who_fill_a_bound_together_get_the_same() {
        let mut held = [0u64; 9];
        while let Some(next) = (0..9).find(|who| admits(held.iter().sum(), held[*who], 1, 1_000)) {
            // Round and round.
            let least = (0..9).min_by_key(|who| held[*who]).unwrap_or(next);
            held[least] += 1;
        }
        assert_eq!(held, [100; 9]);
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
    #[should_panic(expected = "3 are taken off a holder's 2")]
    fn a_holder_does_not_give_back_more_than_it_holds() {
        let mut holdings: Holdings<u8> = Holdings::new(100);
        holdings.charge(1, 2);
        holdings.charge(2, 2);
        holdings.release(1, 3);
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
        fn holdings_agree_with_a_plain_table(
            steps in prop::collection::vec((any::<bool>(), 0u8..5, 0u64..500), 1..200)
        ) {
            let mut holdings: Holdings<u8> = Holdings::new(10_000);
            let mut model = [0u64; 5];
            for (is_more, holder, bytes) in steps {
                let held = &mut model[usize::from(holder)];
                if is_more {
                    holdings.charge(holder, bytes);
                    *held += bytes;
                } else {
                    holdings.release(holder, bytes.min(*held));
                    *held -= bytes.min(*held);
                }
                holdings.check();
                let total: u64 = model.iter().sum();
                prop_assert_eq!(holdings.total(), total);
                prop_assert_eq!(holdings.holders(), model.iter().filter(|held| **held > 0).count());
                for holder in 0..5 {
                    let held = model[usize::from(holder)];
                    prop_assert_eq!(holdings.held_for(holder), held);
                    prop_assert_eq!(holdings.admits(holder, 99), admits(total, held, 99, 10_000));
                }
            }
        }

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
