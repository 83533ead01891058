//! What a delivery costs in a room whose members do not all stay: beside joins and leaves, and beside resets.
//!
//! In each the room is published to at a steady pace, by a simulator that never sleeps: how often it had to be woken, and so
//! what that costs the server, would depend on the guests beside it. The same guests are there on both sides, and do nothing on
//! one. What the server spends on them is a part of what a delivery costs.
//!
//! Invariant: every number is of a chat that lost nothing; of guests that reset their connections nothing is known.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::beside::{self, Act, ROOM};
use super::rotation::Rotation;
use super::{Args, SPARE};
use crate::guests::Guests;
use crate::guests::Heard;
use crate::load::{self, Numbers, Serving};
use crate::process::{NoRun, Programs, on_core};
use crate::scrape;

/// Messages a second to the room of which members come and go.
pub const TURNOVER_RATE: u32 = 1;
/// Joins a second, and leaves.
pub const JOINS: u32 = 100;
/// How long one stays.
const STAY: Duration = Duration::from_secs(2);
/// Messages a second to the room of which members break off.
pub const RESETS_RATE: u32 = 10;
/// Time between two looks at whether all members are there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the guests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Nothing.
    None,
    /// They come and go, or break off.
    Some,
}

impl Side {
    /// Both, as they alternate.
    pub const ALL: [Side; 2] = [Side::None, Side::Some];
}

/// What one round has shown.
#[derive(Debug, Serialize)]
pub struct Round {
    /// What the guests did.
    pub side: Side,
    /// Of the chat; a delivery is one to a member of either kind.
    pub numbers: Numbers,
    /// Joins, or resets, of the whole run, setting up included.
    pub done: u64,
}

/// One round of a room in which guests join and leave.
///
/// # Errors
/// A run that does not fit, or has failed in any way.
pub fn turnover(programs: &Programs, args: &Args, side: Side) -> Result<Round, NoRun> {
    let count = Rotation::guests(JOINS, STAY);
    // As many reactors as it takes descriptor tables.
    let serving = Serving { capacity: args.large_members + count + SPARE, reactors: None, settings: &[] };
    let mut server = load::start(programs, args.cores, serving)?;
    let address = server.address()?;
    let mut guests = on_core(args.cores.client_core, || Guests::connect(address, count))?;
    let joins = if side == Side::Some { u64::MAX } else { 0 };
    let mut act = Rotation::new(0..count, JOINS, joins, STAY);
    let options =
        format!("--hold 2 --busy-poll --rate {TURNOVER_RATE} --duration {} --drain 20", args.duration);
    let what = (args.large_members, &*options);
    let run = beside::chat(programs, args.cores, &server, what, &mut guests, &mut act)?;
    let numbers = with_guests(load::of_run(&mut server, &run)?, act.deliveries);
    Ok(Round { side, numbers, done: act.joins_ms.len() as u64 })
}

/// One round of a room in which a guest resets its connection with each message.
///
/// # Errors
/// A run that does not fit, or has failed in any way.
pub fn resets(programs: &Programs, args: &Args, side: Side) -> Result<Round, NoRun> {
    let messages = (f64::from(RESETS_RATE) * args.duration).round() as u32;
    let members = args.members.saturating_sub(1 + messages).max(1);
    let capacity = members + 1 + messages + SPARE;
    let serving = Serving { capacity, reactors: Some(1), settings: &[] };
    let mut server = load::start(programs, args.cores, serving)?;
    let address = server.address()?;
    // Half of those who break off are among the first members of the room, and half among the last.
    let early = (0..=messages).filter(|n| *n == 0 || n % 2 == 1);
    let mut guests = on_core(args.cores.client_core, || {
        let mut guests = Guests::connect(address, 1 + messages)?;
        guests.join_all(early.clone(), ROOM)?;
        Ok::<Guests, String>(guests)
    })?;
    let before_late = u64::from(members) + early.count() as u64;
    let mut act = Resets {
        are_there: Box::new(move || Ok(scrape::metric(address, "subscriptions")? >= before_late)),
        look: Instant::now(),
        late: (2..=messages).step_by(2).collect(),
        per_message: u32::from(side == Side::Some),
        messages: 0,
        done: 0,
        deliveries: 0,
    };
    let options =
        format!("--hold 2 --busy-poll --rate {RESETS_RATE} --duration {} --drain 20", args.duration);
    let what = (members, &*options);
    let run = beside::chat(programs, args.cores, &server, what, &mut guests, &mut act)?;
    if !act.late.is_empty() {
        return Err(NoRun::Broken("the room was published to before all members were there".to_owned()));
    }
    let numbers = with_guests(load::of_run(&mut server, &run)?, act.deliveries);
    Ok(Round { side, numbers, done: act.done.into() })
}

/// The numbers of a chat in which guests have had deliveries, too.
fn with_guests(numbers: Numbers, deliveries: u64) -> Numbers {
    let all = numbers.deliveries + deliveries;
    let part = numbers.deliveries as f64 / all as f64;
    Numbers {
        deliveries: all,
        cpu_us_per_delivery: numbers.cpu_us_per_delivery * part,
        simulator_us_per_delivery: numbers.simulator_us_per_delivery * part,
        ..numbers
    }
}

/// Guest 0 stays. The others break off one by one, as it hears messages.
struct Resets {
    /// Whether all other members are there.
    are_there: Box<dyn FnMut() -> Result<bool, String>>,
    look: Instant,
    /// Those who join last.
    late: Vec<u32>,
    /// Resets for each message.
    per_message: u32,
    messages: u32,
    done: u32,
    deliveries: u64,
}

impl Act for Resets {
    fn act(&mut self, guests: &mut Guests) -> Result<Option<Instant>, String> {
        while self.done < (self.messages * self.per_message).min(guests.count() - 1) {
            self.done += 1;
            guests.reset(self.done)?;
        }
        let now = Instant::now();
        if self.late.is_empty() || self.messages > 0 {
            return Ok(None);
        }
        if self.look <= now {
            self.look = now + LOOK_EVERY;
            if (self.are_there)()? {
                self.late.drain(..).try_for_each(|n| guests.join(n, ROOM))?;
            }
        }
        Ok(Some(self.look))
    }

    fn hear(&mut self, n: u32, heard: &Heard<'_>) -> Result<(), String> {
        if let Heard::Message { .. } = heard {
            self.deliveries += 1;
            self.messages += u32::from(n == 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests::costing;

    #[test]
    fn a_delivery_to_a_guest_is_one() {
        let alone = costing(12.0);
        let deliveries = alone.deliveries;
        let both = with_guests(alone, deliveries / 2);
        assert_eq!(both.deliveries, deliveries * 3 / 2);
        assert!((both.cpu_us_per_delivery - 8.0).abs() < 1e-9, "{both:?}");
    }

    #[test]
    fn messages_are_counted_once_and_deliveries_all() {
        let mut resets = Resets {
            are_there: Box::new(|| Ok(true)),
            look: Instant::now(),
            late: Vec::new(),
            per_message: 1,
            messages: 0,
            done: 0,
            deliveries: 0,
        };
        for n in [1, 0, 2] {
            resets.hear(n, &Heard::Message { sequence: 1, body: b"" }).unwrap();
        }
        assert_eq!((resets.messages, resets.deliveries), (1, 3));
    }
}
