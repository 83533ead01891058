//! What the plan reads of this machine: limits and what of them is in use.
//!
//! The only part of the plan that touches procfs. A value that cannot be read is taken as "no limit":
//! refusing a run for a missing file would be worse than to try it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limits of this machine and what is in use of them.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: u32,
    /// RLIMIT_NOFILE after it was raised as far as it goes.
    pub descriptors_per_table: u64,
    /// Descriptors open in this process.
    pub descriptors_open: u64,
    /// `fs.file-max`.
    pub files_max: u64,
    /// Files open in the whole system.
    pub files_open: u64,
    /// `fs.epoll.max_user_watches`.
    pub epoll_watches_max: Option<u64>,
    /// `net.ipv4.ip_local_port_range`.
    pub port_range: RangeInclusive<u16>,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// MemAvailable, or what the cgroup leaves when that is less.
    pub memory_available_bytes: u64,
    /// Connections tracked by the firewall and their maximum, when it tracks any.
    pub conntrack: Option<(u64, u64)>,
}

impl Machine {
    /// Reads this machine, after raising the soft RLIMIT_NOFILE to the hard one: the server that the run
    /// starts inherits it.
    pub fn read() -> Self {
        let sys = Path::new("/proc/sys");
        let limit = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        // A refusal leaves the soft limit, which is what the plan then counts with.
        let limit = if raised.is_ok() { limit.maximum } else { limit.current };
        let file_nr = numbers(&sys.join("fs/file-nr"));
        let range = numbers(&sys.join("net/ipv4/ip_local_port_range"));
        let port = |n: usize, fallback: u16| {
            range.get(n).and_then(|port| u16::try_from(*port).ok()).unwrap_or(fallback)
        };
        Self {
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            descriptors_per_table: limit.unwrap_or(u64::MAX),
            descriptors_open: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            files_max: file_nr.get(2).copied().unwrap_or(u64::MAX),
            files_open: file_nr.first().copied().unwrap_or(0),
            epoll_watches_max: number(&sys.join("fs/epoll/max_user_watches")),
            port_range: port(0, 32_768)..=port(1, 60_999),
            reserved_ports: fs::read_to_string(sys.join("net/ipv4/ip_local_reserved_ports"))
                .map(|text| parse_ranges(&text))
                .unwrap_or_default(),
            memory_available_bytes: memory_available(),
            conntrack: conntrack(&sys.join("net/netfilter")),
        }
    }
}

/// What the firewall tracks and may track; `None` where it tracks nothing.
///
/// A kernel that can track shows a maximum even while no rule makes it track. So a connection is made to see
/// whether it is counted, unless others are counted already.
fn conntrack(netfilter: &Path) -> Option<(u64, u64)> {
    let count = || number(&netfilter.join("nf_conntrack_count"));
    let max = number(&netfilter.join("nf_conntrack_max"))?;
    let before = count()?;
    let listener = TcpListener::bind("127.0.0.1:0").ok()?;
    let _connected = TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let tracks = before > 0 || count()? > 0;
    tracks.then_some((before, max))
}

fn number(path: &Path) -> Option<u64> {
    numbers(path).first().copied()
}

fn numbers(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// Parses the kernel's list of ports and ranges (`8080,9148-9150`).
fn parse_ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        })
        .collect()
}

fn memory_available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib * 1024);
    let cgroup = number(Path::new("/sys/fs/cgroup/memory.max"))
        .zip(number(Path::new("/sys/fs/cgroup/memory.current")))
        .map_or(u64::MAX, |(max, current)| max.saturating_sub(current));
    available.min(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_ranges("8080,9148-9150\n"), [8080..=8080, 9148..=9150]);
        assert_eq!(parse_ranges("\n"), []);
    }

    #[test]
    fn a_firewall_counts_if_it_tracks_or_has_tracked() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| fs::write(dir.path().join(name), value).unwrap();
        assert_eq!(conntrack(dir.path()), None, "no firewall");
        write("nf_conntrack_max", "65536\n");
        write("nf_conntrack_count", "0\n");
        assert_eq!(conntrack(dir.path()), None, "the connection made to see was not counted");
        write("nf_conntrack_count", "12\n");
        assert_eq!(conntrack(dir.path()), Some((12, 65_536)));
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.cores >= 1);
        assert!(machine.descriptors_open >= 3);
        assert!(machine.memory_available_bytes > 0);
        assert!(machine.port_range.end() > machine.port_range.start());
    }
}
