//! `chat`: hold, and then messages over random rooms, every one of them checked by every subscriber.
//! `slow`: the same, while some subscribers do not read.
//!
//! Invariant: the accounts are made when nothing is under way any more, or nothing has moved for the
//! drain time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Casting, Refusal, START_AHEAD_US, Stage, duration};
use crate::check::Digest;
use crate::cli::{ChatArgs, Messages};
use crate::crew::Broken;
use crate::failure::{Failure, Kind};
use crate::report::{self, Report};
use crate::worker::desk::{ChatTally, Counts};
use crate::worker::orders::{ChatOrder, Notice, Order, Pace};

/// After the last message that was expected: time for one too many to show up.
const AFTERMATH: Duration = Duration::from_millis(500);
/// Time for the deaf to hear what became of them.
const LISTEN: Duration = Duration::from_secs(2);

/// Runs `chat`, or `slow` when some are deaf.
///
/// # Errors
/// Why there is no run.
pub fn run(args: &ChatArgs, deaf_every: u32) -> Result<Report, Refusal> {
    let common = &args.common;
    if let Some(bytes) = args.socket_buffer {
        tight_sockets(bytes)?;
    }
    let mut stage = Stage::open(&Casting {
        name: if deaf_every > 0 { "slow" } else { "chat" },
        common,
        connections: args.held.connections,
        payload_bytes: args.messages.payload,
        deaf_every,
        checked: true,
        whole_rooms: args.messages.window.is_some(),
        in_flight_max: args.messages.in_flight,
    })?;
    stage.play(|stage| {
        stage.connect(common.connect_rate, common.max_half_open)?;
        stage.hold(args.hold)?;
        stage.chat(&args.messages)?;
        stage.settle(args.settle)?;
        stage.end(common, &args.held, args.settle)
    });
    stage.close(common)
}

/// Moves this process, and all that it starts, to where sockets are small.
fn tight_sockets(bytes: u32) -> Result<(), netns::Error> {
    // While there is one thread, so that all later ones are there, too.
    netns::enter()?;
    // The least, the first and the most of each socket.
    let sizes = format!("4096 {bytes} {bytes}");
    netns::sysctl("net.ipv4.tcp_wmem", &sizes)?;
    netns::sysctl("net.ipv4.tcp_rmem", &sizes)
}

impl Stage {
    /// Act: messages, and the accounts of all subscribers.
    fn chat(&mut self, messages: &Messages) -> Result<(), Broken> {
        let before = self.crew.counts();
        let start_us = self.setup.now_us() + START_AHEAD_US;
        let (asked, pace) = match messages.window {
            None => {
                let asked = (messages.rate * messages.duration).clamp(0.0, 1e12).round() as u64;
                (Some(asked), Pace::Rate { per_s: messages.rate, messages: asked })
            }
            Some(width) => {
                let end_us = start_us + duration(messages.duration).as_micros() as u64;
                (None, Pace::Window { width, in_flight_max: messages.in_flight, end_us })
            }
        };
        self.watch.begin("chat", asked.unwrap_or(0) * u64::from(self.setup.room_size));
        let start = Instant::now();
        let &Messages { receipts, busy_poll, .. } = messages;
        self.crew.order(&Order::Chat(ChatOrder { start_us, pace, receipts, busy_poll }));
        self.crew.wait_all(&mut self.watch)?;
        let sending_s = start.elapsed().as_secs_f64();
        self.drain(messages)?;
        let counts = self.crew.counts();
        self.sample("after-chat");
        self.crew.order(&Order::Tally);
        let tallies = self.crew.wait_all(&mut self.watch)?;
        if self.setup.deaf_every > 0 {
            self.crew.order(&Order::Listen);
            self.crew.wait_until(&mut self.watch, LISTEN, |_| false)?;
        }
        let receipts = counts.receipts - before.receipts;
        if messages.receipts {
            let missing = counts.sent.saturating_sub(receipts);
            self.failures.add_many(Failure::new(Kind::ReceiptTimeout, "no receipt of a SEND"), missing);
        }
        let mut chat = account(tallies, counts, asked.unwrap_or(counts.sent), sending_s, messages);
        chat.cpu = report::Cpu::between(&self.samples, "held", "after-chat");
        self.chat = Some(chat);
        Ok(())
    }

    /// Waits until everything that was sent has arrived, or nothing arrives any more.
    fn drain(&mut self, messages: &Messages) -> Result<(), Broken> {
        let expected = self.expected_deliveries();
        self.watch.begin("drain", expected);
        let patience = duration(messages.drain);
        let mut last = (Counts::default(), Instant::now());
        let arrived = |counts: &Counts| {
            counts.delivered >= expected && (!messages.receipts || counts.receipts >= counts.sent)
        };
        self.crew.wait_until(&mut self.watch, Duration::MAX, |counts| {
            if (counts.delivered, counts.receipts) != (last.0.delivered, last.0.receipts) {
                last = (*counts, Instant::now());
            }
            arrived(counts) || last.1.elapsed() >= patience
        })?;
        self.crew.wait_until(&mut self.watch, AFTERMATH, |_| false)?;
        Ok(())
    }

    /// Messages sent to each room times its members that read; clients that failed are not subtracted.
    fn expected_deliveries(&self) -> u64 {
        let setup = &self.setup;
        let mut members = vec![0u64; setup.sent.len()];
        for client in (0..setup.plan.connections).filter(|client| !setup.is_deaf(*client)) {
            members[setup.room(client) as usize] += 1;
        }
        setup
            .sent
            .iter()
            .zip(members)
            .map(|(sent, members)| u64::from(sent.load(Ordering::Relaxed)) * members)
            .sum()
    }
}

fn account(
    notices: Vec<Notice>,
    counts: Counts,
    asked: u64,
    sending_s: f64,
    messages: &Messages,
) -> report::Chat {
    let mut sum = ChatTally::default();
    // By room: the order of the first thread that tells, and whether all others saw the same.
    let mut orders: HashMap<u32, (Digest, bool)> = HashMap::new();
    for notice in notices {
        let Notice::Tally(tally) = notice else { continue };
        sum.subscribers += tally.subscribers;
        sum.expected += tally.expected;
        sum.received += tally.received;
        sum.lost += tally.lost;
        sum.duplicated += tally.duplicated;
        sum.out_of_order += tally.out_of_order;
        sum.corrupted += tally.corrupted;
        sum.foreign += tally.foreign;
        sum.subscribers_affected += tally.subscribers_affected;
        for (room, digest) in tally.rooms {
            let (first, agrees) = orders.entry(room).or_insert((digest, true));
            *agrees &= *first == digest;
        }
    }
    report::Chat {
        messages_asked: asked,
        messages_sent: counts.sent,
        messages_unsent: counts.unsent,
        rate_asked_per_s: messages.window.is_none().then_some(messages.rate),
        window: messages.window,
        in_flight_max: messages.in_flight,
        busy_poll: messages.busy_poll,
        rate_sent_per_s: if sending_s > 0.0 { counts.sent as f64 / sending_s } else { 0.0 },
        payload_bytes: messages.payload.max(crate::payload::BYTES_MIN),
        rooms: orders.len() as u64,
        subscribers: sum.subscribers,
        deliveries_expected: sum.expected,
        deliveries_received: sum.received,
        lost: sum.lost,
        duplicated: sum.duplicated,
        out_of_order: sum.out_of_order,
        corrupted: sum.corrupted,
        foreign: sum.foreign,
        subscribers_affected: sum.subscribers_affected,
        rooms_in_two_orders: orders.values().filter(|(_, agrees)| !agrees).count() as u64,
        receipts_asked: if messages.receipts { counts.sent } else { 0 },
        receipts_received: counts.receipts,
        latency_ms: report::Latency::default(),
        cpu: None,
        deaf: Vec::new(),
    }
}
