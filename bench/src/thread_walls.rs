//! The kernel's limits that a process with many threads runs into: how much of each is used, and which is nearest.
//!
//! All are read from procfs and the cgroup's own files, for a process that may be another; a limit that cannot be
//! read, or does not bind that process, is absent. Nothing is changed here.
//!
//! Invariant: a [`Wall`] counts in the unit of its limit, never in threads; [`Wall::threads_left`] converts.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;

/// Mappings of one thread of the standard library: its stack and the guard page below, and the stack on which a
/// stack overflow is reported, with its guard page.
pub const MAPS_PER_THREAD: u64 = 4;
/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wall {
    /// What sets it: a sysctl, a resource limit, a file of the cgroup.
    pub name: String,
    /// How much is used, by all whom the limit binds together.
    pub used: u64,
    /// How much there can be.
    pub limit: u64,
    /// How much of it one thread with one connection takes.
    pub per_thread: u64,
}

impl Wall {
    /// Threads with a connection that still fit.
    pub fn threads_left(&self) -> u64 {
        self.limit.saturating_sub(self.used) / self.per_thread
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wall { name, used, limit, per_thread } = self;
        write!(f, "{name} = {limit}, {used} in use, {per_thread} for a thread")
    }
}

/// The limits of one process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Walls(pub Vec<Wall>);

impl Walls {
    /// Reads those of a process now.
    pub fn read(pid: u32) -> Walls {
        let tasks = number_in("/proc/loadavg", |text| text.split_whitespace().nth(3)?.split('/').nth(1));
        let threads = status(pid, "Threads:");
        let maps =
            fs::read_to_string(format!("/proc/{pid}/maps")).ok().map(|maps| maps.lines().count() as u64);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|files| files.count() as u64);
        let mut walls = Vec::new();
        let mut wall = |name: &str, used: Option<u64>, limit: Option<u64>, per_thread| {
            if let (Some(used), Some(limit)) = (used, limit) {
                walls.push(Wall { name: name.to_owned(), used, limit, per_thread });
            }
        };
        wall("vm.max_map_count", maps, file("/proc/sys/vm/max_map_count"), MAPS_PER_THREAD);
        wall("kernel.pid_max", tasks, file("/proc/sys/kernel/pid_max"), 1);
        wall("kernel.threads-max", tasks, file("/proc/sys/kernel/threads-max"), 1);
        wall("RLIMIT_NOFILE", descriptors, soft_limit(pid, "Max open files"), 1);
        // It counts the threads of the user, of which those of this process are the least; and it does not bind
        // root, nor who may raise it (setrlimit(2): CAP_SYS_ADMIN, CAP_SYS_RESOURCE).
        if status(pid, "Uid:").is_some_and(|uid| uid != 0) {
            wall("RLIMIT_NPROC", threads, soft_limit(pid, "Max processes"), 1);
        }
        for group in pid_groups(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()) {
            let most = group.join("pids.max");
            wall(&most.display().to_string(), file(group.join("pids.current")), file(&most), 1);
        }
        Walls(walls)
    }

    /// The wall that the fewest further threads run into.
    pub fn nearest(&self) -> Option<&Wall> {
        self.0.iter().min_by_key(|wall| wall.threads_left())
    }

    /// The nearest wall, if it is nearer than so many threads.
    pub fn first_below(&self, threads: u32) -> Option<&Wall> {
        self.nearest().filter(|wall| wall.threads_left() < u64::from(threads))
    }
}

fn file(path: impl Into<PathBuf>) -> Option<u64> {
    number_in(path, |text| Some(text))
}

fn number_in(path: impl Into<PathBuf>, find: impl FnOnce(&str) -> Option<&str>) -> Option<u64> {
    find(&fs::read_to_string(path.into()).ok()?)?.trim().parse().ok()
}

/// The first number of a line of `/proc/PID/status`.
fn status(pid: u32, name: &'static str) -> Option<u64> {
    number_in(format!("/proc/{pid}/status"), |text| {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
    })
}

/// A size in `/proc/PID/status`.
pub fn status_bytes(pid: u32, name: &'static str) -> Option<u64> {
    status(pid, name).map(|kib| kib * 1024)
}

/// A soft limit by its name in `/proc/PID/limits`; `None` if it is unlimited.
fn soft_limit(pid: u32, name: &'static str) -> Option<u64> {
    number_in(format!("/proc/{pid}/limits"), |text| {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
    })
}

/// The groups that count the threads of a process with these lines in `/proc/PID/cgroup`, its own first, for both
/// versions of control groups. A root group has no limit, and no file.
fn pid_groups(lines: &str) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for line in lines.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers {
            "" => "/sys/fs/cgroup",
            _ if controllers.split(',').any(|one| one == "pids") => "/sys/fs/cgroup/pids",
            _ => continue,
        };
        let mut path = path.trim_matches('/');
        while !path.is_empty() {
            groups.push(PathBuf::from(root).join(path));
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(name: &str, used: u64, limit: u64, per_thread: u64) -> Wall {
        Wall { name: name.to_owned(), used, limit, per_thread }
    }

    #[test]
    fn the_nearest_wall_is_that_of_the_fewest_threads() {
        let walls = Walls(vec![wall("maps", 100, 1_000, 4), wall("pids", 100, 400, 1)]);
        assert_eq!(
            walls.nearest().map(|wall| (wall.name.as_str(), wall.threads_left())),
            Some(("maps", 225))
        );
        assert_eq!(walls.first_below(225), None);
        assert!(walls.first_below(226).is_some());
        let reached = Walls(vec![wall("maps", 999, 1_000, 4), wall("pids", 400, 300, 1)]);
        assert_eq!(reached.nearest().map(Wall::threads_left), Some(0));
        assert_eq!(Walls::default().nearest(), None);
    }

    #[test]
    fn all_groups_above_count_the_threads() {
        let lines = "8:pids,misc:/a/b\n4:memory:/c\n1:cpu:/\n0::/d\n";
        let groups: Vec<_> = pid_groups(lines).iter().map(|group| group.display().to_string()).collect();
        assert_eq!(groups, ["/sys/fs/cgroup/pids/a/b", "/sys/fs/cgroup/pids/a", "/sys/fs/cgroup/d"]);
        assert!(pid_groups("8:pids:/\n").is_empty());
    }

    #[test]
    fn a_thread_takes_as_many_mappings_as_we_say() {
        const THREADS: u64 = 50;
        let maps = || fs::read_to_string("/proc/self/maps").unwrap().lines().count() as u64;
        let before = maps();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        let there = std::sync::Arc::new(std::sync::Barrier::new(THREADS as usize + 1));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (wait, there) = (wait.clone(), there.clone());
                std::thread::spawn(move || {
                    there.wait();
                    wait.lock().unwrap().recv().unwrap_err();
                })
            })
            .collect();
        there.wait();
        // Other tests have threads too, and the allocator arenas; some of both come and go meanwhile.
        let each = (maps() - before) as f64 / THREADS as f64;
        drop(go);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!((each - MAPS_PER_THREAD as f64).abs() < 1.5, "{each} mappings for a thread");
    }

    #[test]
    fn this_process_is_read() {
        let walls = Walls::read(std::process::id());
        for name in ["vm.max_map_count", "kernel.pid_max", "kernel.threads-max", "RLIMIT_NOFILE"] {
            let wall = walls.0.iter().find(|wall| wall.name == name).unwrap_or_else(|| panic!("no {name}"));
            assert!(wall.used > 0 && wall.limit > wall.used, "{wall}");
        }
    }
}
