//! Whole shards without sockets: what a delivery, a frame and a visit cost us, the kernel left out.
//!
//! Throughput is deliveries per second where there are deliveries. A `send` of the same bytes on a loopback
//! socket takes the kernel some microseconds: that is what these numbers are to vanish beside.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat_bench::crowd::{Client, Crowd, send, subscribe, unsubscribe};
use tcbchat_bench::{MEASUREMENT, WARM_UP};

/// Bytes of a message's body.
const BODY: usize = 128;
/// Rooms, and members of each.
const SHAPES: [(u32, u32); 3] = [(1, 1_000), (100, 100), (1_000, 10)];
/// Subscription ids over all members: what everybody uses, as many as an encoder keeps side by side and more,
/// and one for each of a large room's members.
const CLASSES: [u32; 3] = [1, 48, 1_000];

fn topic(room: u32) -> String {
    format!("/topic/room-{room}")
}

/// One client of each room, with a message for it.
fn messages(crowd: &Crowd, rooms: u32, members: u32) -> Vec<(Client, Vec<u8>)> {
    let sender = |room: u32| crowd.clients()[(room * members) as usize];
    (0..rooms).map(|room| (sender(room), send(&topic(room), BODY, None))).collect()
}

/// One message to each room, and the turn in which all of them leave.
fn publish(crowd: &mut Crowd, messages: &mut [(Client, Vec<u8>)]) {
    for (sender, message) in messages {
        crowd.give(*sender, message);
    }
    crowd.turn();
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms/fan_out");
    for (rooms, members) in SHAPES {
        for classes in CLASSES {
            let mut crowd = Crowd::new(1, rooms * members);
            crowd.gather(rooms * members, |n| (format!("sub-{}", n % classes), topic(n / members)));
            let mut messages = messages(&crowd, rooms, members);
            let writes = crowd.writes();
            publish(&mut crowd, &mut messages);
            assert_eq!(crowd.writes() - writes, u64::from(rooms * members), "each member gets one write");
            group.throughput(Throughput::Elements(u64::from(rooms * members)));
            let id = BenchmarkId::new(format!("{rooms}x{members}"), format!("{classes}_ids"));
            group.bench_function(id, |b| b.iter(|| publish(&mut crowd, &mut messages)));
        }
    }
    group.finish();
}

/// Members of two rooms, who get both rooms' messages in one write: through their outbound queues.
fn fan_out_queued(c: &mut Criterion) {
    const MEMBERS: u32 = 1_000;
    let mut crowd = Crowd::new(1, MEMBERS);
    crowd.gather(MEMBERS, |_| ("sub-0".into(), topic(0)));
    for client in crowd.clients().to_vec() {
        crowd.give(client, &mut subscribe("sub-1", &topic(1)));
    }
    crowd.settle();
    let sender = crowd.clients()[0];
    let mut messages = [(sender, send(&topic(0), BODY, None)), (sender, send(&topic(1), BODY, None))];
    let mut group = c.benchmark_group("rooms/fan_out_queued");
    group.throughput(Throughput::Elements(u64::from(2 * MEMBERS)));
    group.bench_function("2x1000", |b| b.iter(|| publish(&mut crowd, &mut messages)));
    group.finish();
}

/// SEND with a receipt to a room that nobody is in: one frame, its way to the owner, and its answer.
fn send_with_receipt(c: &mut Criterion) {
    let mut crowd = Crowd::new(1, 1);
    crowd.gather(1, |_| ("sub-0".into(), topic(0)));
    let client = crowd.clients()[0];
    let mut group = c.benchmark_group("rooms/send_with_receipt");
    for frames in [1, 64] {
        let mut input = send("/topic/nobody", BODY, Some("receipt-1")).repeat(frames);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::new("frames_in_one_read", frames), |b| {
            b.iter(|| {
                crowd.give(client, &mut input);
                crowd.turn();
            });
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
fn visit(c: &mut Criterion) {
    let mut crowd = Crowd::new(1, 1_000);
    crowd.gather(100, |_| ("sub-0".into(), topic(0)));
    let mut join = subscribe("sub-0", &topic(0));
    let mut group = c.benchmark_group("rooms/visit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("room_of_100", |b| {
        b.iter(|| {
            let client = crowd.connect(0);
            crowd.give(client, &mut join);
            crowd.turn();
            crowd.end(client);
            crowd.turn();
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    targets = fan_out, fan_out_queued, send_with_receipt, leave_and_join, visit
}
criterion_main!(benches);
