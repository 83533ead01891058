//! The codecs: what a message pays between the bytes read and the bytes written, sockets and rooms aside.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::limits;
use tcbchat::wire::stomp::{self, Command, Encoder, Step, Version};
use tcbchat::wire::ws::{self, Kind};
use tcbchat_bench::paths::wire::{self, SEND, SEND_BODY, WsInput};
use tcbchat_bench::{MEASUREMENT, WARM_UP};

fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/http");
    let limits = limits::Handshake::default();
    let mut out = Vec::with_capacity(1024);
    group.bench_function("parse_upgrade_answer", |b| {
        b.iter(|| wire::answer_handshake(&limits, &mut out));
    });
    group.finish();
}

fn ws_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/ws/decode");
    for bytes in [32, 256, 4_096, 65_536, 1_048_576] {
        let texts = [
            ("binary", Kind::Binary, vec![7; bytes]),
            ("ascii", Kind::Text, vec![b'a'; bytes]),
            ("umlauts", Kind::Text, "\u{fc}".repeat(bytes / 2).into_bytes()),
        ];
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, kind, payload) in texts {
            let mut input = WsInput::new(kind, &payload);
            group.bench_function(BenchmarkId::new(name, bytes), |b| b.iter(|| input.decode().len()));
        }
    }
    group.finish();
}

fn ws_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/ws/encode");
    for bytes in [32, 256, 4_096, 65_536] {
        let payload = vec![b'a'; bytes];
        let mut out = Vec::with_capacity(bytes + ws::HEADER_BYTES_MAX);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| {
                out.clear();
                ws::encode_message(Kind::Text, black_box(&payload), &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn stomp_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/stomp/decode");
    let limits = limits::Stomp::default();
    let frames: [(&str, Vec<u8>); 3] = [
        ("subscribe", b"SUBSCRIBE\nid:sub-0\ndestination:/topic/room-17\nack:auto\n\n\0".to_vec()),
        ("send", wire::send()),
        ("send_with_length", {
            let mut out = Vec::new();
            let encoder = Encoder::new(&mut out, Command::Send, Version::V12);
            encoder.header("destination", "/topic/room-17").header("receipt", "r-1").body(SEND_BODY);
            out
        }),
    ];
    for (name, frame) in &frames {
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(*name, |b| b.iter(|| wire::decode_stomp(frame, &limits)));
    }

    // A body of 1 MB without a length, as it comes from a socket: nothing is looked at twice.
    let large = [SEND, &vec![b'm'; 1_000_000], b"\0"].concat();
    for piece in [1_460, 16_384] {
        group.throughput(Throughput::Bytes(large.len() as u64));
        group.bench_function(BenchmarkId::new("send_1_mb_by", piece), |b| {
            b.iter(|| {
                let mut decoder = stomp::Decoder::default();
                let mut end = 0;
                loop {
                    end = large.len().min(end + piece);
                    match decoder.decode(black_box(&large[..end]), Version::V12, &limits) {
                        Ok(Step::Need) => {}
                        Ok(Step::Frame { consumed, .. }) => break consumed,
                        other => panic!("one frame: {other:?}"),
                    }
                }
            });
        });
    }
    group.finish();
}

fn stomp_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/stomp/encode");
    for bytes in [16, 128, 4_096] {
        let body = vec![b'm'; bytes];
        let mut out = Vec::with_capacity(bytes + 256);
        group.bench_function(BenchmarkId::new("message", bytes), |b| {
            b.iter(|| {
                wire::encode_message(black_box(&body), &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn message(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/message");
    let mut read_and_write = wire::read_and_write();
    group.bench_function("read_and_write", |b| b.iter(&mut read_and_write));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT);
    targets = handshake, ws_decode, ws_encode, stomp_decode, stomp_encode, message
}
criterion_main!(benches);
