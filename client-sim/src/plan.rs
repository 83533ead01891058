//! What a run needs of this machine, checked before the first connect.
//!
//! The plan answers three questions by addition: from which addresses and ports the clients connect
//! ([`ports`]), over how many descriptor tables they are spread ([`fds`]), and whether the kernel's own
//! limits and the memory suffice for both ends. What does not fit becomes a [`Shortage`] with the numbers and
//! the command that would help; nothing is tried that is known to fail.
//!
//! [`Machine`] is everything it reads; the rest is pure.
//!
//! Invariant: a plan without shortages gives every client exactly one thread and one source address.

pub mod fds;
mod groups;
pub mod machine;
pub mod ports;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use serde::Serialize;

pub use machine::Machine;

/// Kernel memory of one end of an idle TCP connection with its socket, file and epoll item; measured as
/// slab growth at 200,000 connections (8.4 KB for both ends).
pub const KERNEL_BYTES_PER_END: u64 = 4_300;

/// User memory of the simulator per connection, with slack over what was measured.
pub const SIMULATOR_BYTES: u64 = 256;

/// User memory of the server per connection when it is on this machine: what its own plan counts with.
pub const SERVER_BYTES: u64 = 512;

/// User memory of a thread of either process: its stack and what it reads into.
pub const THREAD_BYTES: u64 = 1 << 20;

/// What the run wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Connections open at once.
    pub connections: u32,
    /// Where they go.
    pub destination: IpAddr,
    /// The server is on this machine: its ends count, too.
    pub server_here: bool,
    /// Threads asked for; more are used when descriptors demand it.
    pub threads: Option<u32>,
    /// Source addresses asked for.
    pub source_addresses: Option<u32>,
    /// Members of a room: clients of one room stay on one thread where that is possible.
    pub room_size: u32,
}

/// How the run is laid out.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Connections open at once.
    pub connections: u32,
    /// Worker threads.
    pub threads: u32,
    /// Each thread has a descriptor table of its own.
    pub private_fd_tables: bool,
    /// Descriptors that one table may hold (RLIMIT_NOFILE).
    pub descriptors_per_table: u64,
    /// Ports that one source address has for one destination.
    pub ports_per_address: u32,
    /// Source addresses; empty when the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Memory at the height of the run.
    pub memory: Memory,
    /// What is missing.
    pub shortages: Vec<Shortage>,
    #[serde(skip)]
    shares: Vec<Range<u32>>,
}

/// Memory of a run in bytes, by who has it; on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Of the simulator's process.
    pub simulator_user_bytes: u64,
    /// Of the server's process; 0 when it is elsewhere.
    pub server_user_bytes: u64,
    /// Of the kernel, for all ends here.
    pub kernel_bytes: u64,
}

impl Memory {
    fn plan(wish: &Wish, threads: u32) -> Self {
        let (connections, threads) = (u64::from(wish.connections), u64::from(threads) * THREAD_BYTES);
        let here = u64::from(wish.server_here);
        Self {
            simulator_user_bytes: connections * SIMULATOR_BYTES + threads,
            // The server needs about as many threads, for the same reason.
            server_user_bytes: here * (connections * SERVER_BYTES + threads),
            kernel_bytes: (1 + here) * connections * KERNEL_BYTES_PER_END,
        }
    }

    fn sum(&self) -> u64 {
        self.simulator_user_bytes + self.server_user_bytes + self.kernel_bytes
    }
}

/// One thing that the machine does not have enough of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// What is short.
    pub what: &'static str,
    /// How much the run needs.
    pub needed: u64,
    /// How much there is.
    pub available: u64,
    /// What would help: a command, or an option.
    pub remedy: String,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} needed, {} available; try: {}", self.what, self.needed, self.available, self.remedy)
    }
}

impl Plan {
    /// Lays a run out on a machine.
    pub fn new(wish: &Wish, machine: &Machine) -> Self {
        let ports = ports::Ports::plan(wish, machine);
        let fds = fds::Fds::plan(wish, machine);
        let memory = Memory::plan(wish, fds.threads);
        let short = memory_shortage(wish, &memory, machine);
        let mut shortages: Vec<_> = ports.shortage.into_iter().chain(fds.shortages).chain(short).collect();
        if let Some((count, max)) = machine.conntrack {
            let needed = count + u64::from(wish.connections);
            if needed > max {
                shortages.push(Shortage {
                    what: "connections tracked by the firewall (nf_conntrack_max)",
                    needed,
                    available: max,
                    remedy: format!("sysctl -w net.netfilter.nf_conntrack_max={needed}"),
                });
            }
        }
        Self {
            connections: wish.connections,
            threads: fds.threads,
            private_fd_tables: fds.private_tables,
            descriptors_per_table: machine.descriptors_per_table,
            ports_per_address: ports.per_address,
            source_addresses: ports.sources,
            memory,
            shortages,
            shares: shares(wish.connections, fds.threads, wish.room_size),
        }
    }

    /// The clients of one thread.
    pub fn share(&self, thread: u32) -> Range<u32> {
        self.shares[thread as usize].clone()
    }

    /// The address from which a client connects; `None` lets the kernel choose.
    pub fn source(&self, client: u32) -> Option<IpAddr> {
        let sources = &self.source_addresses;
        (!sources.is_empty()).then(|| sources[client as usize % sources.len()])
    }
}

/// Splits the clients into one contiguous range per thread, at the borders of rooms where that keeps the
/// shares even.
fn shares(connections: u32, threads: u32, room_size: u32) -> Vec<Range<u32>> {
    let even = connections.div_ceil(threads);
    // A border moves by less than a room; that must not unbalance the threads, nor overflow a table.
    let step = if room_size <= even / 16 { room_size } else { 1 };
    let border = |n: u32| {
        let exact = u64::from(connections) * u64::from(n) / u64::from(threads);
        if n == threads { connections } else { exact as u32 / step * step }
    };
    (0..threads).map(|n| border(n)..border(n + 1)).collect()
}

fn memory_shortage(wish: &Wish, memory: &Memory, machine: &Machine) -> Option<Shortage> {
    let needed = memory.sum();
    (needed > machine.memory_available_bytes).then(|| Shortage {
        what: "memory in bytes (kernel and user, all ends on this machine)",
        needed,
        available: machine.memory_available_bytes,
        // Half a percent less, for the threads.
        remedy: format!(
            "--connections {}",
            (u128::from(machine.memory_available_bytes) * u128::from(wish.connections) * 199
                / (200 * u128::from(needed))) as u64
        ),
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections on {} thread(s)", self.connections, self.threads)?;
        if self.private_fd_tables {
            write!(f, " with an fd table of {} each", self.descriptors_per_table)?;
        }
        match self.source_addresses.len() {
            0 => write!(f, ", source address chosen by the kernel ({} ports)", self.ports_per_address),
            n => write!(
                f,
                ", {n} source address(es) from {} x {} ports",
                self.source_addresses[0], self.ports_per_address
            ),
        }?;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        write!(f, ", memory: kernel {:.2} GiB", gib(self.memory.kernel_bytes))?;
        if self.memory.server_user_bytes > 0 {
            write!(f, ", server {:.2} GiB", gib(self.memory.server_user_bytes))?;
        }
        write!(f, ", simulator {:.2} GiB", gib(self.memory.simulator_user_bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn machine() -> Machine {
        Machine {
            cores: 2,
            descriptors_per_table: 20_000,
            descriptors_open: 10,
            files_max: 2_465_610,
            files_open: 560,
            epoll_watches_max: Some(5_000_000),
            port_range: 32_768..=60_999,
            reserved_ports: Vec::new(),
            exceeds_files_max: false,
            memory_available_bytes: 22 << 30,
            threads: None,
            conntrack: None,
        }
    }

    pub(super) fn wish(connections: u32) -> Wish {
        Wish {
            connections,
            destination: "127.0.0.1".parse().unwrap(),
            server_here: true,
            threads: None,
            source_addresses: None,
            room_size: 100,
        }
    }

    #[test]
    fn fifty_thousand_fit_a_small_machine() {
        let plan = Plan::new(&wish(50_000), &machine());
        assert_eq!(plan.shortages, []);
        assert_eq!((plan.threads, plan.private_fd_tables), (3, true));
        assert_eq!(plan.source_addresses.len(), 8);
    }

    #[test]
    fn a_million_fit_it_too_and_three_do_not() {
        assert_eq!(Plan::new(&wish(1_000_000), &machine()).shortages, []);
        let names: Vec<_> =
            Plan::new(&wish(3_000_000), &machine()).shortages.iter().map(|short| short.what).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names[0].starts_with("open files") && names[2].starts_with("memory"), "{names:?}");
    }

    #[test]
    fn two_millions_lack_only_files() {
        let plan = Plan::new(&wish(2_000_000), &machine());
        let names: Vec<_> = plan.shortages.iter().map(|short| short.what).collect();
        assert!(names.len() == 1 && names[0].contains("fs.file-max"), "{names:?}");
        let machine = Machine { files_max: 5_000_000, ..machine() };
        let plan = Plan::new(&wish(2_000_000), &machine);
        assert_eq!(plan.shortages, []);
        assert_eq!((plan.threads, plan.source_addresses.len()), (107, 284));
    }

    #[test]
    fn fewer_connections_are_named_that_the_memory_holds() {
        let machine = Machine { memory_available_bytes: 1 << 30, ..machine() };
        let remedy = Plan::new(&wish(500_000), &machine).shortages[0].remedy.clone();
        let fewer: u32 = remedy.strip_prefix("--connections ").unwrap().parse().unwrap();
        assert_eq!(Plan::new(&wish(fewer), &machine).shortages, []);
        assert!(!Plan::new(&wish(fewer + fewer / 50), &machine).shortages.is_empty());
    }

    #[test]
    fn the_firewall_table_is_a_wall() {
        let machine = Machine { conntrack: Some((1000, 65_536)), ..machine() };
        let plan = Plan::new(&wish(70_000), &machine);
        assert_eq!(plan.shortages[0].needed, 71_000);
        assert!(plan.shortages[0].to_string().contains("sysctl -w net.netfilter.nf_conntrack_max=71000"));
    }

    proptest! {
        #[test]
        fn every_client_has_one_thread_and_the_shares_fit(
            connections in 1u32..300_000, threads in proptest::option::of(1u32..64), room_size in 1u32..5000,
        ) {
            let wish = Wish { threads, room_size, ..wish(connections) };
            let plan = Plan::new(&wish, &machine());
            let mut next = 0;
            for thread in 0..plan.threads {
                let share = plan.share(thread);
                prop_assert_eq!(share.start, next);
                prop_assert!(share.len() as u64 + 32 <= plan.descriptors_per_table);
                next = share.end;
            }
            prop_assert_eq!(next, connections);
        }
    }
}
