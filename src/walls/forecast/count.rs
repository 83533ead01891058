//! Walls that bound the number of connections.
//!
//! Each is a straight line: so much for each connection, so much for the server itself, and a limit of which
//! some is used already. The exception are descriptor tables and threads, which depend on each other: more
//! reactors make more tables.
//!
//! Invariant: `stops_at` of a wall is the largest number of connections that it lets in.

use crate::config::plan::Descriptors;
use crate::config::plan::memory::USER_BYTES_EACH;
use crate::config::procfs::{Controller, GroupLimit, Reading};

use super::fix::roomy;
use super::{CONNECTIONS_MAX, Context, Fix, Grouped, Kind, Verdict, Wall};

/// `fs.file-max` at which it is no limit: some distributions set it to the largest number.
const UNLIMITED: u64 = 1 << 62;
/// Open files and epoll watches of one reactor that are no connection: its epoll, wake-up and listeners,
/// with some to spare.
const FILES_OF_REACTOR: u64 = 16;
/// Threads of the process that are no reactor: the main thread, and some to spare.
const THREADS_SPARE: u64 = 4;
/// Mappings of memory of a process before it has threads: its libraries, heap and tables.
const MAPPINGS_OF_PROCESS: u64 = 512;
/// Mappings of one thread: its stack and the guard page below it.
const MAPPINGS_OF_THREAD: u64 = 2;

impl Context<'_> {
    pub(super) fn count_walls(&self) -> Vec<Wall> {
        let mut walls = vec![
            self.fd_table(),
            self.nr_open(),
            self.file_max(),
            self.epoll_watches(),
            self.tcb_capacity(),
            self.machine_memory(),
            self.group_memory(),
            self.conntrack(),
        ];
        walls.extend(self.threads());
        walls
    }

    /// Says the verdict on a wall of which each connection takes `each`, and the server `fixed`.
    fn line(&self, wall: Wall, limit: u64, in_use: Option<u64>, each: u64, fixed: u64) -> Wall {
        let needed = self.connections.saturating_mul(each).saturating_add(fixed);
        let free = limit.saturating_sub(in_use.unwrap_or(0));
        let stops_at = if free < fixed { 0 } else { (free - fixed) / each.max(1) };
        let verdict = verdict(self.connections, stops_at);
        Wall { limit: Some(limit), in_use, needed: Some(needed), stops_at: Some(stops_at), verdict, ..wall }
    }

    /// RLIMIT_NOFILE, which the kernel applies to each descriptor table.
    fn fd_table(&self) -> Wall {
        let wall = Self::wall("fd-table", "connections", "RLIMIT_NOFILE", Kind::Count, "descriptors");
        let limits = match &self.snapshot.limits {
            Ok(limits) => limits,
            Err(error) => return Self::unreadable(wall, error),
        };
        let limit = self.machine.fd_limit;
        let mut wall = self.tables(wall, limit, self.descriptors);
        let raised = match limits.files_soft {
            Some(soft) if soft < limit => format!(
                " The soft limit is {}; the server raises it to the hard one by itself.",
                Grouped(soft)
            ),
            _ => String::new(),
        };
        wall.effect = match (&self.plan, wall.verdict) {
            (Ok(plan), Verdict::Passed) => format!(
                "One descriptor table holds {} connections. The server passes this wall itself, without \
                 privileges: {} reactors with a private table each (unshare(CLONE_FILES)) hold {}.",
                Grouped(self.descriptors.one_table),
                plan.reactors,
                Grouped(self.connections),
            ),
            (Err(error), Verdict::Below) if self.snapshot.private_tables == Some(false) => format!(
                "One descriptor table holds {} connections, and a sandbox forbids private ones \
                 (unshare(CLONE_FILES) fails; Docker's default seccomp profile does that).",
                Grouped(error.fits),
            ),
            (Err(error), Verdict::Below) => format!(
                "{} reactor{} hold {} connections with {} descriptors a table.",
                error.reactors,
                if error.reactors == 1 { "" } else { "s" },
                Grouped(error.fits),
                Grouped(limit),
            ),
            _ => format!(
                "One descriptor table holds {} connections; private tables for the reactors would hold {}.",
                Grouped(self.descriptors.one_table),
                Grouped(self.descriptors.private_tables.min(u64::from(CONNECTIONS_MAX))),
            ),
        } + &raised;
        if let (Err(error), Verdict::Below) = (&self.plan, wall.verdict) {
            wall.fix = Some(match error.reactors_needed {
                Some(reactors) => Fix::key("reactors", "count", u64::from(reactors), Some("--reactors")),
                None => {
                    let limit = Fix::process_limit("nofile", "LimitNOFILE", error.fd_limit_needed);
                    match self.snapshot.nr_open {
                        Ok(most) if most < error.fd_limit_needed => {
                            Fix::sysctl("fs.nr_open", error.fd_limit_needed).and(limit)
                        }
                        _ => limit,
                    }
                }
            });
        }
        wall
    }

    /// `fs.nr_open`, above which RLIMIT_NOFILE cannot be set.
    fn nr_open(&self) -> Wall {
        let wall = Self::wall("nr-open", "connections", "fs.nr_open", Kind::Count, "descriptors");
        let limit = match &self.snapshot.nr_open {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let machine = crate::config::machine::Machine { fd_limit: limit.max(1), ..self.machine };
        let mut descriptors = Descriptors::new(&self.config, &machine);
        if self.snapshot.private_tables == Some(false) {
            descriptors.private_tables = 0;
        }
        let mut wall = self.tables(wall, limit, descriptors);
        wall.effect = "RLIMIT_NOFILE cannot be set higher than this.".into();
        if wall.verdict == Verdict::Below {
            let needed = self.connections + limit.saturating_sub(descriptors.one_table);
            wall.fix = Some(Fix::sysctl("fs.nr_open", roomy(needed)));
        }
        wall
    }

    /// The verdict on a limit of each descriptor table.
    fn tables(&self, wall: Wall, limit: u64, descriptors: Descriptors) -> Wall {
        let reserve = limit.saturating_sub(descriptors.one_table);
        // Of a server that starts: nothing is in use yet.
        let wall = self.line(wall, limit, Some(0), 1, reserve);
        let until = descriptors.private_tables;
        if until <= descriptors.one_table {
            return wall;
        }
        let verdict = match (wall.verdict, verdict(self.connections, until)) {
            (Verdict::Below, Verdict::Below) => Verdict::Below,
            (Verdict::Below, _) => Verdict::Passed,
            // The last tenth of one table is nothing to warn of: more tables come after it.
            _ => Verdict::Fits,
        };
        Wall { passed_until: Some(until), verdict, ..wall }
    }

    fn file_max(&self) -> Wall {
        let wall = Self::wall("file-max", "connections", "fs.file-max", Kind::Count, "files");
        let files = match &self.snapshot.files {
            Ok(files) => files,
            Err(error) => return Self::unreadable(wall, error),
        };
        if files.limit >= UNLIMITED {
            return Wall { effect: "No limit.".into(), in_use: Some(files.used), ..wall };
        }
        let fixed = u64::from(self.reactors) * FILES_OF_REACTOR;
        let mut wall = self.line(wall, files.limit, Some(files.used), 1, fixed);
        wall.effect =
            "Open files of all processes; past it accept fails with ENFILE, except for a process with \
                       CAP_SYS_ADMIN. A client on this machine takes as many again."
                .into();
        self.mend(&mut wall, |value| Fix::sysctl("fs.file-max", value));
        wall
    }

    fn epoll_watches(&self) -> Wall {
        let name = "fs.epoll.max_user_watches";
        let wall = Self::wall("epoll-watches", "connections", name, Kind::Count, "watches");
        let limit = match &self.snapshot.epoll_watches_max {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let fixed = u64::from(self.reactors) * FILES_OF_REACTOR;
        let mut wall = self.line(wall, limit, None, 1, fixed);
        wall.effect =
            "Descriptors in epoll sets, for each user; the kernel does not tell how many are used.".into();
        self.mend(&mut wall, |value| Fix::sysctl(name, value));
        wall
    }

    fn tcb_capacity(&self) -> Wall {
        let wall = Self::wall("tcb-capacity", "tcb-table", "tcb.capacity", Kind::Count, "connections");
        let limit = if self.capacity == 0 { CONNECTIONS_MAX } else { self.capacity };
        let mut wall = self.line(wall, u64::from(limit), Some(0), 1, 0);
        wall.effect = match self.capacity {
            0 => format!(
                "Not configured: {} is the most that can be. Past it the server answers 503 with Retry-After.",
                Grouped(CONNECTIONS_MAX)
            ),
            _ => "As configured. Past it the server answers 503 with Retry-After.".into(),
        };
        if wall.verdict == Verdict::Below {
            wall.fix = Some(Fix::key("tcb", "capacity", self.connections, Some("--capacity")));
        }
        wall
    }

    /// Bytes of one connection, and of the server without connections.
    fn bytes(&self) -> (u64, u64) {
        let (kernel, _) = self.snapshot.kernel_bytes_each();
        (kernel.saturating_add(USER_BYTES_EACH), self.user_bytes_fixed())
    }

    fn machine_memory(&self) -> Wall {
        let wall = Self::wall("memory", "tcb-table", "memory of the machine", Kind::Count, "bytes");
        let memory = match &self.snapshot.memory {
            Ok(memory) => memory,
            Err(error) => return Self::unreadable(wall, error),
        };
        let (each, fixed) = self.bytes();
        let mut wall = self.line(wall, memory.limit, Some(memory.used), each, fixed);
        wall.effect = format!(
            "An idle connection takes {} bytes, most of them the kernel's. No command makes more of it.",
            Grouped(each)
        );
        wall
    }

    fn group_memory(&self) -> Wall {
        let name = "memory limit of the group";
        let wall = Self::wall("cgroup-memory", "app-limits", name, Kind::Count, "bytes");
        let group = match lowest(&self.snapshot.group_memory) {
            Ok(group) => group,
            Err(wall_of) => return wall_of.wall(wall),
        };
        let (each, fixed) = self.bytes();
        let mut wall = self.line(wall, group.limit, group.used, each, fixed);
        wall.effect = format!(
            "{}. The kernel's bytes for sockets count, too; past the limit the server is killed.",
            group.directory
        );
        self.mend(&mut wall, |value| Fix::group(&group.directory, group.version, Controller::Memory, value));
        wall
    }

    fn conntrack(&self) -> Wall {
        let name = "net.netfilter.nf_conntrack_max";
        let wall = Self::wall("conntrack", "nat", "nf_conntrack_max", Kind::Count, "connections");
        let tracked = match &self.snapshot.conntrack {
            Ok(tracked) => tracked,
            Err(error) if error.is_absent() => {
                let effect = "nf_conntrack is not loaded: no firewall on this machine tracks connections.";
                return Wall { effect: effect.into(), ..wall };
            }
            Err(error) => return Self::unreadable(wall, error),
        };
        if self.snapshot.is_tracking == Some(false) {
            let effect = "Loaded, but no connection is tracked here. A firewall rule with a state would make it \
                          a wall.";
            return Wall { limit: Some(tracked.limit), in_use: Some(0), effect: effect.into(), ..wall };
        }
        let mut wall = self.line(wall, tracked.limit, Some(tracked.used), 1, 0);
        wall.effect =
            "Connections that the firewall tracks; past it the kernel drops new ones silently ('table \
                       full, dropping packet'). A notrack rule for the server's port avoids it altogether."
                .into();
        if self.snapshot.is_tracking.is_none() {
            wall.effect += " It has no records, and whether it tracks connections here could not be tried.";
        }
        self.mend(&mut wall, |value| Fix::sysctl(name, value));
        wall
    }

    /// Limits on threads: of the kernel, the user, the group, and of the memory map that holds their stacks.
    fn threads(&self) -> Vec<Wall> {
        let snapshot = self.snapshot;
        let in_use = snapshot.threads.as_ref().ok().copied();
        let wall = |id, row, name| Self::wall(id, row, name, Kind::Count, "threads");
        let sysctl = |wall: Wall, limit: &Reading<u64>, name: &'static str| match limit {
            Ok(limit) => self.thread_line(wall, *limit, in_use, |value| Fix::sysctl(name, value)),
            Err(error) => Self::unreadable(wall, error),
        };
        let of_user = wall("nproc", "bio", "RLIMIT_NPROC");
        let of_group = wall("cgroup-pids", "app-limits", "pids limit of the group");
        vec![
            sysctl(
                wall("threads-max", "bio", "kernel.threads-max"),
                &snapshot.threads_max,
                "kernel.threads-max",
            ),
            sysctl(wall("pid-max", "bio", "kernel.pid_max"), &snapshot.pid_max, "kernel.pid_max"),
            match &snapshot.limits {
                Ok(limits) => match limits.threads_hard {
                    Some(limit) => self.thread_line(of_user, limit, None, |value| {
                        Fix::process_limit("nproc", "LimitNPROC", value)
                    }),
                    None => Wall { effect: "No limit.".into(), ..of_user },
                },
                Err(error) => Self::unreadable(of_user, error),
            },
            match lowest(&snapshot.group_pids) {
                Ok(group) => self.thread_line(of_group, group.limit, group.used, |value| {
                    Fix::group(&group.directory, group.version, Controller::Pids, value)
                }),
                Err(wall_of) => wall_of.wall(of_group),
            },
            self.map_count(),
        ]
    }

    /// Threads that there is room for, by each limit that can be read.
    pub(super) fn thread_limits(&self) -> Vec<(u64, &'static str)> {
        let free = |wall: &Wall| {
            let free = wall.limit?.saturating_sub(wall.in_use.unwrap_or(0));
            Some(match wall.id {
                "max-map-count" => (free.saturating_sub(MAPPINGS_OF_PROCESS) / MAPPINGS_OF_THREAD, wall.name),
                _ => (free, wall.name),
            })
        };
        self.threads().iter().filter_map(free).collect()
    }

    fn map_count(&self) -> Wall {
        let mut wall = Self::wall("max-map-count", "bio", "vm.max_map_count", Kind::Count, "mappings");
        let limit = match &self.snapshot.map_count_max {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let threads = limit.saturating_sub(MAPPINGS_OF_PROCESS) / MAPPINGS_OF_THREAD;
        wall = self.thread_line(wall, threads, Some(0), |value| {
            Fix::sysctl("vm.max_map_count", value * MAPPINGS_OF_THREAD + MAPPINGS_OF_PROCESS)
        });
        let needed = wall.needed.map(|threads| threads * MAPPINGS_OF_THREAD + MAPPINGS_OF_PROCESS);
        Wall { limit: Some(limit), needed, ..wall }
    }

    /// The verdict on a limit of threads: the reactors must fit.
    fn thread_line(&self, wall: Wall, limit: u64, in_use: Option<u64>, fix: impl Fn(u64) -> Fix) -> Wall {
        let reactors = u64::from(self.reactors);
        let needed = reactors + THREADS_SPARE;
        let free = limit.saturating_sub(in_use.unwrap_or(0));
        let most = u32::try_from(free.saturating_sub(THREADS_SPARE)).unwrap_or(u32::MAX).min(1024);
        let least = if self.config.reactors.count > 0 { reactors } else { u64::from(self.machine.cores) };
        let stops_at = if u64::from(most) < least {
            0
        } else if self.snapshot.private_tables == Some(false) {
            self.descriptors.one_table
        } else {
            self.descriptors.one_table.max(Descriptors::with_reactors(&self.config, &self.machine, most))
        };
        let mut wall = Wall {
            limit: Some(limit),
            in_use,
            needed: Some(needed),
            // Threads for every reactor that a plan may have bound nothing.
            stops_at: (most < 1024).then_some(stops_at),
            verdict: if needed > free { Verdict::Below } else { Verdict::Fits },
            effect: format!(
                "{reactors} reactors need {needed} threads; a thread for each connection would stop at {}.",
                Grouped(free)
            ),
            ..wall
        };
        if wall.verdict == Verdict::Below {
            wall.fix = Some(fix(roomy(in_use.unwrap_or(0) + needed)));
        }
        wall
    }

    /// Adds the fix of a wall that is in the way: the limit that N connections need, on top of what is used.
    fn mend(&self, wall: &mut Wall, fix: impl FnOnce(u64) -> Fix) {
        if wall.verdict == Verdict::Below {
            let needed = wall.in_use.unwrap_or(0).saturating_add(wall.needed.unwrap_or(0));
            wall.fix = Some(fix(roomy(needed)));
        }
    }
}

/// The verdict on N connections where so many get in.
fn verdict(connections: u64, stops_at: u64) -> Verdict {
    if connections > stops_at {
        Verdict::Below
    } else if connections.saturating_mul(10) > stops_at.saturating_mul(9) {
        Verdict::Tight
    } else {
        Verdict::Fits
    }
}

/// Why there is no lowest group.
enum NoGroup<'a> {
    Unlimited,
    Unreadable(&'a crate::config::procfs::Unreadable),
}

impl NoGroup<'_> {
    fn wall(self, wall: Wall) -> Wall {
        match self {
            Self::Unlimited => Wall { effect: "No control group limits it.".into(), ..wall },
            Self::Unreadable(error) => Context::unreadable(wall, error),
        }
    }
}

/// The group with the least left.
fn lowest(groups: &Reading<Vec<GroupLimit>>) -> Result<&GroupLimit, NoGroup<'_>> {
    let groups = groups.as_ref().map_err(NoGroup::Unreadable)?;
    let left = |group: &&GroupLimit| group.limit.saturating_sub(group.used.unwrap_or(0));
    groups.iter().min_by_key(left).ok_or(NoGroup::Unlimited)
}
