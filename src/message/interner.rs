//! Small numbers for values that many connections share: subscription classes, logins, queue names.
//!
//! Ten thousand sessions that subscribe as `sub-0` hold the number 4 bytes each, and the text once.
//! Every [`Interner::acquire`] is paired with one [`Interner::release`]; a value is forgotten with its last
//! holder, so the table is never larger than what is in use.
//!
//! Invariant: a value is in the index exactly while its count is above zero.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use crate::footprint::Part;

/// Number of an interned value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Symbol(pub u32);

#[derive(Debug)]
struct Entry<T> {
    value: T,
    holders: u32,
}

/// A table of values with numbers and counts of holders.
#[derive(Debug)]
pub struct Interner<T> {
    entries: Slab<Entry<T>>,
    index: HashTable<u32>,
    hasher: FixedState,
}

impl<T: Eq + Hash> Interner<T> {
    /// An empty table whose hash depends on `seed`, which must not be guessable by peers.
    pub fn new(seed: u64) -> Self {
        Interner { entries: Slab::new(), index: HashTable::new(), hasher: FixedState::with_seed(seed) }
    }

    /// The number of `value`, made on first use; counts one holder more.
    pub fn acquire(&mut self, value: T) -> Symbol {
        let hash = self.hasher.hash_one(&value);
        let (entries, hasher) = (&mut self.entries, &self.hasher);
        if let Some(&index) = self.index.find(hash, |&index| entries[index as usize].value == value) {
            entries[index as usize].holders += 1;
            return Symbol(index);
        }
        let index = entries.insert(Entry { value, holders: 1 }) as u32;
        self.index.insert_unique(hash, index, |&index| hasher.hash_one(&entries[index as usize].value));
        Symbol(index)
    }

    /// The number of `value`, if somebody holds it. Counts nobody.
    pub fn find<Q>(&self, value: &Q) -> Option<Symbol>
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = self.hasher.hash_one(value);
        self.index
            .find(hash, |&index| self.entries[index as usize].value.borrow() == value)
            .map(|&i| Symbol(i))
    }

    /// Counts one holder less; forgets the value with the last one.
    ///
    /// # Panics
    /// If nobody holds `symbol`.
    pub fn release(&mut self, symbol: Symbol) {
        let entry = &mut self.entries[symbol.0 as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&entry.value);
        match self.index.find_entry(hash, |&index| index == symbol.0) {
            Ok(found) => {
                found.remove();
            }
            Err(_) => unreachable!("a held value is in the index"),
        }
        self.entries.remove(symbol.0 as usize);
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
            self.index.shrink_to(0, |_| 0);
        }
    }

    /// The value with this number.
    ///
    /// # Panics
    /// If nobody holds `symbol`.
    pub fn value(&self, symbol: Symbol) -> &T {
        &self.entries[symbol.0 as usize].value
    }

    /// Values that are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the table takes, with what each value says that it has on the heap.
    pub fn memory(&self, heap_bytes: impl Fn(&T) -> usize) -> Part {
        let entries = Part::array(self.entries.len(), self.entries.capacity(), size_of::<Entry<T>>());
        let index = Part {
            used: (self.index.len() * size_of::<u32>()) as u64,
            reserved: self.index.allocation_size() as u64,
        };
        let values = self.entries.iter().map(|(_, entry)| heap_bytes(&entry.value)).sum();
        [entries, index, Part::exact(values)].into_iter().sum()
    }

    /// Panics unless index and entries agree.
    pub fn check(&self) {
        assert_eq!(self.index.len(), self.entries.len());
        for (index, entry) in &self.entries {
            assert!(entry.holders > 0);
            let hash = self.hasher.hash_one(&entry.value);
            assert!(self.index.find(hash, |&at| at as usize == index).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_counted_set(steps in prop::collection::vec((0u8..20, any::<bool>()), 0..300)) {
            let mut interner = Interner::<String>::new(7);
            let mut model: Vec<(String, Symbol)> = Vec::new();
            for (value, acquire) in steps {
                let value = format!("sub-{value}");
                if acquire {
                    let symbol = interner.acquire(value.clone());
                    model.push((value, symbol));
                } else if let Some(at) = model.iter().position(|(held, _)| *held == value) {
                    interner.release(model.swap_remove(at).1);
                }
                interner.check();
                for (value, symbol) in &model {
                    prop_assert_eq!(interner.value(*symbol), value);
                    prop_assert_eq!(interner.find(value.as_str()), Some(*symbol));
                }
                let mut distinct: Vec<&str> = model.iter().map(|(value, _)| value.as_str()).collect();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(interner.len(), distinct.len());
            }
        }
    }
}
