//! A worker that is killed in the midst of its work, again and again: whatever clients have sent to the application is handled
//! at least once, and in its order.

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use socket2::SockRef;

use super::*;

on_one_and_three_reactors! {
    none_is_lost_with_workers_that_acknowledge_each_message,
    none_is_lost_with_workers_that_acknowledge_many_at_once,
}

const JOBS: &str = "/app/jobs";
const CLIENTS: usize = 4;
const EACH: usize = 2_500;
const KILLS: usize = 8;
/// Of what a session may have unsettled, `rooms.prefetch_max`.
const PREFETCH_MAX: usize = 32;
/// SENDs that a client has under way.
const WINDOW: usize = 100;

/// Epoch and place in it, as the `message-id` says.
type Place = (u64, u64);

fn none_is_lost_with_workers_that_acknowledge_each_message(setup: Setup) {
    run(setup, "client-individual");
}

fn none_is_lost_with_workers_that_acknowledge_many_at_once(setup: Setup) {
    run(setup, "client");
}

fn run(setup: Setup, mode: &'static str) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    // Nobody is judged below three quarters of it.
    let server = setup.server_with("", &["--set", "rooms.queue_messages_max=20000"]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(&server)).collect();
    let mut work = Work { mode, ..Work::default() };
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || send_all(client, number));
        }
        for _ in 0..KILLS {
            let messages = rng.random_range(1..CLIENTS * EACH / KILLS);
            work.take(&server, &mut rng, |work| work.taken >= messages);
            // A worker that comes before the server knows of the end gets messages that are behind those which come back.
            server.await_metric("connections_open", |open| open <= CLIENTS as u64 + 1);
        }
        work.take(&server, &mut rng, |work| work.is_complete());
    });
    assert!(work.redelivered > 0, "no worker was killed with a message in hand");
    server.await_metric("queue_messages", |left| left == 0);
}

/// Sends all of one client's messages, each with a receipt, and waits for the receipts.
fn send_all(client: &mut Client, number: usize) {
    let mut under_way = VecDeque::new();
    for message in 0..EACH {
        under_way.push_back(client.send_with_receipt(send(JOBS, format!("{number} {message}"))));
        if under_way.len() >= WINDOW {
            expect_receipt(client, &mut under_way);
        }
    }
    while !under_way.is_empty() {
        expect_receipt(client, &mut under_way);
    }
}

fn expect_receipt(client: &mut Client, under_way: &mut VecDeque<String>) {
    assert_eq!(client.expect("RECEIPT").get("receipt-id"), under_way.pop_front().as_deref());
}

/// What workers have done, one after the other.
#[derive(Default)]
struct Work {
    mode: &'static str,
    /// Messages that this worker got.
    taken: usize,
    /// This worker has these, and has not acknowledged them.
    held: Vec<Place>,
    /// It has acknowledged these; whether the server knows is not known.
    acknowledged: Vec<Place>,
    /// The server has confirmed that it knows.
    confirmed: BTreeSet<Place>,
    /// Dead workers had these and have not acknowledged them.
    owed: BTreeSet<Place>,
    /// Dead workers got these.
    seen: BTreeSet<Place>,
    /// For each client, how many of its messages were handled.
    handled: [usize; CLIENTS],
    redelivered: usize,
}

impl Work {
    fn has_all(&self) -> bool {
        self.handled == [EACH; CLIENTS]
    }

    fn is_complete(&self) -> bool {
        self.has_all() && self.held.is_empty()
    }

    /// A worker comes, works until that is so, and is killed.
    fn take(&mut self, server: &Server, rng: &mut StdRng, is_over: impl Fn(&Work) -> bool) {
        let mut worker = Client::connect(server);
        let subscribe = Frame::new("SUBSCRIBE").header("id", "w").header("destination", JOBS);
        worker.send(&subscribe.header("ack", self.mode));
        self.taken = 0;
        let (mut last, mut is_new) = (None, false);
        // Each ACK that asks for a receipt, with all that were sent before it.
        let mut receipts: VecDeque<(String, usize)> = VecDeque::new();
        while !is_over(self) {
            let frame = worker.next();
            if frame.command == "RECEIPT" {
                let (receipt, count) = receipts.pop_front().expect("it was asked for");
                assert_eq!(frame.get("receipt-id"), Some(&*receipt));
                self.confirmed.extend(&self.acknowledged[..count]);
                continue;
            }
            assert_eq!(frame.command, "MESSAGE", "{frame:?}");
            let place = self.got(&frame);
            assert!(last < Some(place), "{place:?} comes behind {last:?}");
            last = Some(place);
            let is_redelivered = frame.get("redelivered") == Some("true");
            assert!(!(is_new && is_redelivered), "{frame:?} comes behind a new one");
            is_new = !is_redelivered;
            // Who holds all that it may, and acknowledges none, gets no more.
            let held_max = if self.has_all() { 1 } else { PREFETCH_MAX };
            while self.held.len() > rng.random_range(0..held_max) {
                let frame = self.acknowledge(rng);
                if rng.random_ratio(1, 4) {
                    receipts.push_back((worker.send_with_receipt(frame), self.acknowledged.len()));
                } else {
                    worker.send(&frame);
                }
            }
        }
        if self.is_complete() {
            let last = worker.send_with_receipt(Frame::new("DISCONNECT"));
            while worker.expect("RECEIPT").get("receipt-id") != Some(&*last) {}
            return;
        }
        SockRef::from(worker.socket().get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(worker);
        self.owed.extend(&self.held);
        self.seen.extend(self.held.drain(..).chain(self.acknowledged.drain(..)));
    }

    /// A message has come to this worker: checks that it is the right one.
    fn got(&mut self, message: &Frame) -> Place {
        let (epoch, sequence) = message.get("message-id").unwrap().split_once('-').unwrap();
        let place = (u64::from_str_radix(epoch, 16).unwrap(), sequence.parse().unwrap());
        assert!(!self.confirmed.contains(&place), "{message:?} was done");
        // What was not acknowledged comes again, and before what is behind it.
        assert!(self.owed.first().is_none_or(|owed| *owed >= place), "{:?} is left out", self.owed.first());
        self.owed.remove(&place);
        self.taken += 1;
        self.held.push(place);
        if self.seen.contains(&place) {
            assert_eq!(message.get("redelivered"), Some("true"), "{message:?}");
            self.redelivered += 1;
            return place;
        }
        let (client, number) = message.text().split_once(' ').unwrap();
        let handled = &mut self.handled[client.parse::<usize>().unwrap()];
        assert_eq!(number.parse(), Ok(*handled), "{message:?}");
        *handled += 1;
        place
    }

    /// An ACK of some message that is held, and with `client` of those before it.
    fn acknowledge(&mut self, rng: &mut StdRng) -> Frame {
        let at = rng.random_range(0..self.held.len());
        let (epoch, sequence) = self.held[at];
        let from = if self.mode == "client" { 0 } else { at };
        self.acknowledged.extend(self.held.drain(from..=at));
        Frame::new("ACK").header("id", &format!("{epoch:x}-{sequence}"))
    }
}
