//! A hash index: a fixed array of buckets, each the head of a chain through records that lie elsewhere.
//!
//! The buckets do not grow, on purpose: how a lookup slows down when there are too few of them for the
//! records is what `MaxHashTableSize` is about, and [`ChainLengths`] shows it. The index holds no record and no
//! key; whoever holds them links them through [`Links`] and compares them in [`Index::find`].
//!
//! Invariant: every inserted node is in exactly one chain, that of its hash, and `lengths` counts the chains
//! by their length ([`Index::check`]).

use std::num::NonZeroU32;

/// A node number plus one; `None` ends a chain. The form makes a new bucket array zeroed memory, which the
/// kernel hands out only where it is touched.
pub type Link = Option<NonZeroU32>;

const _: () = assert!(size_of::<Link>() == 4);

/// The link to a node. Node numbers end below `u32::MAX`.
fn link_to(node: u32) -> Link {
    node.checked_add(1).and_then(NonZeroU32::new)
}

/// The node that a link leads to.
fn target(link: Link) -> Option<u32> {
    link.map(|link| link.get() - 1)
}

/// The records that chains lead through, by node number.
pub trait Links {
    /// The link in record `node`.
    fn next(&self, node: u32) -> Link;
    /// Sets the link in record `node`.
    fn set_next(&mut self, node: u32, next: Link);
}

/// Where [`Index::find`] found nothing, for [`Index::insert`]; void after any other change of the index.
#[derive(Debug)]
pub struct Vacancy {
    bucket: usize,
    length: usize,
}

/// Buckets of 4 bytes, chained through the records.
#[derive(Debug)]
pub struct Index {
    buckets: Vec<Link>,
    /// How many buckets have a chain of each length.
    lengths: Vec<u32>,
}

impl Index {
    /// An index of `buckets` buckets, at least one. It need not be a power of two.
    #[must_use]
    pub fn new(buckets: u32) -> Index {
        let buckets = buckets.max(1);
        Index { buckets: vec![None; buckets as usize], lengths: vec![buckets] }
    }

    /// The node in the chain of `hash` that `matches` says is the one. O(chain length).
    ///
    /// # Errors
    /// If there is none: where to insert it.
    pub fn find(
        &self,
        hash: u32,
        links: &impl Links,
        mut matches: impl FnMut(u32) -> bool,
    ) -> Result<u32, Vacancy> {
        let bucket = self.bucket_of(hash);
        let mut length = 0;
        for node in chain(self.buckets[bucket], links) {
            if matches(node) {
                return Ok(node);
            }
            length += 1;
        }
        Err(Vacancy { bucket, length })
    }

    /// Puts `node`, which is in no chain, at the front of the chain where `find` did not find it. O(1).
    pub fn insert(&mut self, vacancy: Vacancy, node: u32, links: &mut impl Links) {
        let Vacancy { bucket, length } = vacancy;
        links.set_next(node, self.buckets[bucket]);
        self.buckets[bucket] = link_to(node);
        self.recount(length, length + 1);
    }

    /// Takes `node` out of the chain of its `hash`. False if it is not there. O(chain length).
    pub fn remove(&mut self, hash: u32, node: u32, links: &mut impl Links) -> bool {
        let bucket = self.bucket_of(hash);
        let (mut length, mut before, mut found) = (0, None, None);
        for other in chain(self.buckets[bucket], links) {
            if other == node {
                found = Some(before);
            }
            before = Some(other);
            length += 1;
        }
        let Some(before) = found else { return false };
        let next = links.next(node);
        match before {
            Some(before) => links.set_next(before, next),
            None => self.buckets[bucket] = next,
        }
        links.set_next(node, None);
        self.recount(length, length - 1);
        true
    }

    /// How long the chains are. O(longest chain).
    #[must_use]
    pub fn chain_lengths(&self) -> ChainLengths {
        ChainLengths { counts: self.lengths.iter().copied().map(u64::from).collect() }
    }

    /// Bytes of the buckets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Link>()
    }

    /// Scales the hash to the number of buckets; all of its bits count, the high ones most.
    fn bucket_of(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.buckets.len() as u64) >> 32) as usize
    }

    /// One chain has changed its length.
    fn recount(&mut self, from: usize, to: usize) {
        // A chain grows by one, so it is at most one longer than the longest.
        if to == self.lengths.len() {
            self.lengths.push(0);
        }
        self.lengths[from] -= 1;
        self.lengths[to] += 1;
        while self.lengths.last() == Some(&0) {
            self.lengths.pop();
        }
    }

    /// Verifies the invariant; the nodes found, sorted. `hash_of` gives the hash that a node was inserted
    /// with. O(buckets + nodes); for tests and the simulation.
    ///
    /// # Panics
    /// If the invariant does not hold.
    pub fn check(&self, links: &impl Links, hash_of: impl Fn(u32) -> u32) -> Vec<u32> {
        let mut nodes = Vec::new();
        let mut lengths = vec![0; self.lengths.len()];
        for (bucket, &first) in self.buckets.iter().enumerate() {
            let before = nodes.len();
            for node in chain(first, links) {
                assert_eq!(self.bucket_of(hash_of(node)), bucket, "node {node} is in a wrong chain");
                nodes.push(node);
                assert!(nodes.len() - before < self.lengths.len(), "a chain is too long, or a circle");
            }
            lengths[nodes.len() - before] += 1;
        }
        assert_eq!(lengths, self.lengths);
        nodes.sort_unstable();
        assert!(nodes.windows(2).all(|pair| pair[0] != pair[1]), "a node is in two chains");
        nodes
    }
}

fn chain(first: Link, links: &impl Links) -> impl Iterator<Item = u32> {
    std::iter::successors(target(first), |&node| target(links.next(node)))
}

/// How many chains there are of each length: what a hash function and a number of buckets are judged by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainLengths {
    /// By length.
    counts: Vec<u64>,
}

impl ChainLengths {
    /// Length and number of chains, from length 0, the empty buckets, to the longest.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.counts.iter().copied().enumerate()
    }

    /// Chains of at most `length`; for a cumulative histogram.
    #[must_use]
    pub fn at_most(&self, length: usize) -> u64 {
        self.counts.iter().take(length.saturating_add(1)).sum()
    }

    /// Records in the longest chain.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.counts.len().saturating_sub(1)
    }

    /// Chains, the empty ones included.
    #[must_use]
    pub fn buckets(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Records in all chains.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.iter().map(|(length, count)| length as u64 * count).sum()
    }

    /// Records per bucket.
    #[must_use]
    pub fn load_factor(&self) -> f64 {
        self.entries() as f64 / self.buckets().max(1) as f64
    }

    /// Records that a lookup compares on average until it has found its own: 1 is perfect, and about
    /// 1 + load factor / 2 is what a good hash function gives. 0 if there are none.
    #[must_use]
    pub fn mean_probes(&self) -> f64 {
        let probes: u64 = self.iter().map(|(length, count)| (length * (length + 1) / 2) as u64 * count).sum();
        probes as f64 / self.entries().max(1) as f64
    }

    /// Adds the chains of another index.
    pub fn add(&mut self, other: &ChainLengths) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Links for Vec<Link> {
        fn next(&self, node: u32) -> Link {
            self[node as usize]
        }
        fn set_next(&mut self, node: u32, next: Link) {
            self[node as usize] = next;
        }
    }

    #[test]
    fn one_bucket_is_one_chain() {
        let (mut index, mut links) = (Index::new(0), vec![None; 4]);
        for node in 0..4 {
            let vacancy = index.find(node << 30, &links, |_| false).unwrap_err();
            index.insert(vacancy, node, &mut links);
        }
        let lengths = index.chain_lengths();
        assert_eq!(lengths.iter().collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1)]);
        assert_eq!((lengths.longest(), lengths.buckets(), lengths.entries()), (4, 1, 4));
        assert_eq!((lengths.at_most(3), lengths.at_most(4), lengths.at_most(usize::MAX)), (0, 1, 1));
        assert_eq!(lengths.mean_probes(), (1 + 2 + 3 + 4) as f64 / 4.0);
        assert_eq!(index.check(&links, |node| node << 30), [0, 1, 2, 3]);
    }

    #[test]
    fn an_empty_index_divides_by_nothing() {
        let lengths = Index::new(7).chain_lengths();
        assert_eq!((lengths.load_factor(), lengths.mean_probes(), lengths.longest()), (0.0, 0.0, 0));
        assert_eq!(ChainLengths::default().load_factor(), 0.0);
    }

    #[test]
    fn lengths_of_several_indexes_add_up() {
        let mut sum = ChainLengths { counts: vec![3, 1] };
        sum.add(&ChainLengths { counts: vec![1, 0, 2] });
        assert_eq!(sum, ChainLengths { counts: vec![4, 1, 2] });
    }

    const NODES: u32 = 64;

    proptest! {
        /// Few buckets, many, a prime; hashes that collide wholly, at the ends, and at random.
        #[test]
        fn agrees_with_a_map(
            buckets in prop_oneof![Just(1_u32), Just(2), Just(7), Just(64), Just(65_536)],
            ops in prop::collection::vec(
                (any::<bool>(), 0..NODES, prop_oneof![Just(0), Just(u32::MAX), 0..4_u32, any::<u32>()]),
                1..300,
            ),
        ) {
            let mut index = Index::new(buckets);
            let mut links = vec![None; NODES as usize];
            // The key of a node is its number; what it hashes to is whatever it was inserted with.
            let mut model = BTreeMap::<u32, u32>::new();
            for (insert, node, hash) in ops {
                match model.get(&node).copied() {
                    Some(held) if insert => {
                        prop_assert_eq!(index.find(held, &links, |other| other == node).ok(), Some(node));
                    }
                    Some(held) => {
                        model.remove(&node);
                        prop_assert!(index.remove(held, node, &mut links));
                    }
                    None if insert => {
                        model.insert(node, hash);
                        let vacancy = index.find(hash, &links, |other| other == node).unwrap_err();
                        index.insert(vacancy, node, &mut links);
                    }
                    None => prop_assert!(!index.remove(hash, node, &mut links)),
                }
                let nodes = index.check(&links, |node| model[&node]);
                prop_assert!(nodes.iter().eq(model.keys()));
                let lengths = index.chain_lengths();
                prop_assert_eq!(lengths.entries(), model.len() as u64);
                prop_assert_eq!(lengths.buckets(), u64::from(buckets));
                prop_assert_eq!(lengths.at_most(lengths.longest()), u64::from(buckets));
            }
        }
    }
}
