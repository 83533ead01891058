//! What a worker counts: failures, latencies, deliveries, and how each subscriber fared.
//!
//! Live numbers go into [`Counters`], which the crew reads while the run goes on; everything else is handed
//! over at the end ([`Tallies`]) or when asked ([`ChatTally`]).
//!
//! Invariant: a latency is measured from the intended time, not from the time something was got round to.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use super::seat::Seat;
use super::setup::Setup;
use super::window::Windows;
use crate::check::{Digest, RoomLog, Verdict};
use crate::failure::Tally;
use crate::payload::Stamp;
use crate::peer::script::HeartBeats;

/// The longest latency that is told apart: ten minutes.
const LATENCY_MAX_US: u64 = 600_000_000;

/// A histogram of microseconds with three significant digits.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that the crate accepts.
    let mut histogram =
        Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).unwrap_or_else(|error| panic!("{error}"));
    histogram.auto(false);
    histogram
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Live numbers of one worker; written by it, read by the crew.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64,)+ }

        /// The sum of [`Counters`] over the workers at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)+ }

        impl Counts {
            /// Adds the present numbers of one worker.
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.load(Ordering::Relaxed);)+
            }
        }
    };
}

counters! {
    /// Connects begun.
    started,
    /// Clients that are ready.
    open,
    /// Clients that became ready, ever.
    ready,
    /// Clients that failed.
    failed,
    /// Messages sent.
    sent,
    /// Messages that could not be sent, because nobody was there to send them.
    unsent,
    /// Messages received, duplicates not counted.
    delivered,
    /// Receipts of messages.
    receipts,
    /// Connections that were ended as they should be.
    cycles,
    /// Heart-beats sent.
    beats_sent,
    /// Heart-beats received.
    beats_received,
}

impl Counters {
    /// Adds to one of the numbers. There is one writer, so a load and a store suffice.
    pub(super) fn add(&self, which: impl Fn(&Self) -> &AtomicU64, count: u64) {
        let counter = which(self);
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Subtracts from one of the numbers.
    pub(super) fn sub(&self, which: impl Fn(&Self) -> &AtomicU64, count: u64) {
        let counter = which(self);
        counter.store(counter.load(Ordering::Relaxed).saturating_sub(count), Ordering::Relaxed);
    }
}

/// What a worker hands over at the end.
#[derive(Debug)]
pub struct Tallies {
    /// Clients that failed.
    pub failures: Tally,
    /// What became of the clients that did not read.
    pub deaf_failures: Tally,
    /// From the intended connect to the receipt of the subscription.
    pub setup_intended: Histogram<u64>,
    /// From the connect itself to the receipt of the subscription.
    pub setup_service: Histogram<u64>,
    /// From the intended send to the delivery.
    pub delivery: Histogram<u64>,
    /// Connections that the server ended first, after the close handshake.
    pub closed_by_server_first: u64,
    /// Connections that the client ended first.
    pub closed_by_client_first: u64,
    /// Connections that the server, when it ended, did not end in order.
    pub cut_off: u64,
    /// Cycles that could not start in time, because the population was full.
    pub cycles_late: u64,
}

/// How the subscribers of one worker fared.
#[derive(Debug, Default)]
pub struct ChatTally {
    /// Subscribers that stayed to the end.
    pub subscribers: u64,
    /// Messages that they should have got.
    pub expected: u64,
    /// Messages that they got.
    pub received: u64,
    /// Messages that they did not get.
    pub lost: u64,
    /// Deliveries of messages that they had already.
    pub duplicated: u64,
    /// Deliveries out of the room's order.
    pub out_of_order: u64,
    /// Bodies that were not what a client sends.
    pub corrupted: u64,
    /// Messages that were never sent to this room.
    pub foreign: u64,
    /// Subscribers with any of these.
    pub subscribers_affected: u64,
    /// The order of each room, for comparison with the other workers that have members in it.
    pub rooms: Vec<(u32, Digest)>,
}

/// The worker's accounts.
#[derive(Debug)]
pub struct Desk {
    /// The time of this turn.
    pub now_us: u64,
    pub(super) counters: Arc<Counters>,
    pub(super) failures: Tally,
    pub(super) deaf_failures: Tally,
    pub(super) heart_beats: HeartBeats,
    pub(super) closed_by_server_first: u64,
    pub(super) closed_by_client_first: u64,
    pub(super) cut_off: u64,
    pub(super) cycles_late: u64,
    setup_intended: Histogram<u64>,
    setup_service: Histogram<u64>,
    delivery: Histogram<u64>,
    /// Logs of the rooms from `first_room`; empty when nothing is checked (churn).
    rooms: Vec<RoomLog>,
    first_room: u32,
    /// What the rooms have in flight, in a closed loop; numbered as `rooms`.
    pub(super) windows: Option<Windows>,
    corrupted: u64,
    foreign: u64,
}

impl Desk {
    pub(super) fn new(counters: Arc<Counters>, share: Range<u32>, setup: &Setup) -> Self {
        let first_room = setup.room(share.start);
        let rooms = if share.is_empty() || setup.sent.is_empty() {
            0
        } else {
            setup.room(share.end - 1) - first_room + 1
        };
        Self {
            now_us: 0,
            counters,
            failures: Tally::default(),
            deaf_failures: Tally::default(),
            heart_beats: HeartBeats::default(),
            closed_by_server_first: 0,
            closed_by_client_first: 0,
            cut_off: 0,
            cycles_late: 0,
            setup_intended: histogram(),
            setup_service: histogram(),
            delivery: histogram(),
            rooms: (0..rooms).map(|_| RoomLog::default()).collect(),
            first_room,
            windows: None,
            corrupted: 0,
            foreign: 0,
        }
    }

    /// A client takes its place in a room; returns its index there.
    pub(super) fn join(&mut self, room: u32) -> u32 {
        self.log(room).map_or(0, RoomLog::join)
    }

    /// Opens a window of `width` messages for each room: its members of now are waited for.
    pub(super) fn open_windows(&mut self, width: u32, in_flight_max: u32) {
        let members = |log: &RoomLog| log.members().iter().filter(|member| member.counts()).count() as u32;
        self.windows = Some(Windows::new(width, in_flight_max, self.rooms.iter().map(members)));
    }

    /// A client is ready: how long did it take?
    pub(super) fn became_ready(&mut self, seat: &mut Seat) {
        self.counters.add(|counters| &counters.open, 1);
        self.counters.add(|counters| &counters.ready, 1);
        if let Some(start) = seat.start.take() {
            record(&mut self.setup_intended, self.now_us.saturating_sub(start.intended_us));
            record(&mut self.setup_service, self.now_us.saturating_sub(start.started_us));
        }
    }

    /// A client is gone, or no longer to be counted.
    pub(super) fn left(&mut self, seat: &Seat) {
        if let Some(log) = self.log(seat.room) {
            log.leave(seat.member);
        }
    }

    /// A client received a message.
    pub(super) fn deliver(&mut self, seat: &mut Seat, body: &[u8], setup: &Setup) {
        let Some(stamp) = Stamp::read(body, setup.payload_bytes) else {
            self.corrupted += 1;
            return;
        };
        if stamp.room != seat.room {
            self.foreign += 1;
            return;
        }
        if setup.is_deaf(seat.client) {
            // What a client reads after it was deaf for a while is no measure of anything.
            return;
        }
        seat.awaits_echo &= stamp.sender != seat.client;
        let now_us = setup.now_us();
        let place = seat.room.wrapping_sub(self.first_room) as usize;
        let Some(log) = self.rooms.get_mut(place) else {
            // Rooms of a churn are not checked: a client hears its own message, and that is all.
            record(&mut self.delivery, now_us.saturating_sub(stamp.intended_us));
            self.counters.add(|counters| &counters.delivered, 1);
            return;
        };
        if log.deliver(seat.member, stamp.id()) != Verdict::Duplicate {
            if let Some(windows) = &mut self.windows {
                windows.received(place as u32, log.members()[seat.member as usize].distinct());
            }
            record(&mut self.delivery, now_us.saturating_sub(stamp.intended_us));
            self.counters.add(|counters| &counters.delivered, 1);
        }
    }

    /// How each subscriber fared, against the senders' own count.
    pub(super) fn tally(&self, setup: &Setup) -> ChatTally {
        let mut tally =
            ChatTally { corrupted: self.corrupted, foreign: self.foreign, ..ChatTally::default() };
        for (room, log) in (self.first_room..).zip(&self.rooms) {
            let sent = u64::from(setup.sent[room as usize].load(Ordering::Relaxed));
            tally.rooms.push((room, log.digest()));
            tally.foreign += u64::from(log.digest().len).saturating_sub(sent);
            let members = log.members().iter().zip(log.disorder());
            for (member, late) in members.filter(|(member, _)| member.counts()) {
                let distinct = u64::from(member.distinct());
                let lost = sent.saturating_sub(distinct);
                let (twice, late) = (u64::from(member.duplicated()), u64::from(late));
                tally.subscribers += 1;
                tally.expected += sent;
                tally.received += distinct;
                tally.lost += lost;
                tally.duplicated += twice;
                tally.out_of_order += late;
                tally.subscribers_affected += u64::from(lost + twice + late > 0);
            }
        }
        tally
    }

    pub(super) fn into_tallies(self) -> Tallies {
        Tallies {
            failures: self.failures,
            deaf_failures: self.deaf_failures,
            setup_intended: self.setup_intended,
            setup_service: self.setup_service,
            delivery: self.delivery,
            closed_by_server_first: self.closed_by_server_first,
            closed_by_client_first: self.closed_by_client_first,
            cut_off: self.cut_off,
            cycles_late: self.cycles_late,
        }
    }

    fn log(&mut self, room: u32) -> Option<&mut RoomLog> {
        self.rooms.get_mut(room.wrapping_sub(self.first_room) as usize)
    }
}

fn record(histogram: &mut Histogram<u64>, latency_us: u64) {
    histogram.saturating_record(latency_us);
}
