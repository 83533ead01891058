//! The forecast: what each wall says to N more connections.
//!
//! A pure function from a [`Snapshot`], a configuration and a number. Walls of two kinds come out:
//!
//! * those that *bound the number*: each connection takes a share of something of which there is so much,
//!   and so it is known where they stop;
//! * those that *shape the behaviour*: they stop nobody for good, but decide how fast connections come in,
//!   what one client can have, and what happens under load.
//!
//! The forecast is of what `serve` does here with this configuration: its plan comes from the same function
//! ([`Question::start`]), and if `serve` would not start, that is the forecast. What could be had with another
//! `tcb.capacity` is a second number.
//!
//! A number that was asked for counts on top of what is in use at the moment of the snapshot. Without one, the
//! configuration's capacity is judged, of which the connections of a server that runs already are a part.
//!
//! Invariant: [`Forecast::maximum`] is where the server stops, or 0 if it does not start; and a wall that could not be
//! read stops nothing.

use std::fmt;

use crate::config::Config;
use crate::config::machine::Machine;
use crate::config::plan::{Descriptors, DoesNotFit, Plan, plan};
use crate::config::procfs::Unreadable;

use super::probe::Snapshot;
use super::running::Running;
pub use fix::{Fix, Stay};
pub use memory::MemoryForecast;

mod behaviour;
mod count;
mod fix;
mod memory;

/// The largest number of connections that can be asked for: what the TCB table can be configured to hold.
pub const CONNECTIONS_MAX: u32 = 16_777_214;

/// What a wall says to N connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is room.
    Fits,
    /// There is room, but less than a tenth of it is left.
    Tight,
    /// It is lower than N, but not for this server, which gets past it by itself.
    Passed,
    /// It is lower than N: the connections past it are refused or never arrive.
    Below,
    /// It stops nobody, but is felt; the wall's effect says how.
    Notice,
    /// It could not be read.
    Unreadable,
}

impl Verdict {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Tight => "tight",
            Self::Passed => "passed",
            Self::Below => "below",
            Self::Notice => "notice",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What a wall does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It bounds the number of connections.
    Count,
    /// It shapes how they behave.
    Behaviour,
}

/// One wall on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wall {
    /// Its name in reports; fixed, so that a script can look for it.
    pub id: &'static str,
    /// The row of the catalogue that it belongs to.
    pub row: &'static str,
    /// The knob, as the system calls it.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it counts in: descriptors, bytes, ...
    pub unit: &'static str,
    /// The limit; `None` if there is none.
    pub limit: Option<u64>,
    /// What is used of it; `None` if nobody tells.
    pub in_use: Option<u64>,
    /// What N connections take of it.
    pub needed: Option<u64>,
    /// Connections at which it stops a server that does nothing about it; `None` if at no number.
    pub stops_at: Option<u64>,
    /// Connections at which it stops this server, which does something about it.
    pub passed_until: Option<u64>,
    /// The verdict on N connections.
    pub verdict: Verdict,
    /// What it means, in a sentence or two.
    pub effect: String,
    /// What moves it; only of a wall that is in the way.
    pub fix: Option<Fix>,
}

impl Wall {
    /// What is left of the limit with N connections; below zero is what is missing.
    pub fn headroom(&self) -> Option<i128> {
        let taken = i128::from(self.in_use.unwrap_or(0)) + i128::from(self.needed?);
        Some(i128::from(self.limit?) - taken)
    }

    /// Connections at which it stops this server.
    pub fn holds(&self) -> Option<u64> {
        self.passed_until.or(self.stops_at)
    }
}

/// A number of connections and the wall that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Connections that get in.
    pub connections: u64,
    /// The wall's id.
    pub wall: &'static str,
}

/// Why `serve` would not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The wall in its way.
    pub wall: &'static str,
    /// What it would say, or what it would meet.
    pub reason: String,
    /// What moves that, if it can be moved.
    pub fix: Option<Fix>,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The machine.
    pub snapshot: &'a Snapshot,
    /// What `serve` would be started with.
    pub config: &'a Config,
    /// The server that runs already, if it is that one that is to hold the connections.
    pub running: Option<&'a Running>,
    /// Connections that are to fit on top of what is in use; `None` is the capacity, what is in use of it included.
    pub connections: Option<u32>,
}

impl Question<'_> {
    /// What `serve` starts with, or why it does not start: the one function that both it and the doctor ask.
    ///
    /// # Errors
    /// That a limit cannot be read, or that the descriptors do not hold the capacity asked for.
    pub fn start(&self) -> Result<Plan, Refusal> {
        let machine = self.snapshot.machine().map_err(|error| Refusal {
            wall: if error.path == "/proc/meminfo" { "memory" } else { "nr-open" },
            reason: format!("cannot read this machine's limits: {error}"),
            fix: Some(Fix::visible_proc()),
        })?;
        plan(&self.config_in_force(), &machine).map_err(|error| Refusal {
            wall: "fd-table",
            reason: error.to_string(),
            fix: Some(fix::descriptors(&error, self.snapshot.nr_open.as_ref().ok().copied())),
        })
    }

    /// The configuration, with what a running server was started with where that is known.
    fn config_in_force(&self) -> Config {
        let mut config = self.config.clone();
        if let Some(running) = self.running {
            if let Some(capacity) =
                running.number("tcb_capacity").and_then(|capacity| u32::try_from(capacity).ok())
            {
                config.tcb.limits.capacity = capacity;
            }
            config.reactors.count = running.reactors;
        }
        config
    }

    /// Connections that are open already.
    fn open(&self) -> u64 {
        self.running.and_then(Running::open).unwrap_or(0)
    }
}

/// What the walls say to N connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// N.
    pub connections: u32,
    /// Whether N counts on top of the connections that are open.
    pub is_on_top: bool,
    /// What `serve` starts with this configuration, or why it does not start.
    pub start: Result<Plan, Refusal>,
    /// What the server would start for N.
    pub plan: Result<Plan, DoesNotFit>,
    /// The walls: those that bound the number, the lowest first; then the others, by catalogue.
    pub walls: Vec<Wall>,
    /// Where this server stops, and what stops it there; 0 if it does not start. Counted as N is.
    pub maximum: Bound,
    /// Where it would stop with the right `tcb.capacity`.
    pub possible: Bound,
    /// The lowest wall of all, before the server does anything about it.
    pub lowest: Bound,
    /// Memory of N connections.
    pub memory: MemoryForecast,
}

impl Forecast {
    /// The answer.
    pub fn new(question: &Question<'_>) -> Self {
        let start = question.start();
        // A server that does not start has no capacity; its walls are judged for the number all the same.
        let capacity = start.as_ref().map_or(Capacity::Open, |plan| Capacity::Of(plan.tcb.capacity.into()));
        let connections = question.connections.unwrap_or_else(|| {
            match plan(&question.config_in_force(), &question.snapshot.machine_or_default()) {
                Ok(plan) => plan.tcb.capacity,
                Err(error) => error.capacity.clamp(1, CONNECTIONS_MAX),
            }
        });
        let (start, maximum) = match start {
            Ok(plan) => maximum(question, plan),
            Err(refusal) => {
                let wall = refusal.wall;
                (Err(refusal), Bound { connections: 0, wall })
            }
        };
        let context = Context::new(question, connections.into(), capacity);
        let mut walls = context.count_walls();
        walls.sort_by_key(|wall| wall.stops_at.unwrap_or(u64::MAX));
        let lowest = walls.first().map_or(NOTHING_READ, |wall| Bound {
            connections: wall.stops_at.unwrap_or(u64::from(CONNECTIONS_MAX)),
            wall: wall.id,
        });
        walls.extend(context.behaviour_walls());
        let memory = context.memory();
        Self {
            connections,
            is_on_top: question.connections.is_some(),
            start,
            plan: context.plan,
            walls,
            maximum,
            possible: possible(question),
            lowest,
            memory,
        }
    }

    /// Whether the server starts, and no wall is lower than N.
    pub fn fits(&self) -> bool {
        self.start.is_ok() && self.walls.iter().all(|wall| wall.verdict != Verdict::Below)
    }

    /// The lowest of the walls that are in the way of N connections.
    pub fn in_the_way(&self) -> Option<&Wall> {
        let below = self.walls.iter().filter(|wall| wall.verdict == Verdict::Below);
        below.min_by_key(|wall| wall.holds().unwrap_or(u64::MAX))
    }

    /// The wall of this id.
    pub fn wall(&self, id: &str) -> Option<&Wall> {
        self.walls.iter().find(|wall| wall.id == id)
    }
}

/// The bound when there is no wall to say one.
const NOTHING_READ: Bound = Bound { connections: CONNECTIONS_MAX as u64, wall: "tcb-capacity" };

/// Where a server with this plan stops. One that cannot start its threads does not start.
fn maximum(question: &Question<'_>, plan: Plan) -> (Result<Plan, Refusal>, Bound) {
    let capacity = u64::from(plan.tcb.capacity);
    let context = Context::new(question, capacity.saturating_add(1), Capacity::Served(&plan));
    let walls = context.count_walls();
    let lowest = walls.iter().filter_map(|wall| Some((wall.holds()?, wall)));
    // A capacity that was taken from a limit is refused by the server, before the limit is met.
    let lowest = lowest.min_by_key(|(holds, wall)| (*holds, wall.id != "tcb-capacity"));
    let Some((connections, wall)) = lowest else { return (Ok(plan), NOTHING_READ) };
    let bound = Bound { connections, wall: wall.id };
    let is_needed_to_start = wall.unit == "threads" || matches!(wall.id, "data-limit" | "address-space");
    if connections == 0 && is_needed_to_start && question.running.is_none() {
        let (id, fix) = (wall.id, wall.fix.clone());
        let reason = format!(
            "it cannot start its {} threads: {} leaves {} {}",
            u64::from(plan.reactors) + question.config.threads_beside_reactors(),
            wall.name,
            wall.limit.unwrap_or(0).saturating_sub(wall.in_use.unwrap_or(0)),
            wall.unit,
        );
        return (Err(Refusal { wall: id, reason, fix }), bound);
    }
    (Ok(plan), bound)
}

/// The largest number that fits with the `tcb.capacity` for it, and the wall in the way of the next one.
fn possible(question: &Question<'_>) -> Bound {
    let stopped_by = |connections: u32| {
        let walls = Context::new(question, connections.into(), Capacity::Open).count_walls();
        let below = walls.into_iter().filter(|wall| wall.verdict == Verdict::Below);
        below.min_by_key(|wall| wall.holds().unwrap_or(u64::MAX)).map(|wall| wall.id)
    };
    // More connections never need less of anything, so the border is found by halving.
    let (mut fits, mut stops) = (0, CONNECTIONS_MAX + 1);
    let mut wall = NOTHING_READ.wall;
    while stops - fits > 1 {
        let middle = fits + (stops - fits) / 2;
        match stopped_by(middle) {
            Some(id) => (stops, wall) = (middle, id),
            None => fits = middle,
        }
    }
    Bound { connections: u64::from(fits), wall }
}

/// Which `tcb.capacity` the walls are judged with.
#[derive(Debug, Clone, Copy)]
enum Capacity<'a> {
    /// That of this plan, which is judged whatever the number.
    Served(&'a Plan),
    /// This one; for a number above it, the walls are judged with the plan that it would take.
    Of(u64),
    /// Whatever the number needs.
    Open,
}

/// What the walls are computed from.
struct Context<'a> {
    snapshot: &'a Snapshot,
    running: Option<&'a Running>,
    /// The configuration, for N connections.
    config: Config,
    /// Places of the server's table as configured; `None` if that is not to be a wall.
    capacity: Option<u64>,
    /// N.
    connections: u64,
    /// Connections of N that are open already.
    standing: u64,
    machine: Machine,
    plan: Result<Plan, DoesNotFit>,
    /// Reactors of the plan, or those that it would take.
    reactors: u32,
    descriptors: Descriptors,
}

impl<'a> Context<'a> {
    fn new(question: &Question<'a>, connections: u64, of: Capacity<'_>) -> Self {
        let mut config = question.config_in_force();
        let machine = question.snapshot.machine_or_default();
        let open = question.open();
        let (standing, in_all) = match question.connections {
            Some(_) => (0, connections.saturating_add(open)),
            None => (open.min(connections), connections),
        };
        let in_all = u32::try_from(in_all).unwrap_or(u32::MAX).clamp(1, CONNECTIONS_MAX);
        let (plan, capacity) = match of {
            Capacity::Served(served) => (Ok(served.clone()), Some(u64::from(served.tcb.capacity))),
            Capacity::Of(capacity) => {
                if u64::from(in_all) > capacity {
                    config.tcb.limits.capacity = in_all;
                }
                (plan(&config, &machine), Some(capacity))
            }
            Capacity::Open => {
                config.tcb.limits.capacity = in_all;
                (plan(&config, &machine), None)
            }
        };
        let reactors = match &plan {
            Ok(plan) => plan.reactors,
            Err(error) => error.reactors_needed.unwrap_or(error.reactors),
        };
        let descriptors = Descriptors::new(&config, &machine);
        let (snapshot, running) = (question.snapshot, question.running);
        Self {
            snapshot,
            running,
            config,
            capacity,
            connections,
            standing,
            machine,
            plan,
            reactors,
            descriptors,
        }
    }

    /// Connections that are to come.
    fn coming(&self) -> u64 {
        self.connections.saturating_sub(self.standing)
    }

    /// A wall about which nothing is said yet.
    fn wall(id: &'static str, row: &'static str, name: &'static str, kind: Kind, unit: &'static str) -> Wall {
        Wall {
            id,
            row,
            name,
            kind,
            unit,
            limit: None,
            in_use: None,
            needed: None,
            stops_at: None,
            passed_until: None,
            verdict: Verdict::Fits,
            effect: String::new(),
            fix: None,
        }
    }

    /// The same wall, unreadable.
    fn unreadable(wall: Wall, error: &Unreadable) -> Wall {
        Wall { verdict: Verdict::Unreadable, effect: format!("cannot be read: {error}"), ..wall }
    }
}

/// A number as people read it: `1,048,576`.
#[derive(Debug, Clone, Copy)]
pub struct Grouped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Grouped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
        let mut grouped = sign.to_owned();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

#[cfg(test)]
mod tests;
