//! The probe: what this machine says about its limits and what of them is in use.
//!
//! It reads everything once into a [`Snapshot`] of plain values, and judges nothing. `/` is read in life; a
//! tree of recorded files gives the same values in tests, and in the doctor's `--root`.
//!
//! Four values are not in files: the cores of this process (affinity and quotas together), whether a thread
//! may take a private descriptor table (it is tried, in a thread that ends at once), whether a firewall that
//! tracks nothing would track a connection (one is made, on loopback), and the queues of listening sockets
//! (asked over a sock_diag socket, which tells each queue's length and its maximum; `/proc/net/tcp`, which
//! stands in for it, tells only the length).
//!
//! Invariant: no content of any file panics, and a value that cannot be read is an
//! [`Unreadable`], never zero.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::machine::Machine;
use crate::config::plan::memory::KERNEL_BYTES_EACH;
use crate::config::procfs::{Controller, GroupLimit, Reading, Tree, Unreadable, Version};
use crate::net::fd_table;

mod files;
mod sock_diag;

/// `fs.nr_open` of a kernel that was not told otherwise.
const NR_OPEN_DEFAULT: u64 = 1 << 20;

/// Time that a connection on loopback may take.
const LOOPBACK_MAX: Duration = Duration::from_secs(1);

/// The machine at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The kernel's release.
    pub release: Reading<String>,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Cores that the process may use.
    pub cores: Reading<u32>,
    /// Limits of the process: descriptors and threads of its user.
    pub limits: Reading<ProcessLimits>,
    /// Whether a thread may take a private descriptor table; `None` if it was not tried.
    pub private_tables: Option<bool>,
    /// `fs.nr_open`.
    pub nr_open: Reading<u64>,
    /// Open files of all processes, and `fs.file-max`.
    pub files: Reading<Used>,
    /// `fs.epoll.max_user_watches`.
    pub epoll_watches_max: Reading<u64>,
    /// Memory of the machine in bytes: what is there, and what of it is not available.
    pub memory: Reading<Used>,
    /// Memory limits of the control groups, from the own one upwards.
    pub group_memory: Reading<Vec<GroupLimit>>,
    /// Limits on processes and threads of the control groups.
    pub group_pids: Reading<Vec<GroupLimit>>,
    /// The directories of the own group, if there are control groups.
    pub group_directory: [Option<(String, Version)>; 2],
    /// Threads of the whole machine.
    pub threads: Reading<u64>,
    /// `kernel.threads-max`.
    pub threads_max: Reading<u64>,
    /// `kernel.pid_max`: numbers for processes and threads.
    pub pid_max: Reading<u64>,
    /// `vm.max_map_count`.
    pub map_count_max: Reading<u64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Reading<u64>,
    /// `net.ipv4` values.
    pub ipv4: Ipv4,
    /// Connections tracked by the firewall, and `nf_conntrack_max`. Absent where the module is not loaded.
    pub conntrack: Reading<Used>,
    /// Whether the firewall tracks connections at all in this network namespace; `None` if that is not known.
    pub is_tracking: Option<bool>,
    /// TCP sockets of the network namespace.
    pub sockstat: Reading<Sockstat>,
    /// Counters of the network namespace and the control group, by name.
    pub counters: Reading<Counters>,
    /// Listening sockets.
    pub listeners: Reading<Vec<Listener>>,
    /// Sizes of the kernel's objects for one connection.
    pub slab: Reading<SlabSizes>,
}

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// The part of `net.ipv4` that matters here.
#[derive(Debug, Clone)]
pub struct Ipv4 {
    /// `ip_local_port_range`.
    pub port_range: Reading<RangeInclusive<u16>>,
    /// `ip_local_reserved_ports`.
    pub reserved_ports: Reading<Vec<RangeInclusive<u16>>>,
    /// `tcp_mem`: low, pressure, hard, in pages.
    pub tcp_mem: Reading<[u64; 3]>,
    /// `tcp_rmem`: least, initial, largest bytes.
    pub tcp_rmem: Reading<[u64; 3]>,
    /// `tcp_wmem`: least, initial, largest bytes.
    pub tcp_wmem: Reading<[u64; 3]>,
    /// `tcp_max_syn_backlog`.
    pub syn_backlog_max: Reading<u64>,
    /// `tcp_syncookies`: 0 never, 1 when the backlog is full, 2 always.
    pub syncookies: Reading<u64>,
    /// `tcp_max_tw_buckets`.
    pub time_wait_max: Reading<u64>,
    /// `tcp_tw_reuse`.
    pub time_wait_reuse: Reading<u64>,
    /// `tcp_fin_timeout`, seconds.
    pub fin_timeout_s: Reading<u64>,
    /// `tcp_keepalive_time`, seconds.
    pub keepalive_time_s: Reading<u64>,
    /// `tcp_keepalive_intvl`, seconds.
    pub keepalive_interval_s: Reading<u64>,
    /// `tcp_keepalive_probes`.
    pub keepalive_probes: Reading<u64>,
    /// `tcp_ehash_entries`; shown since Linux 6.1.
    pub ehash_entries: Reading<u64>,
}

/// A limit and what is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The limit.
    pub limit: u64,
    /// What is used.
    pub used: u64,
}

/// Limits of one process; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Soft RLIMIT_NOFILE.
    pub files_soft: Option<u64>,
    /// Hard RLIMIT_NOFILE.
    pub files_hard: Option<u64>,
    /// Hard RLIMIT_NPROC: threads of the user.
    pub threads_hard: Option<u64>,
}

/// TCP in `/proc/net/sockstat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockstat {
    /// Sockets in use.
    pub in_use: u64,
    /// Sockets that no process has any more.
    pub orphans: u64,
    /// Connections in TIME_WAIT.
    pub time_wait: u64,
    /// Sockets allocated.
    pub allocated: u64,
    /// Pages of socket buffers, of the whole machine.
    pub pages: u64,
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections that wait for `accept`.
    pub queued: u64,
    /// How many may wait; `None` where it is not told.
    pub queued_max: Option<u64>,
}

/// Bytes of the kernel's objects for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlabSizes {
    /// The TCP socket.
    pub tcp: u64,
    /// Its inode.
    pub inode: u64,
    /// The open file.
    pub file: u64,
    /// The directory entry of the inode.
    pub dentry: u64,
    /// The entry in the epoll set.
    pub epoll_item: u64,
}

impl SlabSizes {
    /// Bytes of all objects of one connection.
    pub fn sum(&self) -> u64 {
        [self.tcp, self.inode, self.file, self.dentry, self.epoll_item]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Snapshot {
    /// Reads this machine. Nothing is changed, but for a thread that starts and ends and, where a firewall
    /// module is loaded that has no records, a connection on loopback.
    pub fn live() -> Self {
        let mut snapshot = Self::read(&Tree::live());
        snapshot.page_bytes = rustix::param::page_size() as u64;
        if let Ok(cores) = std::thread::available_parallelism() {
            snapshot.cores = Ok(u32::try_from(cores.get()).unwrap_or(u32::MAX));
        }
        snapshot.private_tables = try_private_table();
        if snapshot.is_tracking == Some(false) || matches!(snapshot.conntrack, Ok(Used { used: 0, .. })) {
            snapshot.is_tracking = try_tracking();
        }
        if let Ok(listeners) = sock_diag::listeners() {
            snapshot.listeners = Ok(listeners);
        }
        snapshot
    }

    /// Reads the files of a tree, on whatever machine it was recorded.
    pub fn read(tree: &Tree) -> Self {
        let fs = |name: &str| tree.number(&format!("/proc/sys/fs/{name}"));
        let kernel = |name: &str| tree.number(&format!("/proc/sys/kernel/{name}"));
        let directory =
            |controller| tree.group_directories(controller).ok().and_then(|all| all.first().cloned());
        let conntrack = conntrack(tree);
        let counters = files::counters(tree);
        Self {
            release: tree.text("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            page_bytes: 4096,
            cores: files::cores(tree),
            limits: files::process_limits(tree),
            private_tables: None,
            nr_open: fs("nr_open"),
            files: tree
                .numbers("/proc/sys/fs/file-nr")
                .map(|[allocated, free, limit]| Used { limit, used: allocated.saturating_sub(free) }),
            epoll_watches_max: fs("epoll/max_user_watches"),
            memory: memory(tree),
            group_memory: tree.group_limits(Controller::Memory).map(|groups| without_cache(tree, groups)),
            group_pids: tree.group_limits(Controller::Pids),
            group_directory: [directory(Controller::Memory), directory(Controller::Pids)],
            threads: files::threads(tree),
            threads_max: kernel("threads-max"),
            pid_max: kernel("pid_max"),
            map_count_max: tree.number("/proc/sys/vm/max_map_count"),
            somaxconn: tree.number("/proc/sys/net/core/somaxconn"),
            ipv4: ipv4(tree),
            is_tracking: is_tracking(&conntrack, &counters),
            conntrack,
            sockstat: files::sockstat(tree),
            counters,
            listeners: files::listeners(tree),
            slab: files::slab(tree),
        }
    }

    /// The machine as the plan sees it. What cannot be read is taken as the kernel's default, so that there
    /// is a plan; that it is unreadable is said beside it.
    pub fn machine(&self) -> Machine {
        let nr_open = self.nr_open.as_ref().map_or(NR_OPEN_DEFAULT, |nr_open| *nr_open);
        let hard = self.limits.as_ref().map_or(None, |limits| limits.files_hard);
        let memory = self.memory.as_ref().map_or(u64::MAX, |memory| memory.limit);
        let groups = self.group_memory.as_deref().unwrap_or_default();
        Machine {
            cores: self.cores.as_ref().map_or(1, |cores| (*cores).max(1)),
            fd_limit: hard.map_or(nr_open, |hard| hard.min(nr_open)).max(1),
            memory_bytes: groups.iter().fold(memory, |least, group| least.min(group.limit)).max(1),
        }
    }

    /// Bytes that the kernel holds for one idle connection, and whether they were read (or are the default).
    pub fn kernel_bytes_each(&self) -> (u64, bool) {
        match &self.slab {
            Ok(slab) => (slab.sum(), true),
            Err(_) => (KERNEL_BYTES_EACH, false),
        }
    }

    /// Every value that could not be read. What is merely not there on this machine (an absent module, a file
    /// that older kernels do not have) is not among them.
    pub fn unreadable(&self) -> Vec<&Unreadable> {
        let ipv4 = &self.ipv4;
        let all = [
            self.release.as_ref().err(),
            self.cores.as_ref().err(),
            self.limits.as_ref().err(),
            self.nr_open.as_ref().err(),
            self.files.as_ref().err(),
            self.epoll_watches_max.as_ref().err(),
            self.memory.as_ref().err(),
            self.group_memory.as_ref().err(),
            self.group_pids.as_ref().err(),
            self.threads.as_ref().err(),
            self.threads_max.as_ref().err(),
            self.pid_max.as_ref().err(),
            self.map_count_max.as_ref().err(),
            self.somaxconn.as_ref().err(),
            ipv4.port_range.as_ref().err(),
            ipv4.reserved_ports.as_ref().err(),
            ipv4.tcp_mem.as_ref().err(),
            ipv4.tcp_rmem.as_ref().err(),
            ipv4.tcp_wmem.as_ref().err(),
            ipv4.syn_backlog_max.as_ref().err(),
            ipv4.syncookies.as_ref().err(),
            ipv4.time_wait_max.as_ref().err(),
            ipv4.time_wait_reuse.as_ref().err(),
            ipv4.fin_timeout_s.as_ref().err(),
            ipv4.keepalive_time_s.as_ref().err(),
            ipv4.keepalive_interval_s.as_ref().err(),
            ipv4.keepalive_probes.as_ref().err(),
            ipv4.ehash_entries.as_ref().err().filter(|error| !error.is_absent()),
            self.conntrack.as_ref().err().filter(|error| !error.is_absent()),
            self.sockstat.as_ref().err(),
            self.counters.as_ref().err(),
            self.listeners.as_ref().err(),
            self.slab.as_ref().err(),
        ];
        let mut unreadable: Vec<_> = all.into_iter().flatten().collect();
        // One file may fail two values.
        unreadable.dedup();
        unreadable
    }
}

/// Reads this machine's counters again, for comparison.
pub fn counters_live() -> Reading<Counters> {
    files::counters(&Tree::live())
}

fn memory(tree: &Tree) -> Reading<Used> {
    let limit = tree.meminfo_bytes("MemTotal")?;
    let available = tree.meminfo_bytes("MemAvailable")?;
    Ok(Used { limit, used: limit.saturating_sub(available) })
}

/// Takes the part of the groups' memory that the kernel gives back when asked (clean pages of files) from what
/// they use.
fn without_cache(tree: &Tree, mut groups: Vec<GroupLimit>) -> Vec<GroupLimit> {
    for group in &mut groups {
        let name = match group.version {
            Version::V1 => "total_inactive_file",
            Version::V2 => "inactive_file",
        };
        let stat = tree.text(&format!("{}/memory.stat", group.directory)).unwrap_or_default();
        let cache = files::named_number(&stat, name).unwrap_or(0);
        group.used = group.used.map(|used| used.saturating_sub(cache));
    }
    groups
}

fn ipv4(tree: &Tree) -> Ipv4 {
    let path = |name: &str| format!("/proc/sys/net/ipv4/{name}");
    let number = |name: &str| tree.number(&path(name));
    let numbers = |name: &str| tree.numbers(&path(name));
    Ipv4 {
        port_range: files::port_range(tree),
        reserved_ports: files::reserved_ports(tree),
        tcp_mem: numbers("tcp_mem"),
        tcp_rmem: numbers("tcp_rmem"),
        tcp_wmem: numbers("tcp_wmem"),
        syn_backlog_max: number("tcp_max_syn_backlog"),
        syncookies: number("tcp_syncookies"),
        time_wait_max: number("tcp_max_tw_buckets"),
        time_wait_reuse: number("tcp_tw_reuse"),
        fin_timeout_s: number("tcp_fin_timeout"),
        keepalive_time_s: number("tcp_keepalive_time"),
        keepalive_interval_s: number("tcp_keepalive_intvl"),
        keepalive_probes: number("tcp_keepalive_probes"),
        ehash_entries: files::ehash_entries(tree),
    }
}

fn conntrack(tree: &Tree) -> Reading<Used> {
    let number = |name: &str| tree.number(&format!("/proc/sys/net/netfilter/{name}"));
    Ok(Used { limit: number("nf_conntrack_max")?, used: number("nf_conntrack_count")? })
}

/// What the numbers tell about tracking: connections that stand without a record are not tracked.
fn is_tracking(conntrack: &Reading<Used>, counters: &Reading<Counters>) -> Option<bool> {
    let tracked = conntrack.as_ref().ok()?.used;
    let established = counters.as_ref().ok().and_then(|all| all.get("CurrEstab")).copied().unwrap_or(0);
    match (tracked, established) {
        (1.., _) => Some(true),
        (0, 1..) => Some(false),
        (0, 0) => None,
    }
}

/// Makes a connection on loopback, and looks whether the firewall has a record of it. `None` if it cannot be
/// tried.
fn try_tracking() -> Option<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let _connection = TcpStream::connect_timeout(&listener.local_addr().ok()?, LOOPBACK_MAX).ok()?;
    Some(conntrack(&Tree::live()).ok()?.used > 0)
}

/// Whether a thread of this process may take a private descriptor table; `None` if no thread could be started.
fn try_private_table() -> Option<bool> {
    // The thread owns no descriptor, which is what `unshare` asks for, and its table goes with it.
    let thread = std::thread::Builder::new().name("table-probe".into());
    thread.spawn(|| fd_table::unshare().is_ok()).ok()?.join().ok()
}

#[cfg(test)]
mod tests;
