//! The timing wheel with a million keys: the price of a deadline, and of a million of them in one tick.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::time::{Tick, Wheel};
use tcbchat_bench::paths::wheel::{
    AHEAD, BUDGET, KEYS, arm_again, armed, armed_ahead, cancel_and_arm, expire,
};
use tcbchat_bench::{MEASUREMENT, WARM_UP};

fn arm(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/arm");
    for (name, range) in [("within_6_s", 60), ("within_7_min", 4_000), ("within_a_year", 300_000_000)] {
        let mut arm_again = arm_again(range);
        group.bench_function(BenchmarkId::new("again", name), |b| b.iter(&mut arm_again));
        let mut cancel_and_arm = cancel_and_arm(range);
        group.bench_function(BenchmarkId::new("cancel_and_arm", name), |b| b.iter(&mut cancel_and_arm));
    }
    group.finish();
}

/// A million deadlines, fired in turns of the server's budget; the time is for all of them.
fn expire_all(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/expire_1m");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(KEYS)));
    let cases: [(&str, Wheel, u32); 3] = [
        ("one_tick_near", armed(|_| 1), 1),
        ("one_tick_far", armed(|_| 1 << 18), 1 << 18),
        ("over_10_s", armed_ahead(), AHEAD),
    ];
    for (name, wheel, last) in &cases {
        group.bench_function(*name, |b| {
            b.iter_batched(
                || (copy(wheel), Vec::with_capacity(BUDGET)),
                |(mut wheel, mut fired)| {
                    expire(&mut wheel, Tick(*last), &mut fired);
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
    targets = arm, expire_all, idle
}
criterion_main!(benches);
