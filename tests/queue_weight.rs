//! What queues are charged for `rooms.queues_bytes_max` is at least what they take from the heap.
//!
//! A program of its own, because it counts what the allocator is asked for. It measures no time.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tcbchat::broker::queue::{ConsumerKey, Effects, Queues, Settlement};
use tcbchat::limits;
use tcbchat::message::Epochs;
use tcbchat::message::Message;
use tcbchat::message::destination::Destination;
use tcbchat::time::Tick;

/// The system's allocator, counting what this thread holds of it.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    HELD.with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is passed to the system's allocator as it is; the counter is a thread-local without
// destructor, so that touching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes as i64 - layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A consumer as large as the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name(u32, [u32; 5]);

impl ConsumerKey for Name {
    type Session = (u32, u64);

    fn session(&self) -> (u32, u64) {
        (self.0, 0)
    }
}

type Tested = Queues<Name, (u16, u64)>;
type Caused = Effects<Name, (u16, u64)>;

const NOW: Tick = Tick(0);

fn queues() -> Tested {
    let limits = limits::Rooms {
        queues_bytes_max: 1 << 40,
        queue_bytes_max: 1 << 40,
        queue_messages_max: 1_000_000,
        // So that each consumer has one message.
        prefetch_max: 1,
        ..Default::default()
    };
    Queues::new(limits, Epochs::new(1, 0, 1))
}

fn message(key: &str, body: &[u8]) -> Message {
    Message::new(&Destination::parse_send(key).unwrap(), b"", body)
}

/// Runs `fill` on no queues and asserts, at each size of the tables, that the charge is enough, and not absurd; then that
/// `empty` gives nearly everything back.
fn assert_charged(
    most: u64,
    fill: impl Fn(&mut Tested, u32, &mut Caused),
    empty: impl Fn(&mut Tested, u32, &mut Caused),
) {
    let mut caused = Caused::default();
    let mut queues = queues();
    let before = HELD.get();
    // What holders' accounts take is not the queues' own; all is one holder's here.
    const ACCOUNTS: i64 = 4096;
    for number in 0..5_000 {
        fill(&mut queues, number, &mut caused);
        caused = Caused::default();
        let held = HELD.get() - before;
        let charged = queues.bytes() as i64;
        assert!(held <= charged + ACCOUNTS, "{number}: {held} held, {charged} charged");
        assert!(charged <= most as i64 * held, "{number}: {held} held, {charged} charged");
    }
    for number in 0..5_000 {
        empty(&mut queues, number, &mut caused);
        caused = Caused::default();
    }
    assert_eq!((queues.len(), queues.bytes()), (0, 0));
    let left = HELD.get() - before;
    assert!(left <= ACCOUNTS, "{left} bytes are left");
}

#[test]
fn a_queue_with_a_consumer_is_charged_whole() {
    let key = |number: u32| format!("/queue/{number}");
    assert_charged(
        4,
        |queues, number, caused| {
            queues.join(&key(number), Name(1, [number; 5]), (0, 1), NOW, caused).unwrap();
        },
        |queues, number, caused| queues.leave(&key(number), Name(1, [number; 5]), NOW, caused),
    );
}

#[test]
fn a_queue_with_a_message_is_charged_whole() {
    let key = |number: u32| format!("/queue/{number}");
    assert_charged(
        4,
        |queues, number, caused| {
            queues.publish(message(&key(number), b"x"), (0, 1), NOW, caused).unwrap();
        },
        |queues, number, caused| {
            let who = Name(1, [number; 5]);
            queues.join(&key(number), who, (0, 1), NOW, caused).unwrap();
            let id = caused.offers[0].id;
            queues.settle(&key(number), who, id.sequence, Settlement::Ack, NOW, caused);
            queues.leave(&key(number), who, NOW, caused);
        },
    );
}

#[test]
fn a_message_is_charged_whole_while_it_waits() {
    let key = "/queue/jobs";
    assert_charged(
        6,
        |queues, _, caused| queues.publish(message(key, b"x"), (0, 1), NOW, caused).unwrap(),
        |queues, number, caused| {
            let who = Name(1, [number; 5]);
            queues.join(key, who, (0, 1), NOW, caused).unwrap();
            for offer in std::mem::take(&mut caused.offers) {
                queues.settle(key, who, offer.id.sequence, Settlement::Ack, NOW, caused);
            }
            queues.leave(key, who, NOW, caused);
        },
    );
}

#[test]
fn a_consumer_with_an_unsettled_message_is_charged_whole() {
    let key = "/queue/jobs";
    assert_charged(
        6,
        |queues, number, caused| {
            queues.join(key, Name(number, [0; 5]), (0, 1), NOW, caused).unwrap();
            queues.publish(message(key, b"x"), (0, 1), NOW, caused).unwrap();
        },
        |queues, number, caused| {
            queues.settle(key, Name(number, [0; 5]), u64::from(number) + 1, Settlement::Ack, NOW, caused);
            queues.leave(key, Name(number, [0; 5]), NOW, caused);
        },
    );
}
