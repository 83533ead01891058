//! The timing wheel with a million keys: the price of a deadline, and of a million of them in one tick.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::time::{Tick, Wheel};
use tcbchat_bench::{MEASUREMENT, WARM_UP, scattered};

const KEYS: u32 = 1_000_000;
/// `turn.timers_max` of the server.
const BUDGET: usize = 4_096;
/// 10 s, as a heart-beat.
const AHEAD: u32 = 100;

/// All keys armed, each at what `deadline` says.
fn armed(mut deadline: impl FnMut(u32) -> u32) -> Wheel {
    let mut wheel = Wheel::with_capacity(Tick(0), KEYS as usize);
    for key in 0..KEYS {
        wheel.arm(key, Tick(deadline(key)));
    }
    wheel
}

fn arm(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/arm");
    for (name, range) in [("within_6_s", 60), ("within_7_min", 4_000), ("within_a_year", 300_000_000)] {
        let mut deadline = scattered(range);
        let mut wheel = armed(|_| 1 + deadline());
        let mut key = scattered(KEYS);
        group.bench_function(BenchmarkId::new("again", name), |b| {
            b.iter(|| wheel.arm(key(), Tick(1 + deadline())));
        });
        group.bench_function(BenchmarkId::new("cancel_and_arm", name), |b| {
            b.iter(|| {
                let key = key();
                black_box(wheel.cancel(key));
                wheel.arm(key, Tick(1 + deadline()));
            });
        });
    }
    group.finish();
}

/// A million deadlines, fired in turns of the server's budget; the time is for all of them.
fn expire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/expire_1m");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(KEYS)));
    let mut spread = scattered(AHEAD);
    let cases: [(&str, Wheel, u32); 3] = [
        ("one_tick_near", armed(|_| 1), 1),
        ("one_tick_far", armed(|_| 1 << 18), 1 << 18),
        ("over_10_s", armed(|_| 1 + spread()), AHEAD),
    ];
    for (name, wheel, last) in &cases {
        group.bench_function(*name, |b| {
            b.iter_batched(
                || (copy(wheel), Vec::with_capacity(BUDGET)),
                |(mut wheel, mut fired)| {
                    while wheel.expire(Tick(*last), BUDGET, &mut fired) {
                        fired.clear();
                    }
                    assert!(wheel.is_empty());
                    wheel
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A wheel with the same deadlines: wheels are not cloned outside benches, so they cannot be.
fn copy(wheel: &Wheel) -> Wheel {
    armed(|key| wheel.deadline(key).map_or(0, |deadline| deadline.0))
}

/// Ticks in which nothing is due, though a million keys are armed: what an idle server does ten times a
/// second.
fn idle(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/idle");
    let mut wheel = armed(|key| (1 << 30) + key);
    let (mut now, mut fired) = (0, Vec::new());
    group.bench_function("tick", |b| {
        b.iter(|| {
            now = (now + 1) & 0x0FFF_FFFF;
            black_box(wheel.expire(Tick(now), BUDGET, &mut fired));
            black_box(wheel.next_deadline())
        });
    });
    assert!(fired.is_empty());
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(30);
    targets = arm, expire, idle
}
criterion_main!(benches);
