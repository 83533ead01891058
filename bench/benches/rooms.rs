//! Whole shards without sockets: what a delivery, a frame and a visit cost us, the kernel left out.
//!
//! Throughput is deliveries per second where there are deliveries. A `send` of the same bytes on a loopback
//! socket takes the kernel some microseconds: that is what these numbers are to vanish beside.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat_bench::crowd::{Crowd, subscribe, unsubscribe};
use tcbchat_bench::paths::rooms::{Publications, topic, visit};
use tcbchat_bench::{MEASUREMENT, WARM_UP};

/// Rooms, and members of each.
const SHAPES: [(u32, u32); 3] = [(1, 1_000), (100, 100), (1_000, 10)];
/// Subscription ids over all members: what everybody uses, as many as an encoder keeps side by side and more,
/// and one for each of a large room's members.
const CLASSES: [u32; 3] = [1, 48, 1_000];

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms/fan_out");
    for (rooms, members) in SHAPES {
        for classes in CLASSES {
            let mut publications = Publications::to_rooms(rooms, members, classes);
            let writes = publications.writes();
            publications.publish();
            let written = publications.writes() - writes;
            assert_eq!(written, u64::from(rooms * members), "each member gets one write");
            group.throughput(Throughput::Elements(u64::from(rooms * members)));
            let id = BenchmarkId::new(format!("{rooms}x{members}"), format!("{classes}_ids"));
            group.bench_function(id, |b| b.iter(|| publications.publish()));
        }
    }
    group.finish();
}

/// Members of two rooms, who get both rooms' messages in one write: through their outbound queues.
fn fan_out_queued(c: &mut Criterion) {
    const MEMBERS: u32 = 1_000;
    let mut publications = Publications::to_both_rooms(MEMBERS);
    let mut group = c.benchmark_group("rooms/fan_out_queued");
    group.throughput(Throughput::Elements(u64::from(2 * MEMBERS)));
    group.bench_function("2x1000", |b| b.iter(|| publications.publish()));
    group.finish();
}

/// SEND with a receipt to a room that nobody is in: one frame, its way to the owner, and its answer.
fn send_with_receipt(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms/send_with_receipt");
    for frames in [1, 64] {
        let mut publications = Publications::to_nobody(frames);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::new("frames_in_one_read", frames), |b| {
            b.iter(|| publications.publish());
        });
    }
    group.finish();
}

/// Somebody leaves a room and comes back, among its other members.
fn leave_and_join(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms/leave_and_join");
    group.throughput(Throughput::Elements(1));
    for members in [1, 10, 1_000] {
        let mut crowd = Crowd::new(1, members);
        crowd.gather(members, |_| ("sub-0".into(), topic(0)));
        let client = crowd.clients()[members as usize / 2];
        let (mut leave, mut join) = (unsubscribe("sub-0"), subscribe("sub-0", &topic(0)));
        group.bench_function(BenchmarkId::new("room_of", members), |b| {
            b.iter(|| {
                crowd.give(client, &mut leave);
                crowd.give(client, &mut join);
                crowd.turn();
            });
        });
    }
    group.finish();
}

/// A whole life: accepted, upgraded, connected, subscribed, gone.
fn visits(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms/visit");
    group.throughput(Throughput::Elements(1));
    let mut visit = visit(100);
    group.bench_function("room_of_100", |b| b.iter(&mut visit));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    targets = fan_out, fan_out_queued, send_with_receipt, leave_and_join, visits
}
criterion_main!(benches);
