//! The paths that are guarded, by the names of their benches: `cargo bench -p tcbchat-bench -- NAME` times what is
//! counted here.
//!
//! Invariant: set-up includes the warm-up: what grows to its size once, or is chosen once, is not counted.

use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;
use std::hint::black_box;

use tcbchat::limits;
use tcbchat::tcb::Closer;
use tcbchat::time::Tick;
use tcbchat::wire::ws::{self, Kind};
use tcbchat_bench::paths::policy;
use tcbchat_bench::paths::rooms::{Publications, visit};
use tcbchat_bench::paths::wheel::{AHEAD, BUDGET, KEYS, arm_again, armed_ahead, expire};
use tcbchat_bench::paths::wire::{SEND_BODY, WsInput, answer_handshake, decode_stomp, encode_message};
use tcbchat_bench::paths::{tcb, wire};

/// A round of a path.
type Round = Box<dyn FnMut()>;

/// One path.
pub struct Path {
    /// Name of its bench.
    pub name: &'static str,
    /// Rounds that are counted.
    pub rounds: u32,
    /// Operations in each: what the number is per.
    pub operations: u32,
    /// Everything before the first round.
    pub set_up: fn() -> Round,
}

/// The hash of the table, SipHash as the server's, with keys that are the same in each run.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// Connections in the table.
const OPEN: u32 = 10_000;

/// All of them.
pub const ALL: &[Path] = &[
    path("wire/http/parse_upgrade_answer", 1_000, 1, || {
        let (limits, mut out) = (limits::Handshake::default(), Vec::new());
        warm(1, move || _ = answer_handshake(&limits, &mut out))
    }),
    path("wire/ws/decode/ascii/256", 1_000, 1, || ws_decode(256)),
    path("wire/ws/decode/ascii/4096", 1_000, 1, || ws_decode(4_096)),
    path("wire/ws/encode/256", 1_000, 1, || {
        let mut out = Vec::new();
        warm(1, move || {
            out.clear();
            ws::encode_message(Kind::Text, black_box(&[b'a'; 256]), &mut out);
            black_box(&out);
        })
    }),
    path("wire/stomp/decode/send", 1_000, 1, || {
        let (bytes, limits) = (wire::send(), limits::Stomp::default());
        warm(1, move || _ = black_box(decode_stomp(&bytes, &limits)))
    }),
    path("wire/stomp/encode/message/128", 1_000, 1, || {
        let mut out = Vec::new();
        warm(1, move || {
            encode_message(black_box(SEND_BODY), &mut out);
            black_box(&out);
        })
    }),
    path("wire/message/read_and_write", 1_000, 1, || {
        let mut read_and_write = wire::read_and_write();
        warm(1, move || _ = read_and_write())
    }),
    path("policy/verdict/room/100_rules", 1_000, 1, || {
        let mut verdict = policy::verdict(100, "/topic/room-17");
        warm(1, move || _ = black_box(verdict()))
    }),
    path("policy/send/unchecked", 1_000, 1, || {
        let mut send = policy::checked_send(None);
        warm(1, move || _ = black_box(send()))
    }),
    path("policy/send/checked/100_rules", 1_000, 1, || {
        let mut send = policy::checked_send(Some(100));
        warm(1, move || _ = black_box(send()))
    }),
    path("rooms/fan_out/1x1000/1_ids", 10, 1_000, || publish(1_000, Publications::to_rooms(1, 1_000, 1))),
    path("rooms/fan_out/1000x10/1_ids", 1, 10_000, || publish(10_000, Publications::to_rooms(1_000, 10, 1))),
    path("rooms/fan_out_queued/2x1000", 5, 2_000, || publish(1_000, Publications::to_both_rooms(1_000))),
    path("rooms/send_with_receipt/frames_in_one_read/64", 20, 64, || publish(1, Publications::to_nobody(64))),
    path("rooms/visit/room_of_100", 500, 1, || warm(500, visit(100))),
    path("tcb/find/10000_tcbs/65536_buckets", OPEN, 1, || {
        warm(1, tcb::find(OPEN, 65_536, Hasher::default()))
    }),
    path("tcb/admit_release/closed_by_Remote/10000", OPEN, 1, || {
        warm(OPEN, tcb::turnover(OPEN, Closer::Remote, Hasher::default()))
    }),
    // Warm when as many records leave TIME_WAIT as enter it.
    path("tcb/admit_release/closed_by_Local/10000", OPEN, 1, || {
        warm(3 * OPEN, tcb::turnover(OPEN, Closer::Local, Hasher::default()))
    }),
    path("wheel/arm/again/within_7_min", 10_000, 1, || warm(1, arm_again(4_000))),
    // Nothing is left for a second round, nor does anything need warming.
    path("wheel/expire_1m/over_10_s", 1, KEYS, || {
        let (mut wheel, mut fired) = (armed_ahead(), Vec::with_capacity(BUDGET));
        Box::new(move || {
            expire(&mut wheel, Tick(AHEAD), &mut fired);
            assert!(wheel.is_empty());
        })
    }),
];

const fn path(name: &'static str, rounds: u32, operations: u32, set_up: fn() -> Round) -> Path {
    Path { name, rounds, operations, set_up }
}

/// The work, after so many rounds of it.
fn warm(rounds: u32, mut work: impl FnMut() + 'static) -> Round {
    for _ in 0..rounds {
        work();
    }
    Box::new(work)
}

fn ws_decode(bytes: usize) -> Round {
    let mut input = WsInput::new(Kind::Text, &vec![b'a'; bytes]);
    warm(1, move || _ = black_box(input.decode()))
}

/// One publication after the other, each of which makes so many writes.
fn publish(writes: u64, mut publications: Publications) -> Round {
    warm(2, move || {
        let before = publications.writes();
        publications.publish();
        assert_eq!(publications.writes() - before, writes);
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_different() {
        let names: BTreeSet<&str> = ALL.iter().map(|path| path.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    /// Each asserts that it did its work: a path that finds nothing to do would be counted as a fast one.
    #[test]
    fn every_path_can_be_walked() {
        for path in ALL {
            (path.set_up)()();
        }
    }
}
