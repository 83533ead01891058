//! The plan: how many reactors, how many descriptor tables, which capacity, how much memory.
//!
//! A pure function from the configuration and the machine; it reads and changes nothing. The wall it plans
//! around is the descriptor limit, which the kernel applies to each descriptor table: a process has one
//! table, unless a thread takes a private one (`unshare(CLONE_FILES)`). So:
//!
//! * as long as one table holds the capacity, all reactors share it, and there is one reactor per core;
//! * if it does not, each reactor gets a private table, and there are as many reactors as it takes.
//!
//! The kernel spreads connections over the reactors' listeners by a hash (`SO_REUSEPORT`), not evenly: the
//! number on one reactor is close to a binomial distribution, with a standard deviation of about the square
//! root of its mean. A private table is therefore planned to be filled in the mean only so far that
//! [`SPREAD_SIGMAS`] deviations still fit.
//!
//! Invariant: with a [`Plan`], the admission of connections is refused before a table runs out of
//! descriptors.

pub mod memory;

use std::fmt;

use super::Config;
use super::machine::Machine;
use crate::tcb::TableConfig;
use memory::Memory;

/// Standard deviations of the kernel's spread that a private table has room for: one table in three
/// million is expected to be too small.
pub const SPREAD_SIGMAS: f64 = 5.0;
/// Connections that are planned for at most when the configuration leaves the capacity open.
pub const DEFAULT_CAPACITY_MAX: u64 = 1_000_000;
/// Bytes that one connection is taken to need when the capacity is derived from the memory: about 4 KiB in
/// the kernel while it is idle, and as much again for what is under way.
pub const CAPACITY_BYTES_EACH: u64 = 8 * 1024;
/// Share of the memory, as a divisor, that such connections may take.
const CAPACITY_MEMORY_DIVISOR: u64 = 2;
/// Most reactors that a plan has; the upper end of `reactors.count`.
const REACTORS_MAX: u32 = 1024;
/// Descriptors of a process before it listens: standard streams, signal pipe, files opened for a moment.
const FDS_OF_PROCESS: u64 = 32;
/// Descriptors of one reactor in every table made after it: its epoll, a duplicate for registrations, its
/// wake-up.
const FDS_OF_REACTOR: u64 = 3;

/// Threads that every server has beside its reactors: the main thread, the one that waits for signals, and the log's.
/// [`Config::threads_beside_reactors`](super::Config::threads_beside_reactors) has those of its services, too.
pub const THREADS_OF_PROCESS: u64 = 3;

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Reactor threads.
    pub reactors: u32,
    /// Whether each reactor takes a descriptor table of its own.
    pub private_fd_tables: bool,
    /// Descriptors that one table may hold.
    pub fd_limit: u64,
    /// Connections that one reactor may hold before it refuses, whatever the TCB table says: what its
    /// descriptor table has room for.
    pub connections_per_reactor_max: u32,
    /// The TCB table; its capacity is the server's.
    pub tcb: TableConfig,
    /// What the memory is for.
    pub memory: Memory,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = match (self.private_fd_tables, self.reactors) {
            (true, _) => "a private descriptor table each".to_owned(),
            (false, 1) => "the process's descriptor table".to_owned(),
            (false, _) => "one descriptor table for all".to_owned(),
        };
        write!(
            f,
            "{} reactor{} with {tables} ({} descriptors), capacity {}, memory {}",
            self.reactors,
            if self.reactors == 1 { "" } else { "s" },
            self.fd_limit,
            self.tcb.capacity,
            self.memory,
        )
    }
}

/// A capacity that the machine's descriptors do not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoesNotFit {
    /// The capacity asked for.
    pub capacity: u32,
    /// The reactors that were asked for, or those that hold the most.
    pub reactors: u32,
    /// The capacity that would fit.
    pub fits: u64,
    /// Descriptors that one table may hold.
    pub fd_limit: u64,
    /// Descriptors of each table that are not for connections.
    pub reserve: u64,
    /// Reactors that would hold the capacity, if there is such a number.
    pub reactors_needed: Option<u32>,
    /// A descriptor limit that would hold the capacity in one table.
    pub fd_limit_needed: u64,
    /// Whether private tables would have been an answer, and a sandbox forbids them.
    pub lacks_private_tables: bool,
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tcb.capacity = {} does not fit: {} reactor{} hold{} {} connections with {} descriptors a table, {} of \
             them reserved; it takes ",
            self.capacity,
            self.reactors,
            if self.reactors == 1 { "" } else { "s" },
            if self.reactors == 1 { "s" } else { "" },
            self.fits,
            self.fd_limit,
            self.reserve,
        )?;
        if let Some(reactors) = self.reactors_needed {
            write!(f, "{reactors} reactors (reactors.count or --reactors), or ")?;
        }
        write!(f, "a descriptor limit of {} (ulimit -n, LimitNOFILE=)", self.fd_limit_needed)?;
        if self.lacks_private_tables {
            f.write_str(
                "; private descriptor tables, which would do without, are forbidden by a sandbox: unshare(CLONE_FILES) \
                 fails, as under Docker's default seccomp profile",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for DoesNotFit {}

/// Plans the reactors, descriptor tables and memory of a server.
///
/// # Errors
/// If the capacity asked for, or any at all, does not fit into the machine's descriptors.
pub fn plan(config: &Config, machine: &Machine) -> Result<Plan, DoesNotFit> {
    let tables = Tables::new(config, machine);
    let (start, most) = reactors(config, machine.cores);
    let capacity = match config.tcb.limits.capacity {
        0 => default_capacity(&tables, start, machine.memory_bytes),
        capacity => capacity,
    };

    let (reactors, private_fd_tables) = if capacity > 0 && u64::from(capacity) <= tables.shared(start) {
        (start, false)
    } else {
        let enough = |reactors: &u32| capacity > 0 && u64::from(capacity) <= tables.private(*reactors);
        match (start..=most).find(enough) {
            Some(reactors) => (reactors, true),
            None => return Err(does_not_fit(&tables, capacity.max(1), start, most)),
        }
    };

    let per_reactor = if private_fd_tables { tables.one_private(reactors) } else { tables.shared(reactors) };
    Ok(Plan {
        reactors,
        private_fd_tables,
        fd_limit: machine.fd_limit,
        connections_per_reactor_max: u32::try_from(per_reactor).unwrap_or(u32::MAX),
        tcb: table(config, capacity, machine.cores),
        memory: Memory::new(config, capacity, reactors),
    })
}

/// The table as configured; what is left open is sized from capacity and cores.
fn table(config: &Config, capacity: u32, cores: u32) -> TableConfig {
    let sized = TableConfig::sized(capacity, cores);
    let or = |configured: u32, sized: u32| if configured == 0 { sized } else { configured };
    let limits = &config.tcb.limits;
    let partitions = or(limits.partitions, sized.partitions);
    TableConfig {
        capacity,
        // Each partition has an index of its own, with at least one bucket.
        hash_buckets: or(limits.hash_buckets, sized.hash_buckets).max(partitions),
        partitions,
        time_wait: config.tcb.time_wait,
    }
}

/// What the cores' reactors hold, at most what the memory carries and [`DEFAULT_CAPACITY_MAX`].
fn default_capacity(tables: &Tables, reactors: u32, memory_bytes: u64) -> u32 {
    let by_descriptors = tables.shared(reactors).max(tables.private(reactors));
    let by_memory = memory_bytes / CAPACITY_MEMORY_DIVISOR / CAPACITY_BYTES_EACH;
    let capacity = by_descriptors.min(by_memory.max(1)).min(DEFAULT_CAPACITY_MAX);
    u32::try_from(capacity).unwrap_or(u32::MAX)
}

fn does_not_fit(tables: &Tables, capacity: u32, start: u32, most: u32) -> DoesNotFit {
    let wanted = u64::from(capacity);
    let (shared, (best, private)) = (tables.shared(start), tables.most_private(start, most));
    let reactors = if private > shared { best } else { start };
    DoesNotFit {
        capacity,
        reactors,
        fits: shared.max(private),
        fd_limit: tables.fd_limit,
        reserve: if private > shared { tables.reserve(reactors, 1) } else { tables.reserve(start, start) },
        reactors_needed: (1..=REACTORS_MAX).find(|reactors| wanted <= tables.private(*reactors)),
        fd_limit_needed: wanted + tables.reserve(start, start),
        lacks_private_tables: !tables.has_private,
    }
}

/// What descriptor tables hold, for whoever asks without planning for a capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// Connections that one table for all reactors holds.
    pub one_table: u64,
    /// Connections that private tables hold together with as many reactors as a plan may have.
    pub private_tables: u64,
}

impl Descriptors {
    /// What tables of this machine hold under this configuration.
    pub fn new(config: &Config, machine: &Machine) -> Self {
        let (start, most) = reactors(config, machine.cores);
        let tables = Tables::new(config, machine);
        Self { one_table: tables.shared(start), private_tables: tables.most_private(start, most).1 }
    }

    /// Connections that private tables hold together with at most so many reactors.
    pub fn with_reactors(config: &Config, machine: &Machine, reactors_max: u32) -> u64 {
        let (start, most) = reactors(config, machine.cores);
        Tables::new(config, machine).most_private(start, most.min(reactors_max)).1
    }
}

/// The fewest and the most reactors that a plan may have.
fn reactors(config: &Config, cores: u32) -> (u32, u32) {
    match config.reactors.count {
        0 => (cores.clamp(1, REACTORS_MAX), REACTORS_MAX),
        asked => (asked, asked),
    }
}

/// The arithmetic of descriptor tables.
struct Tables {
    fd_limit: u64,
    fd_reserve: u64,
    inherited: u64,
    has_private: bool,
    addresses: u64,
    refusals: u64,
}

impl Tables {
    fn new(config: &Config, machine: &Machine) -> Self {
        Self {
            fd_limit: machine.fd_limit,
            fd_reserve: u64::from(config.reactors.fd_reserve),
            inherited: machine.fds_inherited,
            has_private: machine.has_private_tables,
            addresses: config.listen.endpoints().count() as u64,
            refusals: u64::from(config.handshake.refusals_max),
        }
    }

    /// Descriptors of one table that are not for admitted connections: what the configuration reserves, or
    /// what is certainly needed if that is more. `accepting` is how many reactors accept into the table.
    fn reserve(&self, reactors: u32, accepting: u32) -> u64 {
        let of_all = u64::from(reactors) * (FDS_OF_REACTOR + self.addresses);
        // Refused connections live outside the capacity until their 503 is sent; one more may just have
        // been accepted.
        let refused = u64::from(accepting) * (self.refusals + 1);
        self.fd_reserve.max(self.inherited + FDS_OF_PROCESS + of_all + refused)
    }

    /// Connections that one table for all reactors holds.
    fn shared(&self, reactors: u32) -> u64 {
        self.fd_limit.saturating_sub(self.reserve(reactors, reactors))
    }

    /// Connections that one private table holds.
    fn one_private(&self, reactors: u32) -> u64 {
        self.fd_limit.saturating_sub(self.reserve(reactors, 1))
    }

    /// The number of reactors, of those between two, whose private tables hold the most, and how many that is.
    /// Each reactor takes descriptors in every table, so with a low limit more reactors are not always better.
    fn most_private(&self, least: u32, most: u32) -> (u32, u64) {
        let held = (least..=most).map(|reactors| (reactors, self.private(reactors)));
        held.max_by_key(|(reactors, held)| (*held, std::cmp::Reverse(*reactors))).unwrap_or((least, 0))
    }

    /// Connections that private tables hold together when the kernel spreads them. One reactor gains
    /// nothing from a private table.
    fn private(&self, reactors: u32) -> u64 {
        if reactors < 2 || !self.has_private {
            0
        } else {
            mean_within(self.one_private(reactors)).saturating_mul(u64::from(reactors))
        }
    }
}

/// The largest mean m with m + [`SPREAD_SIGMAS`] * sqrt(m) <= `most`.
fn mean_within(most: u64) -> u64 {
    // Solved as a quadratic equation of sqrt(m).
    let root = (SPREAD_SIGMAS.mul_add(SPREAD_SIGMAS, 4.0 * most as f64).sqrt() - SPREAD_SIGMAS) / 2.0;
    (root * root) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::Settings;

    const GIB: u64 = 1 << 30;

    fn config(capacity: u32, reactors: u32) -> Config {
        let mut config = Config::from(&Settings::new());
        config.tcb.limits.capacity = capacity;
        config.reactors.count = reactors;
        config
    }

    fn machine(cores: u32, fd_limit: u64) -> Machine {
        Machine::new(cores, fd_limit, 24 * GIB)
    }

    #[test]
    fn a_high_limit_means_one_reactor_per_core_and_one_table() {
        let plan = plan(&config(50_000, 0), &machine(8, 1 << 20)).unwrap();
        assert_eq!((plan.reactors, plan.private_fd_tables), (8, false));
        assert!(plan.connections_per_reactor_max > 1_000_000, "{plan}");
        assert_eq!((plan.tcb.hash_buckets, plan.tcb.partitions), (50_000, 32));
    }

    #[test]
    fn a_low_limit_means_private_tables() {
        let plan = plan(&config(50_000, 0), &machine(2, 20_000)).unwrap();
        assert_eq!((plan.reactors, plan.private_fd_tables), (3, true));
        assert_eq!(plan.connections_per_reactor_max, 20_000 - 256);
    }

    #[test]
    fn a_million_on_tables_of_twenty_thousand() {
        let plan = plan(&config(1_000_000, 0), &machine(2, 20_000)).unwrap();
        assert!((51..=56).contains(&plan.reactors), "{plan}");
        assert!(plan.private_fd_tables);
    }

    #[test]
    fn an_open_capacity_is_what_the_cores_hold() {
        // Two private tables hold more than one shared.
        let low = plan(&config(0, 0), &machine(2, 20_000)).unwrap();
        assert_eq!((low.reactors, low.private_fd_tables), (2, true));
        assert!((38_000..39_000).contains(&low.tcb.capacity), "{low}");
        // One core: one table.
        let single = plan(&config(0, 0), &machine(1, 20_000)).unwrap();
        assert_eq!(
            (single.reactors, single.private_fd_tables, single.tcb.capacity),
            (1, false, 20_000 - 256)
        );
        // The memory carries less.
        let small = Machine { memory_bytes: GIB, ..machine(4, 1 << 20) };
        assert_eq!(plan(&config(0, 0), &small).unwrap().tcb.capacity, 65_536);
        // Nobody gets more than a million unasked.
        assert_eq!(plan(&config(0, 0), &machine(16, 1 << 20)).unwrap().tcb.capacity, 1_000_000);
    }

    #[test]
    fn reactors_that_were_asked_for_are_not_exceeded() {
        let three = plan(&config(50_000, 3), &machine(2, 20_000)).unwrap();
        assert_eq!((three.reactors, three.private_fd_tables), (3, true));
        let error = plan(&config(50_000, 2), &machine(2, 20_000)).unwrap_err();
        assert_eq!(error.reactors_needed, Some(3));
        let text = error.to_string();
        assert!(text.starts_with("tcb.capacity = 50000 does not fit: 2 reactors hold 38"), "{text}");
        assert!(text.contains("it takes 3 reactors"), "{text}");
        let error = plan(&config(50_000, 1), &machine(2, 20_000)).unwrap_err();
        assert_eq!((error.fits, error.fd_limit_needed), (20_000 - 256, 50_256));
    }

    #[test]
    fn with_a_low_limit_fewer_reactors_may_hold_more() {
        let (config, machine) = (config(2_000_000, 0), machine(1, 4_096));
        let error = plan(&config, &machine).unwrap_err();
        // The epolls, wake-ups and listeners of a thousand reactors alone fill such a table.
        assert!((400..600).contains(&error.reactors), "{error}");
        assert_eq!(Descriptors::new(&config, &machine).private_tables, error.fits);
        let mut most = config.clone();
        most.tcb.limits.capacity = u32::try_from(error.fits).unwrap();
        assert!(plan(&most, &machine).is_ok());
        most.tcb.limits.capacity += 1;
        assert!(plan(&most, &machine).is_err());
    }

    #[test]
    fn what_the_process_was_born_with_is_subtracted_in_every_table() {
        let born_with = |fds_inherited| Machine { fds_inherited, ..machine(1, 700) };
        let capacity = |machine: Machine| plan(&config(0, 1), &machine).unwrap().tcb.capacity;
        // What the reserve has room for costs nothing: 32 of the process, 4 of the reactor, 65 of refusals.
        assert_eq!((capacity(born_with(0)), capacity(born_with(155))), (700 - 256, 700 - 256));
        assert_eq!(capacity(born_with(400)), 700 - 400 - 32 - 4 - 65);
    }

    #[test]
    fn without_private_tables_an_open_capacity_is_what_one_table_holds() {
        let sandbox = Machine { has_private_tables: false, ..machine(2, 1_000) };
        let open = plan(&config(0, 0), &sandbox).unwrap();
        assert_eq!((open.reactors, open.private_fd_tables, open.tcb.capacity), (2, false, 1_000 - 256));
        let error = plan(&config(1_000, 0), &sandbox).unwrap_err();
        assert_eq!((error.fits, error.reactors_needed, error.fd_limit_needed), (744, None, 1_256));
        assert!(error.to_string().contains("forbidden by a sandbox"), "{error}");
    }

    #[test]
    fn a_limit_below_the_reserve_holds_nothing() {
        let error = plan(&config(0, 0), &machine(2, 256)).unwrap_err();
        assert_eq!((error.fits, error.reactors_needed), (0, None));
    }

    #[test]
    fn the_reserve_covers_what_is_certainly_needed() {
        let tables = Tables::new(&config(0, 0), &machine(2, 20_000));
        assert_eq!(tables.reserve(2, 1), 256);
        // A thousand reactors' epolls, wake-ups and listeners alone are more than the 256 asked for.
        assert!(tables.reserve(1_000, 1) > 4_000);
    }

    #[test]
    fn a_plan_fits_on_a_line() {
        let plan = plan(&config(10_000, 2), &machine(2, 20_000)).unwrap();
        assert_eq!(
            plan.to_string(),
            "2 reactors with one descriptor table for all (20000 descriptors), capacity 10000, memory 46 MiB idle \
             and 2.9 GiB at most"
        );
    }

    proptest! {
        #[test]
        fn every_plan_holds_its_capacity(
            capacity in 0_u32..=2_000_000,
            asked in 0_u32..=64,
            cores in 1_u32..=128,
            fd_limit in 64_u64..=1_100_000,
            reserve in 32_u32..=4096,
        ) {
            let mut config = config(capacity, asked);
            config.reactors.fd_reserve = reserve;
            let machine = machine(cores, fd_limit);
            let tables = Tables::new(&config, &machine);
            match plan(&config, &machine) {
                Ok(plan) => {
                    let wanted = u64::from(plan.tcb.capacity);
                    prop_assert!(plan.tcb.capacity >= 1);
                    prop_assert!(capacity == 0 || plan.tcb.capacity == capacity);
                    let least = if asked > 0 { asked } else { cores };
                    prop_assert!(plan.reactors >= least && (asked == 0 || plan.reactors == asked));
                    if plan.private_fd_tables {
                        // Private tables only where one table is not enough, and with room for the spread.
                        prop_assert!(wanted > tables.shared(plan.reactors));
                        let mean = wanted as f64 / f64::from(plan.reactors);
                        let spread = mean + SPREAD_SIGMAS * mean.sqrt();
                        prop_assert!(spread <= tables.one_private(plan.reactors) as f64 + 1.0);
                    } else {
                        prop_assert!(wanted + tables.reserve(plan.reactors, plan.reactors) <= fd_limit);
                    }
                    let per_reactor = u64::from(plan.connections_per_reactor_max);
                    prop_assert!(per_reactor + u64::from(reserve) <= fd_limit);
                    prop_assert!(per_reactor * u64::from(plan.reactors) >= wanted);
                    prop_assert!(plan.tcb.partitions >= 1 && plan.tcb.partitions <= plan.tcb.capacity);
                }
                Err(error) => {
                    prop_assert!(u64::from(error.capacity) > error.fits);
                    // What the error says would help does help.
                    if let Some(reactors) = error.reactors_needed {
                        let mut more = config.clone();
                        more.reactors.count = reactors;
                        more.tcb.limits.capacity = error.capacity;
                        prop_assert!(plan(&more, &machine).is_ok());
                    }
                    let larger = Machine { fd_limit: error.fd_limit_needed, ..machine };
                    prop_assert!(plan(&config, &larger).is_ok());
                }
            }
        }
    }
}
