//! The codecs: what a message pays between the bytes read and the bytes written, sockets and rooms aside.
//!
//! Input is masked with a key of zeros: unmasking costs the same and leaves the input as it was, so that it
//! can be decoded again.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tcbchat::limits;
use tcbchat::wire::http;
use tcbchat::wire::stomp::{self, Command, Encoder, Step, Version};
use tcbchat::wire::ws::{self, Event, Kind, Limits, Opcode, Role};
use tcbchat_bench::{MEASUREMENT, WARM_UP};

const SEND: &[u8] = b"SEND\ndestination:/topic/room-17\nreceipt:r-1\ncontent-type:text/plain\n\n";
const SEND_BODY: &[u8] = &[b'm'; 128];

/// As a browser sends it.
const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\n\
    Host: chat.example:8080\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://chat.example:8080\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Accept-Language: en-US,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: v12.stomp, v11.stomp, v10.stomp\r\n\r\n";

/// A message as a client sends it.
fn masked(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let opcode = Opcode::from(kind);
    ws::encode_header(Some([0; 4]), opcode, true, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

fn ws_limits() -> Limits {
    Limits::from(&limits::WebSocket::default())
}

fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/http");
    let limits = limits::Handshake::default();
    let mut out = Vec::with_capacity(1024);
    group.bench_function("parse_upgrade_answer", |b| {
        b.iter(|| {
            let mut scratch = http::Scratch::new();
            let parsed = http::parse(black_box(HANDSHAKE), &limits, &mut scratch);
            let (request, _) = parsed.expect("a good request").expect("a whole request");
            out.clear();
            http::write_upgrade(&http::upgrade(&request).expect("a handshake"), &mut out);
            black_box(out.len())
        });
    });
    group.finish();
}

fn ws_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/ws/decode");
    let limits = ws_limits();
    for bytes in [32, 256, 4_096, 65_536, 1_048_576] {
        let texts = [
            ("binary", Kind::Binary, vec![7; bytes]),
            ("ascii", Kind::Text, vec![b'a'; bytes]),
            ("umlauts", Kind::Text, "\u{fc}".repeat(bytes / 2).into_bytes()),
        ];
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, kind, payload) in texts {
            let mut input = masked(kind, &payload);
            let mut decoder = ws::Decoder::new(Role::Server);
            group.bench_function(BenchmarkId::new(name, bytes), |b| {
                b.iter(|| match decoder.decode(black_box(&mut input), &limits) {
                    Ok((consumed, Some(Event::Data { end: true, .. }))) => consumed,
                    other => panic!("one message: {other:?}"),
                });
            });
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
        ("send", [SEND, SEND_BODY, b"\0"].concat()),
        ("send_with_length", {
            let mut out = Vec::new();
            let encoder = Encoder::new(&mut out, Command::Send, Version::V12);
            encoder.header("destination", "/topic/room-17").header("receipt", "r-1").body(SEND_BODY);
            out
        }),
    ];
    for (name, frame) in &frames {
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(*name, |b| {
            b.iter(|| {
                let mut decoder = stomp::Decoder::default();
                match decoder.decode(black_box(frame), Version::V12, &limits) {
                    Ok(Step::Frame { consumed, .. }) => consumed,
                    other => panic!("one frame: {other:?}"),
                }
            });
        });
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

fn stomp_message(body: &[u8], out: &mut Vec<u8>) {
    Encoder::new(out, Command::Message, Version::V12)
        .header("subscription", "sub-0")
        .header("message-id", "18f2a-12345")
        .header("destination", "/topic/room-17")
        .raw_lines(b"content-type:text/plain\n")
        .body(body);
}

fn stomp_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/stomp/encode");
    for bytes in [16, 128, 4_096] {
        let body = vec![b'm'; bytes];
        let mut out = Vec::with_capacity(bytes + 256);
        group.bench_function(BenchmarkId::new("message", bytes), |b| {
            b.iter(|| {
                out.clear();
                stomp_message(black_box(&body), &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

/// All that a published message pays here: read once, its headers kept, and encoded once for all who get it.
fn message(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/message");
    let (ws_limits, limits) = (ws_limits(), limits::Stomp::default());
    let mut input = masked(Kind::Text, &[SEND, SEND_BODY, b"\0"].concat());
    let mut ws_decoder = ws::Decoder::new(Role::Server);
    let mut decoder = stomp::Decoder::default();
    let (mut lines, mut payload, mut out) = (Vec::new(), Vec::new(), Vec::new());
    group.bench_function("read_and_write", |b| {
        b.iter(|| {
            [&mut lines, &mut payload, &mut out].into_iter().for_each(Vec::clear);
            let Ok((_, Some(Event::Data { payload: bytes, end: true, .. }))) =
                ws_decoder.decode(black_box(&mut input), &ws_limits)
            else {
                panic!("one message");
            };
            let Ok(Step::Frame { stomp_frame, .. }) = decoder.decode(bytes, Version::V12, &limits) else {
                panic!("one frame");
            };
            for name in ["destination", "receipt", "transaction"] {
                black_box(stomp_frame.header(name));
            }
            stomp::user_header_lines(&stomp_frame, &mut lines);
            stomp_message(stomp_frame.body, &mut payload);
            ws::encode_message(Kind::Text, &payload, &mut out);
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT);
    targets = handshake, ws_decode, ws_encode, stomp_decode, stomp_encode, message
}
criterion_main!(benches);
