//! Leases and queues of segments: what a message pays for its memory.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::buf::{Pool, Segments, Slices};
use tcbchat::limits::Buffers;
use tcbchat_bench::{MEASUREMENT, WARM_UP};

/// A chat message as it is on the wire.
const MESSAGE: &[u8] = &[b'm'; 256];

/// A frame that comes in pieces: the first leases, the others are appended, the last completes it.
fn pool(c: &mut Criterion) {
    let mut group = c.benchmark_group("buf/pool");
    let mut pool = Pool::new(&Buffers::default());
    group.bench_function("lease_release", |b| {
        b.iter(|| {
            let lease = pool.lease(black_box(MESSAGE.len())).expect("the pool is empty");
            pool.release(lease);
        });
    });
    for (pieces, piece) in [(2, 128), (8, 1_460), (128, 8_192)] {
        let bytes = vec![0; piece];
        group.throughput(Throughput::Bytes((pieces * piece) as u64));
        group.bench_function(BenchmarkId::new("append", format!("{pieces}_times_{piece}_bytes")), |b| {
            b.iter(|| {
                let mut lease = None;
                for _ in 0..pieces {
                    pool.append(&mut lease, &bytes).expect("one lease is far from the bound");
                }
                lease.into_iter().for_each(|lease| pool.release(black_box(lease)));
            });
        });
    }
    group.finish();
}

/// One answer: push, offer to a write, take off. Alone, and with others for the same connection in the same write.
fn segments(c: &mut Criterion) {
    let mut group = c.benchmark_group("buf/segments");
    let message = Bytes::from_static(MESSAGE);
    for segments in [1, 2, 16, 64] {
        let mut queue = Segments::default();
        group.throughput(Throughput::Elements(segments));
        group.bench_function(BenchmarkId::new("push_slices_advance", segments), |b| {
            b.iter(|| {
                for _ in 0..segments {
                    queue.push(message.clone());
                }
                let mut slices = Slices::new();
                black_box(queue.slices(64, &mut slices));
                drop(slices);
                let bytes = queue.bytes() as usize;
                queue.advance(black_box(bytes));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(30);
    targets = pool, segments
}
criterion_main!(benches);
