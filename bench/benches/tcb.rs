//! The TCB table: what a connection pays for its place, and what too few buckets cost.
//!
//! `find` over 50,000 TCBs in 512 buckets against 65,536 is the article's `MaxHashTableSize`.

use std::hash::RandomState;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::tcb::{Closer, Event, TcbTable};
use tcbchat_bench::paths::tcb::{self as paths, NOW, filled};
use tcbchat_bench::{MEASUREMENT, WARM_UP, scattered, scattered_from, tuple};

/// What Windows had by default, what it could have, and the least of its range.
const BUCKETS: [u32; 3] = [64, 512, 65_536];
const THREADS: u32 = 2;
const OPEN: [u32; 4] = [1_000, 10_000, 50_000, 100_000];

/// As the server's: keyed at random.
fn hasher() -> RandomState {
    RandomState::new()
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcb/find");
    for open in OPEN {
        for buckets in BUCKETS {
            let id = BenchmarkId::new(format!("{open}_tcbs"), format!("{buckets}_buckets"));
            let mut find = paths::find(open, buckets, hasher());
            group.bench_function(id, |b| b.iter(&mut find));
        }
    }
    group.finish();
}

/// One connection closes and another opens, in a table that stays as full as it is.
fn admit_release(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcb/admit_release");
    for closer in [Closer::Remote, Closer::Local] {
        for open in OPEN {
            let id = BenchmarkId::new(format!("closed_by_{closer:?}"), open);
            let mut turnover = paths::turnover(open, closer, hasher());
            group.bench_function(id, |b| b.iter(&mut turnover));
        }
    }
    group.finish();
}

fn by_key(c: &mut Criterion) {
    let (table, keys) = filled(100_000, 100_000, 8, hasher());
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
        let (table, _) = filled(10_000, 10_000, partitions, hasher());
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
            let (table, _) = filled(OPEN, buckets, partitions, hasher());
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
