//! Walls that bound the number of connections.
//!
//! Each is a straight line: so much for each connection, so much for the server itself, and a limit of which
//! some is used already. The exception are descriptor tables and threads, which depend on each other: more
//! reactors make more tables. The walls made of bytes are those of [`memory`](super::memory).
//!
//! Invariant: `stops_at` of a wall is the largest number of connections that it lets in.

use crate::config::plan::Descriptors;
use crate::config::procfs::{Controller, GroupLimit, Reading, Unreadable};

use super::fix::{self, roomy};
use super::{CONNECTIONS_MAX, Context, Fix, Grouped, Kind, Verdict, Wall};
use crate::tcb::time_wait::Reuse;
use crate::walls::probe::Privileges;
use crate::walls::running::{Running, Silence};

/// `fs.file-max` at which it is no limit: some distributions set it to the largest number.
const UNLIMITED: u64 = 1 << 62;
/// Open files and epoll watches of one reactor that are no connection: its epoll, wake-up and listeners,
/// with some to spare.
const FILES_OF_REACTOR: u64 = 16;
/// Mappings of memory of a process before it has threads: its libraries, heap and tables. A server of two reactors has
/// 48, one of 107 has 494; the arrays of each reactor add a few more as they grow.
const MAPPINGS_OF_PROCESS: u64 = 64;
/// Mappings of one reactor: its stack, the guard page below it, its part of the heap, its arrays.
const MAPPINGS_OF_REACTOR: u64 = 8;
/// Mappings of a thread for a connection: its stack and the guard page below it.
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
            self.data_limit(),
            self.address_space(),
            self.commit_limit(),
            self.conntrack(),
        ];
        walls.extend(self.threads());
        walls
    }

    /// Says the verdict on a wall of which each connection takes `each`, and the server `fixed`.
    pub(super) fn line(&self, wall: Wall, limit: u64, in_use: Option<u64>, each: u64, fixed: u64) -> Wall {
        let needed = self.coming().saturating_mul(each).saturating_add(fixed);
        let free = limit.saturating_sub(in_use.unwrap_or(0));
        // What is open already stays open, however little is left.
        let stops_at = self.standing + free.saturating_sub(fixed) / each.max(1);
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
        if let Some(wall) = self.running_tables(&wall) {
            return wall;
        }
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
            (Err(error), Verdict::Below) if !self.machine.has_private_tables => format!(
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
            wall.fix = Some(fix::descriptors(error, self.snapshot.nr_open.as_ref().ok().copied()));
        }
        wall
    }

    /// The tables of a server that runs already.
    fn running_tables(&self, wall: &Wall) -> Option<Wall> {
        let running = self.running?;
        let (free, tables) = (running.descriptors_free()?, running.tables.len() as u64);
        let limit = running.fd_limit?;
        let in_use = running.tables.iter().sum();
        let mut wall = self.line(wall.clone(), (limit * tables).max(in_use), Some(in_use), 1, 0);
        wall.effect = format!(
            "Process {} has {tables} descriptor table{} of {} that accept{}; {} descriptors are free.",
            running.pid,
            if tables == 1 { "" } else { "s" },
            Grouped(limit),
            if tables == 1 { "s" } else { "" },
            Grouped(free)
        );
        if wall.verdict == Verdict::Below {
            let each = limit + self.coming().saturating_sub(free).div_ceil(tables.max(1));
            wall.fix = Some(Fix {
                now: vec![format!("prlimit --pid {} --nofile={each}:{each}", running.pid)],
                ..Fix::process_limit("nofile", "LimitNOFILE", each)
            });
        }
        Some(wall)
    }

    /// `fs.nr_open`, above which RLIMIT_NOFILE cannot be set.
    fn nr_open(&self) -> Wall {
        let wall = Self::wall("nr-open", "connections", "fs.nr_open", Kind::Count, "descriptors");
        let limit = match &self.snapshot.nr_open {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let machine = crate::config::machine::Machine { fd_limit: limit.max(1), ..self.machine };
        let descriptors = Descriptors::new(&self.config, &machine);
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
        let mut wall = self.line(wall, limit, Some(0), 1, reserve);
        if self.running.is_some() {
            // Of a limit that the server was started under, and that it has passed or keeps.
            wall.stops_at = wall.stops_at.map(|at| at.max(self.connections));
            wall.verdict = Verdict::Fits;
            return wall;
        }
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
        if matches!(self.snapshot.privileges, Ok(Privileges { is_admin: true, .. })) {
            let effect = "This process has CAP_SYS_ADMIN, to which the limit does not apply. Other processes meet it, \
                          a client of this machine among them.";
            return Wall {
                limit: Some(files.limit),
                in_use: Some(files.used),
                needed: Some(self.coming()),
                verdict: if self.coming() + files.used > files.limit {
                    Verdict::Passed
                } else {
                    Verdict::Fits
                },
                effect: effect.into(),
                ..wall
            };
        }
        let fixed = self.fixed(FILES_OF_REACTOR);
        let mut wall = self.line(wall, files.limit, Some(files.used), 1, fixed);
        wall.effect =
            "Open files of all processes; past it accept fails with ENFILE, except for a process with \
                       CAP_SYS_ADMIN. A client on this machine takes as many again."
                .into();
        self.mend(&mut wall, |value| Fix::sysctl("fs.file-max", value));
        wall
    }

    /// What so much for each reactor comes to; nothing for one that runs already.
    fn fixed(&self, each: u64) -> u64 {
        if self.running.is_some() { 0 } else { u64::from(self.reactors) * each }
    }

    fn epoll_watches(&self) -> Wall {
        let name = "fs.epoll.max_user_watches";
        let wall = Self::wall("epoll-watches", "connections", name, Kind::Count, "watches");
        let limit = match &self.snapshot.epoll_watches_max {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let fixed = self.fixed(FILES_OF_REACTOR);
        // Those of the server that runs are known, whoever else has some.
        let in_use = self.running.and_then(Running::open);
        let mut wall = self.line(wall, limit, in_use, 1, fixed);
        wall.effect =
            "Descriptors in epoll sets, for each user; the kernel does not tell how many others have.".into();
        self.mend(&mut wall, |value| Fix::sysctl(name, value));
        wall
    }

    fn tcb_capacity(&self) -> Wall {
        let wall = Self::wall("tcb-capacity", "tcb-table", "tcb.capacity", Kind::Count, "connections");
        let limit = self.capacity.unwrap_or(u64::from(CONNECTIONS_MAX));
        let places = self.running.and_then(Running::places);
        let is_full = self.running.is_some_and(|running| running.numbers == Err(Silence::Full));
        let in_use = match places {
            Some((in_use, _)) => in_use,
            None if is_full => limit,
            None => 0,
        };
        // Records that give way to who comes take no place from anybody.
        let reuse = self.config.tcb.time_wait.reuse;
        let waiting = self.running.and_then(Running::waiting).unwrap_or(0);
        let gives_way = if reuse == Reuse::PeerDiffers { waiting } else { 0 };
        let mut wall = self.line(wall, limit, Some(in_use - gives_way), 1, 0);
        if self.connections == limit && wall.verdict == Verdict::Tight {
            // It is judged for its own capacity.
            wall.verdict = Verdict::Fits;
        }
        wall.effect = "Past it the server answers 503 with Retry-After.".into();
        if waiting > 0 {
            wall.effect += &match gives_way {
                0 => format!(
                    " {} of the places are taken by connections in TIME_WAIT (tcb.time_wait_counts).",
                    Grouped(waiting)
                ),
                _ => format!(" {} connections in TIME_WAIT give way to others.", Grouped(waiting)),
            };
        }
        if wall.verdict == Verdict::Below {
            let needed = in_use - gives_way + self.coming();
            wall.fix = Some(Fix::key("tcb", "capacity", needed, Some("--capacity")));
        }
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
        // Whoever reads is not there when the server is, or is the server.
        let others = |threads: u64| threads.saturating_sub(snapshot.threads_own);
        let in_use = snapshot.threads.as_ref().ok().copied().map(others);
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
                Ok(limits) => match limits.threads_soft {
                    Some(limit)
                        if matches!(snapshot.privileges, Ok(Privileges { exceeds_threads: true, .. })) =>
                    {
                        let effect =
                            "Root, and who has CAP_SYS_RESOURCE or CAP_SYS_ADMIN, is not held to it.";
                        Wall { limit: Some(limit), effect: effect.into(), ..of_user }
                    }
                    Some(limit) => {
                        let of_this_user = snapshot.threads_of_user.as_ref().ok().copied().map(others);
                        self.thread_line(of_user, limit, of_this_user, |value| {
                            Fix::process_limit("nproc", "LimitNPROC", value)
                        })
                    }
                    None => Wall { effect: "No limit.".into(), ..of_user },
                },
                Err(error) => Self::unreadable(of_user, error),
            },
            match lowest(&snapshot.group_pids) {
                Ok(group) => self.thread_line(of_group, group.limit, group.used.map(others), |value| {
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
        let threads = limit.saturating_sub(MAPPINGS_OF_PROCESS) / MAPPINGS_OF_REACTOR;
        wall = self.thread_line(wall, threads, Some(0), |value| {
            Fix::sysctl("vm.max_map_count", value * MAPPINGS_OF_REACTOR + MAPPINGS_OF_PROCESS)
        });
        let needed = wall.needed.map(|threads| threads * MAPPINGS_OF_REACTOR + MAPPINGS_OF_PROCESS);
        Wall { limit: Some(limit), needed, ..wall }
    }

    /// The verdict on a limit of threads: the reactors must fit.
    fn thread_line(&self, wall: Wall, limit: u64, in_use: Option<u64>, fix: impl Fn(u64) -> Fix) -> Wall {
        let (reactors, others) = (u64::from(self.reactors), self.config.threads_beside_reactors());
        // A server that runs has its threads.
        let needed = if self.running.is_some() { 0 } else { reactors + others };
        let free = limit.saturating_sub(in_use.unwrap_or(0));
        let is_below = needed > free;
        // Who has no threads does not start; who has them is bounded by something else.
        let most = u32::try_from(free.saturating_sub(others)).unwrap_or(u32::MAX).min(1024);
        let least = if self.config.reactors.count > 0 { reactors } else { u64::from(self.machine.cores) };
        let fewer = if u64::from(most) < least {
            0
        } else {
            self.descriptors.one_table.max(Descriptors::with_reactors(&self.config, &self.machine, most))
        };
        let mut wall = Wall {
            limit: Some(limit),
            in_use,
            needed: Some(needed),
            stops_at: is_below.then_some(fewer),
            verdict: if is_below { Verdict::Below } else { Verdict::Fits },
            effect: format!(
                "{reactors} reactor{} and {others} other threads; a thread for each connection would stop \
                 at {}.",
                if reactors == 1 { "" } else { "s" },
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
    pub(super) fn mend(&self, wall: &mut Wall, fix: impl FnOnce(u64) -> Fix) {
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
pub(super) enum NoGroup<'a> {
    Unlimited,
    Unreadable(&'a Unreadable),
}

impl NoGroup<'_> {
    pub(super) fn wall(self, wall: Wall) -> Wall {
        match self {
            Self::Unlimited => Wall { effect: "No control group limits it.".into(), ..wall },
            Self::Unreadable(error) => Context::unreadable(wall, error),
        }
    }
}

/// The group with the least left.
pub(super) fn lowest(groups: &Reading<Vec<GroupLimit>>) -> Result<&GroupLimit, NoGroup<'_>> {
    let groups = groups.as_ref().map_err(NoGroup::Unreadable)?;
    let left = |group: &&GroupLimit| group.limit.saturating_sub(group.used.unwrap_or(0));
    groups.iter().min_by_key(left).ok_or(NoGroup::Unlimited)
}
