//! The TCB table: lookups, and connections that come and go.

use std::hash::BuildHasher;
use std::hint::black_box;

use tcbchat::tcb::{Closer, Event, FourTuple, TableConfig, TcbKey, TcbTable, time_wait};
use tcbchat::time::Tick;

use crate::{scattered, tuple};

/// When connections are opened.
pub const NOW: Tick = Tick(1);

/// A table with `open` established connections and room for as many again, and their keys.
///
/// # Panics
/// If the table refuses one.
pub fn filled<S: BuildHasher>(
    open: u32,
    buckets: u32,
    partitions: u32,
    hasher: S,
) -> (TcbTable<S>, Vec<TcbKey>) {
    let time_wait = time_wait::Config { delay_ms: 2_000, ..time_wait::Config::default() };
    let config = TableConfig { capacity: 2 * open, hash_buckets: buckets, partitions, time_wait };
    let table = TcbTable::with_hasher(config, hasher);
    let admitted = |n| {
        let key = table.admit(tuple(n), NOW).expect("half of the places are free");
        table.transition(key, Event::Upgraded, NOW).expect("it is half-open");
        key
    };
    let keys = (0..open).map(admitted).collect();
    (table, keys)
}

/// Looks up one of `open` connections by its name, in one partition.
///
/// # Panics
/// If it is not found.
pub fn find<S: BuildHasher>(open: u32, buckets: u32, hasher: S) -> impl FnMut() {
    let (table, _) = filled(open, buckets, 1, hasher);
    let tuples: Vec<FourTuple> = (0..open).map(tuple).collect();
    let mut next = scattered(open);
    move || {
        assert!(black_box(table.find(&tuples[next() as usize])).is_some());
    }
}

/// One of `open` connections closes and another opens, ten thousand times a second: the table stays as full as it
/// is. When this side closes first there are 20,000 records in TIME_WAIT in the end, and for each that enters one
/// expires.
///
/// # Panics
/// If the table refuses the new one.
pub fn turnover<S: BuildHasher>(open: u32, closer: Closer, hasher: S) -> impl FnMut() {
    let (table, mut keys) = filled(open, open, 8, hasher);
    let (mut next, mut fresh) = (scattered(open), open);
    move || {
        fresh += 1;
        let now = Tick(fresh / 1_000);
        let key = &mut keys[next() as usize];
        table.release(*key, closer, now);
        *key = table.admit(tuple(fresh), now).expect("a place has just been freed");
    }
}
