//! The forecast: what each wall says to N more connections.
//!
//! A pure function from a [`Snapshot`], a configuration and a number. Walls of two kinds come out:
//!
//! * those that *bound the number*: each connection takes a share of something of which there is so much,
//!   and so it is known where they stop;
//! * those that *shape the behaviour*: they stop nobody for good, but decide how fast connections come in,
//!   what one client can have, and what happens under load.
//!
//! N counts on top of what is in use at the moment of the snapshot: a server that runs already with half of
//! its connections needs only the other half.
//!
//! Invariant: [`Forecast::maximum`] is the largest number that fits, and a wall that could not be read stops
//! nothing.

use std::fmt;

use crate::config::Config;
use crate::config::machine::Machine;
use crate::config::plan::memory::USER_BYTES_EACH;
use crate::config::plan::{Descriptors, DoesNotFit, Plan, plan};
use crate::config::procfs::Unreadable;

use super::probe::Snapshot;
pub use fix::{Fix, Stay};

mod behaviour;
mod count;
mod fix;

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

/// What N connections cost in memory while they are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryForecast {
    /// Bytes of the server for each connection.
    pub user_bytes_each: u64,
    /// Bytes of the kernel for each connection, at this end of it.
    pub kernel_bytes_each: u64,
    /// Whether the kernel's bytes are this kernel's own object sizes, or the usual ones.
    pub is_kernel_read: bool,
    /// Bytes of the server for all, with what does not depend on their number.
    pub user_bytes: u64,
    /// Bytes of the kernel for all.
    pub kernel_bytes: u64,
    /// Bytes when every bound on what is under way is reached at once.
    pub bytes_max: u64,
}

/// What the walls say to N connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// N.
    pub connections: u32,
    /// What the server would start for them.
    pub plan: Result<Plan, DoesNotFit>,
    /// The walls: those that bound the number, the lowest first; then the others, by catalogue.
    pub walls: Vec<Wall>,
    /// The most connections that this server could hold here, and what stops it there.
    pub maximum: Bound,
    /// The lowest wall of all, before the server does anything about it.
    pub lowest: Bound,
    /// Memory of N connections.
    pub memory: MemoryForecast,
}

impl Forecast {
    /// What the walls of this machine say to `connections` under this configuration.
    pub fn new(snapshot: &Snapshot, config: &Config, connections: u32) -> Self {
        let context = Context::new(snapshot, config, connections);
        let mut walls = context.count_walls();
        walls.sort_by_key(|wall| wall.stops_at.unwrap_or(u64::MAX));
        let lowest = walls.first().map_or(NOTHING_READ, |wall| Bound {
            connections: wall.stops_at.unwrap_or(u64::from(CONNECTIONS_MAX)),
            wall: wall.id,
        });
        walls.extend(context.behaviour_walls());
        let memory = context.memory();
        Self { connections, plan: context.plan, walls, maximum: maximum(snapshot, config), lowest, memory }
    }

    /// Whether no wall is lower than N.
    pub fn fits(&self) -> bool {
        self.walls.iter().all(|wall| wall.verdict != Verdict::Below)
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

/// The number of connections that the configuration asks for on this machine: the one it says, or the one
/// that the plan takes when it says none.
pub fn connections_configured(snapshot: &Snapshot, config: &Config) -> u32 {
    match plan(config, &snapshot.machine()) {
        Ok(plan) => plan.tcb.capacity,
        Err(error) => error.capacity,
    }
    .clamp(1, CONNECTIONS_MAX)
}

/// The largest number that fits, and the wall in the way of the next one.
fn maximum(snapshot: &Snapshot, config: &Config) -> Bound {
    let stopped_by = |connections| {
        let walls = Context::new(snapshot, config, connections).count_walls();
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

/// What the walls are computed from.
struct Context<'a> {
    snapshot: &'a Snapshot,
    /// The configuration, for N connections.
    config: Config,
    /// The capacity that was configured; 0 is none.
    capacity: u32,
    /// N.
    connections: u64,
    machine: Machine,
    plan: Result<Plan, DoesNotFit>,
    /// Reactors of the plan, or those that it would take.
    reactors: u32,
    descriptors: Descriptors,
}

impl<'a> Context<'a> {
    fn new(snapshot: &'a Snapshot, config: &Config, connections: u32) -> Self {
        let mut config = config.clone();
        let capacity = std::mem::replace(&mut config.tcb.limits.capacity, connections.max(1));
        let machine = snapshot.machine();
        let mut descriptors = Descriptors::new(&config, &machine);
        let mut plan = plan(&config, &machine);
        if snapshot.private_tables == Some(false) {
            descriptors.private_tables = 0;
            // With one table this is as far as it goes.
            if let Ok(Plan { private_fd_tables: true, reactors, .. }) = plan {
                plan = Err(DoesNotFit {
                    capacity: connections,
                    reactors,
                    fits: descriptors.one_table,
                    fd_limit: machine.fd_limit,
                    reserve: machine.fd_limit.saturating_sub(descriptors.one_table),
                    reactors_needed: None,
                    fd_limit_needed: u64::from(connections)
                        + machine.fd_limit.saturating_sub(descriptors.one_table),
                });
            }
        }
        let reactors = match &plan {
            Ok(plan) => plan.reactors,
            Err(error) => error.reactors_needed.unwrap_or(machine.cores),
        };
        let connections = u64::from(connections);
        Self { snapshot, config, capacity, connections, machine, plan, reactors, descriptors }
    }

    /// Bytes of the server that do not depend on the number of connections, while they are idle.
    fn user_bytes_fixed(&self) -> u64 {
        let each = u64::from(self.config.turn.read_bytes_max) + self.config.buffers.reactor_bytes_kept_max;
        u64::from(self.reactors).saturating_mul(each)
    }

    fn memory(&self) -> MemoryForecast {
        let (kernel_bytes_each, is_kernel_read) = self.snapshot.kernel_bytes_each();
        let kernel_bytes = self.connections.saturating_mul(kernel_bytes_each);
        let user_bytes = self.connections * USER_BYTES_EACH + self.user_bytes_fixed();
        MemoryForecast {
            user_bytes_each: USER_BYTES_EACH,
            kernel_bytes_each,
            is_kernel_read,
            user_bytes,
            kernel_bytes,
            bytes_max: match &self.plan {
                Ok(plan) => plan.memory.bytes_max(),
                Err(_) => user_bytes.saturating_add(kernel_bytes),
            },
        }
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
