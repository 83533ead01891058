//! Rules: a verdict that is known, one that has to be reached, and a SEND with and without the question.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tcbchat_bench::paths::policy;
use tcbchat_bench::{MEASUREMENT, WARM_UP};

/// Rules in force.
const COUNTS: [usize; 3] = [4, 100, 1_000];

fn verdict(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/verdict");
    for (name, key) in [
        ("room", "/topic/room-17"),
        ("claim", "/topic/org.example.announce"),
        ("matched_by_none", "/queue/jobs"),
    ] {
        for count in COUNTS {
            let mut verdict = policy::verdict(count, key);
            assert_eq!(verdict(), name != "matched_by_none");
            group.bench_function(BenchmarkId::new(name, format!("{count}_rules")), |b| b.iter(&mut verdict));
        }
    }
    let mut hostile = policy::hostile_destination();
    assert!(!hostile());
    group.bench_function("hostile_destination", |b| b.iter(&mut hostile));
    group.finish();
}

fn authorizer(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/authorizer");
    for count in COUNTS {
        let (mut known, mut new) = (policy::known_verdict(count), policy::new_verdict(count));
        assert!(known() && new());
        group.bench_function(BenchmarkId::new("known", format!("{count}_rules")), |b| b.iter(&mut known));
        group.bench_function(BenchmarkId::new("new", format!("{count}_rules")), |b| b.iter(&mut new));
    }
    group.bench_function("release", |b| b.iter(policy::release()));
    group.finish();
}

fn send(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/send");
    let mut unchecked = policy::checked_send(None);
    group.bench_function("unchecked", |b| b.iter(|| black_box(unchecked())));
    for count in COUNTS {
        let mut checked = policy::checked_send(Some(count));
        group.bench_function(BenchmarkId::new("checked", format!("{count}_rules")), |b| {
            b.iter(|| black_box(checked()));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT);
    targets = verdict, authorizer, send
}
criterion_main!(benches);
