//! The memory budget: what the bounds of the configuration allow, by addition.
//!
//! One line for each consumer, so that whoever adds a consumer adds a line. These are ceilings computed
//! from the configuration; what the process really uses is measured by `ops` and shown in the metrics. The
//! kernel's bytes are counted beside ours, because they are the larger part.
//!
//! Invariant: the budget is the sum of its lines.

use std::fmt;

use crate::config::Config;

/// Kernel memory of one idle connection: socket, inode, file, dentry and epoll item.
pub const KERNEL_BYTES_EACH: u64 = 4 * 1024;
/// Our memory of one idle, subscribed connection, its TCB and index entry included.
pub const USER_BYTES_EACH: u64 = 512;

/// Our memory of one idle, subscribed connection as it was measured (`docs/BENCHMARKS.md`), for forecasts of what a
/// control group is charged: the plan's [`USER_BYTES_EACH`] leaves room for more.
pub const USER_BYTES_IDLE: u64 = 208;
/// Memory that a server without connections is charged in its control group: its own pages, page tables, stacks of
/// threads. Measured with two reactors, and what each further one adds.
pub const GROUP_BYTES_OF_PROCESS: u64 = 2_100 * 1024;
/// See [`GROUP_BYTES_OF_PROCESS`].
pub const GROUP_BYTES_OF_REACTOR: u64 = 100 * 1024;

/// The memory budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// All consumers.
    pub lines: Vec<Line>,
}

/// One consumer of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// What takes it.
    pub what: &'static str,
    /// Bytes when all of the capacity is used and the bound is reached.
    pub bytes: u64,
    /// Whether it is taken while all connections are idle, too.
    pub idle: bool,
}

impl Memory {
    /// The budget of a server of this capacity and number of reactors.
    pub fn new(config: &Config, capacity: u32, reactors: u32) -> Self {
        let (connections, reactors) = (u64::from(capacity), u64::from(reactors));
        let line = |idle, what, bytes| Line { what, bytes, idle };
        let api = config
            .api
            .as_ref()
            .map_or(0, |api| 2 * u64::from(api.limits.requests_max) * u64::from(api.limits.body_bytes_max));
        let kept = config.buffers.reactor_bytes_kept_max;
        let lines = vec![
            // The floor: nobody holds a TCP connection for less.
            line(true, "kernel sockets", connections * KERNEL_BYTES_EACH),
            // TCB, index entry, connection, session, timer and one subscription.
            line(true, "connections", connections * USER_BYTES_EACH),
            // Each reactor reads into one buffer.
            line(true, "scratch buffers", reactors * u64::from(config.turn.read_bytes_max)),
            // Buffers that came back and wait for the next incomplete frame.
            line(true, "kept buffers", reactors * kept),
            // Incomplete frames; the kept buffers are a part of the same bound.
            line(false, "leased buffers", reactors * config.buffers.reactor_bytes_max.saturating_sub(kept)),
            // Slow readers. Segments are shared and counted once for each reader here, so this is too high.
            line(false, "outbound queues", reactors * config.outbound.reactor_bytes_max),
            // Messages that wait for a subscriber.
            line(false, "queues", reactors * config.rooms.queues_bytes_max),
            // The past of rooms, where any keeps it.
            line(
                false,
                "history",
                if config.destinations.keep_any() { reactors * config.history.bytes_max } else { 0 },
            ),
            // What sessions hold until they commit.
            line(false, "transactions", reactors * config.stomp.reactor_transaction_bytes_max),
            // Mail from each reactor to each other one.
            line(false, "mailboxes", reactors * (reactors - 1) * config.mesh.bytes_max),
            // Bodies of requests to the API, as they came and as messages.
            line(false, "API requests", api),
        ];
        Self { lines }
    }

    /// Bytes with all of the capacity connected and idle, the kernel's share included.
    pub fn idle_bytes(&self) -> u64 {
        self.lines.iter().filter(|line| line.idle).map(|line| line.bytes).sum()
    }

    /// Bytes with all of the capacity connected and every bound reached at once.
    pub fn bytes_max(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} idle and {} at most", Bytes(self.idle_bytes()), Bytes(self.bytes_max()))
    }
}

/// A number of bytes for people.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(unit > 0 && value < 10.0);
        write!(f, "{value:.decimals$} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn more_connections_cost_idle_memory_and_more_reactors_cost_bounds() {
        let config = Config::from(&Settings::new());
        let budget = |capacity, reactors| Memory::new(&config, capacity, reactors);
        let each = KERNEL_BYTES_EACH + USER_BYTES_EACH;
        assert_eq!(budget(1001, 2).idle_bytes() - budget(1000, 2).idle_bytes(), each);
        assert_eq!(budget(1001, 2).bytes_max() - budget(1000, 2).bytes_max(), each);
        assert!(budget(1000, 3).bytes_max() > budget(1000, 2).bytes_max());
    }

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (24 << 30, "24 GiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
