//! The probe: what this machine says about its limits and what of them is in use.
//!
//! It reads everything once into a [`Snapshot`] of plain values, and judges nothing. `/` is read in life; a
//! tree of recorded files gives the same values in tests, and in the doctor's `--root`.
//!
//! Some values are not in files: the cores of this process (affinity and quotas together), its descriptor limit and
//! the descriptors that it was born with, whether a thread may take a private descriptor table (it is tried, in a
//! thread that ends at once), whether a firewall that tracks nothing would track a connection (one is made, on
//! loopback), and the queues of listening sockets (asked over a sock_diag socket, which tells each queue's length and
//! its maximum; `/proc/net/tcp`, which stands in for it, tells only the length).
//!
//! Invariant: no content of any file panics, and a value that cannot be read is an
//! [`Unreadable`], never zero.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::config::machine::{Machine, raise_fd_limit};
use crate::config::plan::memory::KERNEL_BYTES_EACH;
use crate::config::procfs::{Controller, GroupLimit, Reading, Tree, Unreadable, Version};
use crate::net::fd_table;

mod files;
mod measure;
mod sock_diag;

/// `fs.nr_open` of a kernel that was not told otherwise.
const NR_OPEN_DEFAULT: u64 = 1 << 20;

/// Standard input, output and error.
const STANDARD_STREAMS: u64 = 3;

/// Bytes by which the kernel remembers whom it has charged for an object.
const CHARGE_BYTES_EACH: u64 = 8;
/// Bytes that a group is charged for a connection beside the objects of [`SlabSizes`]: the epoll item's wait queue
/// entry, and the memory of whom each object was charged to. Measured: 1,482 bytes are charged for objects of 1,344.
const CHARGED_BESIDE: u64 = 138;

/// Time that the kernel may take to forget a thread that has ended.
const THREAD_END_MAX: Duration = Duration::from_millis(50);

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
    /// Descriptors beyond the standard streams that the process was born with.
    pub fds_inherited: u64,
    /// Bytes of memory of whoever reads, which are among those that its control group has in use; 0 of a recorded
    /// machine.
    pub bytes_own: u64,
    /// Bytes of address space of the program's own file and its libraries that are not written to; 0 of a recorded machine.
    pub code_bytes: u64,
    /// Bytes that the kernel was measured to charge the control group for one connection, if it was asked to.
    pub measured_bytes_each: Option<u64>,
    /// Threads of whoever reads, which are among those in use: 1 in life, 0 of a recorded machine.
    pub threads_own: u64,
    /// What the process may do beyond an ordinary one.
    pub privileges: Reading<Privileges>,
    /// Threads of the process's user, if their number is limited.
    pub threads_of_user: Reading<u64>,
    /// `vm.overcommit_memory`: 2 is strict.
    pub overcommit: Reading<u64>,
    /// Bytes of address space that may be promised under strict overcommit, and that are.
    pub commit: Reading<Used>,
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
    /// Soft RLIMIT_NPROC: threads of the user. The server does not raise it.
    pub threads_soft: Option<u64>,
    /// Soft RLIMIT_AS: bytes of address space.
    pub address_space_soft: Option<u64>,
    /// Soft RLIMIT_DATA: bytes of private writable memory.
    pub data_soft: Option<u64>,
}

/// What a process may do beyond an ordinary one, in the first user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// CAP_SYS_ADMIN: `fs.file-max` and RLIMIT_NPROC do not apply.
    pub is_admin: bool,
    /// CAP_SYS_RESOURCE, or being root: RLIMIT_NPROC does not apply.
    pub exceeds_threads: bool,
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
    /// The number of its inode, by which its process is found; `None` where it is not told.
    pub inode: Option<u64>,
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
    /// Those of a 64-bit kernel of these years, where they cannot be read.
    pub const USUAL: Self = Self { tcp: 2368, inode: 832, file: 192, dentry: 192, epoll_item: 128 };

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
        // First of all, before anything of this is open.
        let fds_inherited = descriptors_open().saturating_sub(STANDARD_STREAMS);
        let mut snapshot = Self::read(&Tree::live());
        snapshot.fds_inherited = fds_inherited;
        snapshot.threads_own = 1;
        snapshot.bytes_own = files::anonymous_bytes(&Tree::live());
        snapshot.code_bytes = files::code_bytes(&Tree::live());
        snapshot.page_bytes = rustix::param::page_size() as u64;
        if let Ok(cores) = std::thread::available_parallelism() {
            snapshot.cores = Ok(u32::try_from(cores.get()).unwrap_or(u32::MAX));
        }
        if let Ok(limits) = &mut snapshot.limits {
            limits.files_hard = getrlimit(Resource::Nofile).maximum;
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

    /// Measures what the control group is charged for one connection, with some hundred on loopback. A group is made
    /// below that of the process, and removed.
    ///
    /// # Errors
    /// Why it could not be measured, in words.
    pub fn measure(&mut self) -> Result<(), String> {
        let [memory, _] = &self.group_directory;
        let (directory, version) = memory.as_ref().ok_or("no control group counts this process's memory")?;
        let somaxconn = self.somaxconn.as_ref().map_or(128, |most| *most);
        let fd_limit = self.machine_or_default().fd_limit.saturating_sub(self.fds_inherited);
        raise_fd_limit().map_err(|error| error.to_string())?;
        let each = measure::bytes_each(Path::new(directory), *version, somaxconn, fd_limit);
        self.measured_bytes_each = Some(each.map_err(|error| format!("{directory}: {error}"))?);
        Ok(())
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
            fds_inherited: 0,
            bytes_own: 0,
            code_bytes: 0,
            measured_bytes_each: None,
            threads_own: 0,
            privileges: files::privileges(tree),
            threads_of_user: files::threads_of_user(tree),
            overcommit: tree.number("/proc/sys/vm/overcommit_memory"),
            commit: commit(tree),
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

    /// The machine as the plan sees it.
    ///
    /// # Errors
    /// What cannot be read and no server starts without: the descriptor limit, or the memory.
    pub fn machine(&self) -> Reading<Machine> {
        let nr_open = *self.nr_open.as_ref().map_err(Clone::clone)?;
        let hard = self.limits.as_ref().map_err(Clone::clone)?.files_hard;
        let memory = self.memory.as_ref().map_err(Clone::clone)?.limit;
        Ok(self.machine_of(nr_open, hard, memory))
    }

    /// The machine, with the kernel's defaults for what cannot be read: so that walls can be judged beside it.
    pub fn machine_or_default(&self) -> Machine {
        self.machine().unwrap_or_else(|_| {
            let nr_open = self.nr_open.as_ref().map_or(NR_OPEN_DEFAULT, |nr_open| *nr_open);
            let hard = self.limits.as_ref().map_or(None, |limits| limits.files_hard);
            self.machine_of(nr_open, hard, self.memory.as_ref().map_or(u64::MAX, |memory| memory.limit))
        })
    }

    fn machine_of(&self, nr_open: u64, hard: Option<u64>, memory: u64) -> Machine {
        // A process whose control group cannot be read is treated as one without a limit: the plan is then
        // too generous, never wrong about descriptors.
        let groups = self.group_memory.as_deref().unwrap_or_default();
        let memory = groups.iter().fold(memory, |least, group| least.min(group.limit));
        Machine {
            fds_inherited: self.fds_inherited,
            has_private_tables: self.private_tables != Some(false),
            // A hard limit set while `fs.nr_open` was higher is capped by it all the same.
            ..Machine::new(
                self.cores.as_ref().map_or(1, |cores| *cores),
                hard.map_or(nr_open, |hard| hard.min(nr_open)),
                memory,
            )
        }
    }

    /// Bytes that the kernel holds for one idle connection, and whether they were read (or are the default).
    pub fn kernel_bytes_each(&self) -> (u64, bool) {
        match &self.slab {
            Ok(slab) => (slab.sum(), true),
            Err(_) => (KERNEL_BYTES_EACH, false),
        }
    }

    /// Bytes of the kernel that a control group is charged for one connection of this end: as measured, or as kernels
    /// of this release do.
    pub fn group_kernel_bytes_each(&self, version: Version) -> u64 {
        if let Some(measured) = self.measured_bytes_each {
            return measured;
        }
        let slab = self.slab.as_ref().copied().unwrap_or(SlabSizes::USUAL);
        // The socket itself is made before a process is known that it belongs to. Since Linux 6.12 `accept` charges it
        // to the group all the same, in version 2.
        let is_socket_charged = version == Version::V2
            && self.release.as_deref().ok().and_then(files::release).is_none_or(|release| release >= (6, 12));
        let socket = if is_socket_charged { slab.tcp + CHARGE_BYTES_EACH } else { 0 };
        slab.sum() - slab.tcp + socket + CHARGED_BESIDE
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
            self.privileges.as_ref().err(),
            self.overcommit.as_ref().err(),
            self.commit.as_ref().err(),
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

/// Descriptors of this process; 3 where procfs does not tell.
fn descriptors_open() -> u64 {
    // One of them is the directory's own.
    std::fs::read_dir("/proc/self/fd").map_or(STANDARD_STREAMS, |entries| entries.count() as u64 - 1)
}

fn commit(tree: &Tree) -> Reading<Used> {
    Ok(Used { limit: tree.meminfo_bytes("CommitLimit")?, used: tree.meminfo_bytes("Committed_AS")? })
}

fn memory(tree: &Tree) -> Reading<Used> {
    let limit = tree.meminfo_bytes("MemTotal")?;
    let available = tree.meminfo_bytes("MemAvailable")?;
    Ok(Used { limit, used: limit.saturating_sub(available) })
}

/// Takes the part of the groups' memory that the kernel gives back when asked (pages of files) from what they use.
fn without_cache(tree: &Tree, mut groups: Vec<GroupLimit>) -> Vec<GroupLimit> {
    for group in &mut groups {
        let prefix = group.version.stat_prefix();
        let stat = tree.text(&format!("{}/memory.stat", group.directory)).unwrap_or_default();
        let cache = ["inactive_file", "active_file"].iter().fold(0_u64, |sum, name| {
            sum.saturating_add(files::named_number(&stat, &format!("{prefix}{name}")).unwrap_or(0))
        });
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
    let threads = threads_here();
    let answer = thread.spawn(|| fd_table::unshare().is_ok()).ok()?.join().ok();
    // A thread that was joined is counted for a moment yet, and a limit may have no room for one more.
    let end = Instant::now() + THREAD_END_MAX;
    while threads_here() > threads && Instant::now() < end {
        std::thread::sleep(Duration::from_micros(100));
    }
    answer
}

/// Threads of this process; 0 where procfs does not tell.
fn threads_here() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests;
