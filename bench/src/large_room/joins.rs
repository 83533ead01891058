//! How long a SUBSCRIBE waits for its RECEIPT: of clients that join one after the other, and of many that join at once, in a
//! room that is quiet and in one that is published to.
//!
//! All of them are connected before, so that nothing but the subscription is measured. Those who come one after the other leave
//! again after a second, and the room stays as large as it is. Members and those who join are read by one thread, and it looks at
//! those who join first: else a receipt would wait for the clients' core more often than for the server.
//!
//! Invariant: every member has heard every message, or there is no result.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tcbchat_bench::percentile;

use super::beside::{Act as _, ROOM};
use super::rotation::Rotation;
use super::{Args, SPARE};
use crate::guests::Heard;
use crate::guests::{Guests, JOINED};
use crate::load::{self, Serving};
use crate::process::{NoRun, Programs, on_core};
use crate::scrape;

/// Messages a second to the room.
pub const RATE: u32 = 20;
/// Joins a second, one after the other: no multiple of [`RATE`], so that they come at all times between two messages.
pub const JOINS: u32 = 101;
/// How long each of these stays.
const STAY: Duration = Duration::from_secs(1);
/// Bytes of a message's body.
const BODY_BYTES: usize = 128;
/// How long the room is published to before the first join.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long all may hear nothing while they wait for something.
const PATIENCE: Duration = Duration::from_secs(10);

/// What happens in the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Nothing.
    Quiet,
    /// Messages, [`RATE`] a second.
    Published,
}

impl Side {
    /// Both, as they alternate.
    pub const ALL: [Side; 2] = [Side::Quiet, Side::Published];

    /// For a table.
    pub fn name(self) -> String {
        match self {
            Side::Quiet => "nothing".to_owned(),
            Side::Published => format!("{RATE} messages a second"),
        }
    }
}

/// What one round has shown.
#[derive(Debug, Serialize)]
pub struct Round {
    /// What happened in the room.
    pub side: Side,
    /// Joins one after the other.
    pub joins: usize,
    /// From a SUBSCRIBE to its RECEIPT, milliseconds.
    pub join_p50_ms: f64,
    /// See `join_p50_ms`.
    pub join_p99_ms: f64,
    /// See `join_p50_ms`.
    pub join_max_ms: f64,
    /// From the first SUBSCRIBE of those who join at once to the last RECEIPT, milliseconds.
    pub at_once_ms: f64,
    /// Messages that every member has heard.
    pub messages: u32,
    /// How much of its core the server used while others joined one after the other.
    pub server_busy_percent: f64,
}

/// One round of a side.
///
/// # Errors
/// A run that does not fit, or has failed in any way.
pub fn measure(programs: &Programs, args: &Args, side: Side) -> Result<Round, NoRun> {
    let rotating = 1..1 + Rotation::guests(JOINS, STAY);
    let capacity = args.members + rotating.end + args.at_once + SPARE;
    let serving = Serving { capacity, reactors: Some(1), settings: &[] };
    let mut server = load::start(programs, args.cores, serving)?;
    let (address, pid) = (server.address()?, server.pid());
    let joins = (f64::from(JOINS) * args.duration).round() as u64;
    let rotation = Rotation::new(rotating, JOINS, joins, STAY);
    let round = on_core(args.cores.client_core, || join(address, pid, args, side, rotation))?;
    match server.ended() {
        Some(status) => Err(NoRun::Broken(format!("the server has ended: {status}"))),
        None => Ok(round),
    }
}

fn join(
    address: SocketAddr,
    pid: u32,
    args: &Args,
    side: Side,
    mut rotation: Rotation,
) -> Result<Round, String> {
    let first_at_once = rotation.end();
    let mut hall = Hall::open(address, args.members, first_at_once + args.at_once, side)?;
    let begin = Instant::now() + WARM_UP;
    while Instant::now() < begin {
        hall.turn(begin, &mut |_, _| Ok(()))?;
    }

    let (since, cpu_before) = (Instant::now(), scrape::cpu_s(pid)?);
    rotation.begin();
    while !rotation.is_over() {
        if since.elapsed().as_secs_f64() > args.duration + (STAY + PATIENCE).as_secs_f64() {
            return Err(format!("some of those who joined have no receipt after {PATIENCE:?}"));
        }
        let next = rotation.act(&mut hall.joining)?.unwrap_or_else(|| Instant::now() + STAY);
        hall.turn(next, &mut |n, heard| rotation.hear(n, heard))?;
    }
    let server_busy_percent = (scrape::cpu_s(pid)? - cpu_before) / since.elapsed().as_secs_f64() * 100.0;

    let (at_once, mut awaited) = (Instant::now(), args.at_once);
    (first_at_once..hall.joining.count()).try_for_each(|n| hall.joining.join(n, ROOM))?;
    while awaited > 0 {
        if at_once.elapsed() > PATIENCE {
            return Err(format!("{awaited} of {} who joined at once have no receipt", args.at_once));
        }
        hall.turn(at_once + PATIENCE, &mut |_, heard| {
            awaited -= u32::from(*heard == Heard::Receipt(JOINED));
            Ok(())
        })?;
    }
    let at_once_ms = at_once.elapsed().as_secs_f64() * 1e3;

    hall.every = None;
    hall.hear_all()?;
    let of = |percent| percentile(&rotation.joins_ms, percent).ok_or("nobody has joined".to_owned());
    Ok(Round {
        side,
        joins: rotation.joins_ms.len(),
        join_p50_ms: of(50.0)?,
        join_p99_ms: of(99.0)?,
        join_max_ms: of(100.0)?,
        at_once_ms,
        messages: hall.published,
        server_busy_percent,
    })
}

/// The room: its members, and those who join, of whom the first only publishes.
struct Hall {
    members: Guests,
    joining: Guests,
    send: String,
    /// Time between two messages, if there are any.
    every: Option<Duration>,
    /// When the next one is due.
    next: Instant,
    published: u32,
    /// Messages that members have heard.
    deliveries: u64,
}

impl Hall {
    fn open(address: SocketAddr, members: u32, joining: u32, side: Side) -> Result<Hall, String> {
        let (mut members, joining) = (Guests::connect(address, members)?, Guests::connect(address, joining)?);
        members.join_all(0..members.count(), ROOM)?;
        Ok(Hall {
            members,
            joining,
            send: format!("SEND\ndestination:{ROOM}\n\n{}\0", "x".repeat(BODY_BYTES)),
            every: (side == Side::Published).then_some(Duration::from_secs(1) / RATE),
            next: Instant::now(),
            published: 0,
            deliveries: 0,
        })
    }

    /// Publishes what is due, and hears some of what there is, at the latest at `then` or when a message is due. What those who
    /// join hear is told.
    fn turn(
        &mut self,
        then: Instant,
        hear: &mut impl FnMut(u32, &Heard<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let now = Instant::now();
        let mut until = then;
        if let Some(every) = self.every {
            if self.next <= now {
                self.joining.say(0, &self.send)?;
                self.published += 1;
                self.next += every;
            }
            until = until.min(self.next);
        }
        let Hall { members, joining, deliveries, .. } = self;
        joining.wait_for_either(members, until.saturating_duration_since(now))?;
        joining.turn(Duration::ZERO, hear)?;
        members.turn(Duration::ZERO, &mut |_, heard| {
            *deliveries += u64::from(matches!(heard, Heard::Message { .. }));
            Ok(())
        })
    }

    /// Hears until every member has every message.
    fn hear_all(&mut self) -> Result<(), String> {
        let expected = u64::from(self.members.count()) * u64::from(self.published);
        let mut last = (self.deliveries, Instant::now());
        while self.deliveries < expected {
            self.turn(Instant::now() + PATIENCE, &mut |_, _| Ok(()))?;
            if self.deliveries > last.0 {
                last = (self.deliveries, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                return Err(format!("{} deliveries to members are missing", expected - self.deliveries));
            }
        }
        Ok(())
    }
}
