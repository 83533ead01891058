//! The TCB table: what a connection pays for its place, and what too few buckets cost.
//!
//! `find` over 50,000 TCBs in 512 buckets against 65,536 is the article's `MaxHashTableSize`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::tcb::{Closer, Event, FourTuple, TableConfig, TcbKey, TcbTable, time_wait};
use tcbchat::time::Tick;
use tcbchat_bench::{MEASUREMENT, WARM_UP, scattered, scattered_from, tuple};

const NOW: Tick = Tick(1);
/// What Windows had by default, what it could have, and the least of its range.
const BUCKETS: [u32; 3] = [64, 512, 65_536];
const THREADS: u32 = 2;
const OPEN: [u32; 4] = [1_000, 10_000, 50_000, 100_000];

/// A table with `open` established connections, and their keys.
fn filled(open: u32, buckets: u32, partitions: u32) -> (TcbTable, Vec<TcbKey>) {
    let time_wait = time_wait::Config { delay_ms: 2_000, ..time_wait::Config::default() };
    let table =
        TcbTable::new(TableConfig { capacity: 2 * open, hash_buckets: buckets, partitions, time_wait });
    let keys = (0..open)
        .map(|n| {
            let key = table.admit(tuple(n), NOW).expect("half of the places are free");
            table.transition(key, Event::Upgraded, NOW).expect("it is half-open");
            key
        })
        .collect();
    (table, keys)
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcb/find");
    for open in OPEN {
        for buckets in BUCKETS {
            let (table, _) = filled(open, buckets, 1);
            let tuples: Vec<FourTuple> = (0..open).map(tuple).collect();
            let mut next = scattered(open);
            let id = BenchmarkId::new(format!("{open}_tcbs"), format!("{buckets}_buckets"));
            group.bench_function(id, |b| b.iter(|| black_box(table.find(&tuples[next() as usize]))));
        }
    }
    group.finish();
}

/// One connection closes and another opens, in a table that stays as full as it is.
fn admit_release(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcb/admit_release");
    for closer in [Closer::Remote, Closer::Local] {
        for open in OPEN {
            let (table, mut keys) = filled(open, open, 8);
            let (mut next, mut fresh, mut now) = (scattered(open), open, NOW);
            group.bench_function(BenchmarkId::new(format!("closed_by_{closer:?}"), open), |b| {
                b.iter(|| {
                    // Ten thousand connections a second: 20,000 records in TIME_WAIT, and for each that enters
                    // one expires.
                    fresh += 1;
                    now = Tick(fresh / 1_000);
                    let key = &mut keys[next() as usize];
                    table.release(*key, closer, now);
                    *key = table.admit(tuple(fresh), now).expect("a place has just been freed");
                });
            });
        }
    }
    group.finish();
}

fn by_key(c: &mut Criterion) {
    let (table, keys) = filled(100_000, 100_000, 8);
    let mut group = c.benchmark_group("tcb/by_key");
    let mut next = scattered(100_000);
    group.bench_function("get", |b| b.iter(|| black_box(table.get(keys[next() as usize]))));
    group.bench_function("transition", |b| {
        b.iter(|| black_box(table.transition(keys[next() as usize], Event::LocalClose, NOW)));
    });
    group.bench_function("stats", |b| b.iter(|| black_box(table.stats())));
    group.finish();
}

/// Two threads that open and close at once: what partitions are for.
fn partitions(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcb/two_threads");
    group.throughput(Throughput::Elements(u64::from(THREADS)));
    for partitions in [1, 2, 8, 64] {
        let (table, _) = filled(10_000, 10_000, partitions);
        group.bench_function(BenchmarkId::new("admit_release", format!("{partitions}_partitions")), |b| {
            b.iter_custom(|rounds| together(THREADS, |thread| churn(&table, thread, rounds)));
        });
    }
    group.finish();
}

/// Two threads that look up at once, at the sizes between which the default lies. `bench hash-table` has all of
/// them.
fn lookups(c: &mut Criterion) {
    const OPEN: u32 = 50_000;
    let mut group = c.benchmark_group("tcb/two_threads");
    group.throughput(Throughput::Elements(u64::from(THREADS)));
    for partitions in [1, 8] {
        for buckets in [512, OPEN, 65_536] {
            let (table, _) = filled(OPEN, buckets, partitions);
            let id =
                BenchmarkId::new(format!("find_in_{buckets}_buckets"), format!("{partitions}_partitions"));
            group.bench_function(id, |b| {
                b.iter_custom(|rounds| {
                    together(THREADS, |thread| {
                        let mut next = scattered_from(thread, OPEN);
                        for _ in 0..rounds {
                            black_box(table.find(&tuple(next())));
                        }
                    })
                });
            });
        }
    }
    group.finish();
}

fn churn(table: &TcbTable, thread: u32, rounds: u64) {
    for round in 0..rounds {
        let n = 1_000_000 * (thread + 1) + (round % 500_000) as u32;
        let key = table.admit(tuple(n), NOW).expect("half of the places are free");
        table.release(key, Closer::Remote, NOW);
    }
}

/// How long the slowest of the threads took.
fn together(threads: u32, work: impl Fn(u32) + Sync) -> Duration {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
    begin.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(30);
    targets = find, admit_release, by_key, partitions, lookups
}
criterion_main!(benches);
