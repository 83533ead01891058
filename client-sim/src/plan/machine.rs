//! What the plan reads of this machine: limits and what of them is in use.
//!
//! The only part of the plan that touches procfs. A value that cannot be read is taken as "no limit":
//! refusing a run for a missing file would be worse than to try it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::groups;
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
    /// This process may open files beyond `fs.file-max`, which then stops only others.
    pub exceeds_files_max: bool,
    /// MemAvailable, or what a control group leaves when that is less.
    pub memory_available_bytes: u64,
    /// Threads that may be started.
    pub threads: Option<Threads>,
    /// Connections tracked by the firewall and their maximum, when it tracks any.
    pub conntrack: Option<(u64, u64)>,
}

/// The tightest bound on threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threads {
    /// How many more may be started.
    pub left: u64,
    /// The bound.
    pub limit: u64,
    /// The file of the control group that it is of; else it is `kernel.threads-max`.
    pub group: Option<PathBuf>,
}

impl Threads {
    /// The command that would allow `missing` more.
    pub fn remedy(&self, missing: u64) -> String {
        let limit = self.limit + missing;
        match &self.group {
            Some(file) => format!("echo {limit} > {}", file.display()),
            None => format!("sysctl -w kernel.threads-max={limit}"),
        }
    }
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
            // A hard limit set while `fs.nr_open` was higher is capped by it all the same.
            descriptors_per_table: limit
                .unwrap_or(u64::MAX)
                .min(number(&sys.join("fs/nr_open")).unwrap_or(u64::MAX)),
            descriptors_open: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            files_max: file_nr.get(2).copied().unwrap_or(u64::MAX),
            files_open: file_nr.first().copied().unwrap_or(0),
            epoll_watches_max: number(&sys.join("fs/epoll/max_user_watches")),
            port_range: port(0, 32_768)..=port(1, 60_999),
            reserved_ports: fs::read_to_string(sys.join("net/ipv4/ip_local_reserved_ports"))
                .map(|text| parse_ranges(&text))
                .unwrap_or_default(),
            exceeds_files_max: exceeds_files_max(Path::new("/proc/self")),
            memory_available_bytes: memory_available(Path::new("/")),
            threads: threads(Path::new("/")),
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

/// Whether a process is one that the kernel lets pass `fs.file-max`: with CAP_SYS_ADMIN, in the user namespace that
/// was there first (`alloc_empty_file` of fs/file_table.c).
fn exceeds_files_max(process: &Path) -> bool {
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let is_admin = effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> SYS_ADMIN & 1 == 1);
    is_admin && numbers(&process.join("uid_map")) == [0, 0, u64::from(u32::MAX)]
}

/// Threads that may still be started: by the control groups and by the kernel.
fn threads(root: &Path) -> Option<Threads> {
    let group = groups::threads(root).map(|room| Threads {
        left: room.left,
        limit: room.limit,
        group: Some(room.file),
    });
    // `/proc/loadavg`: running and existing threads are its fourth field.
    let existing = fs::read_to_string(root.join("proc/loadavg"))
        .ok()
        .and_then(|text| text.split_whitespace().nth(3)?.split_once('/')?.1.parse::<u64>().ok());
    let kernel = number(&root.join("proc/sys/kernel/threads-max"))
        .zip(existing)
        .map(|(limit, existing)| Threads { left: limit.saturating_sub(existing), limit, group: None });
    group.into_iter().chain(kernel).min_by_key(|threads| threads.left)
}

fn memory_available(root: &Path) -> u64 {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib * 1024);
    available.min(groups::memory(root).map_or(u64::MAX, |room| room.left))
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
    fn only_the_first_namespaces_admin_passes_file_max() {
        let process = |capabilities: &str, map: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("status"), format!("Name:\tx\nCapEff:\t{capabilities}\n")).unwrap();
            fs::write(dir.path().join("uid_map"), map).unwrap();
            exceeds_files_max(dir.path())
        };
        let first = "         0          0 4294967295\n";
        assert!(process("000001ffffffffff", first));
        assert!(!process("000001ffffdfffff", first), "without CAP_SYS_ADMIN");
        assert!(!process("000001ffffffffff", "0 1000 1\n"), "root of a user namespace");
        assert!(!exceeds_files_max(Path::new("/nowhere")));
    }

    #[test]
    fn threads_and_memory_are_those_of_the_tightest_bound() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!((threads(dir.path()), memory_available(dir.path())), (None, u64::MAX));
        write("proc/loadavg", "0.00 0.00 0.00 2/300 77\n");
        write("proc/sys/kernel/threads-max", "1000\n");
        write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   4 kB\n");
        assert_eq!((threads(dir.path()).unwrap().left, memory_available(dir.path())), (700, 4096));
        write("proc/self/cgroup", "0::/\n");
        write("sys/fs/cgroup/pids.max", "50\n");
        write("sys/fs/cgroup/pids.current", "20\n");
        write("sys/fs/cgroup/memory.max", "3000\n");
        write("sys/fs/cgroup/memory.current", "1000\n");
        let threads = threads(dir.path()).unwrap();
        assert_eq!((threads.left, memory_available(dir.path())), (30, 2000));
        assert_eq!(
            threads.remedy(5),
            format!("echo 55 > {}", dir.path().join("sys/fs/cgroup/pids.max").display())
        );
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
