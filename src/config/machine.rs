//! What the machine has for this process: cores, descriptors, memory.
//!
//! The only part of the configuration that reads the system. It raises the soft descriptor limit to the
//! hard one, because that is the limit the plan counts with; it changes nothing else. What follows from
//! the numbers is for [`super::plan`] to say.
//!
//! Invariant: every number is at least 1, and no larger than what the kernel would really grant.

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the machine has for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Cores that this process may use, quotas of a container considered.
    pub cores: u32,
    /// Descriptors that one descriptor table may hold.
    pub fd_limit: u64,
    /// Bytes of memory, limits of a container considered.
    pub memory_bytes: u64,
}

impl Machine {
    /// Raises the soft descriptor limit to the hard one, and reads the machine.
    ///
    /// # Errors
    /// If `/proc` cannot be read, or the limit not be raised.
    pub fn prepare() -> io::Result<Self> {
        let nr_open = read_number("/proc/sys/fs/nr_open")?;
        let limit = raise_fd_limit()?.unwrap_or(nr_open);
        let cores = std::thread::available_parallelism()?.get();
        Ok(Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            // A hard limit set while `fs.nr_open` was higher is capped by it all the same.
            fd_limit: limit.min(nr_open).max(1),
            memory_bytes: memory_bytes()?.max(1),
        })
    }
}

/// Raises the soft limit of descriptors to the hard one, which is returned; `None` is no limit.
fn raise_fd_limit() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum)
}

/// The machine's memory, or the container's if that is less.
fn memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo_bytes(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))?;
    // A process whose control group cannot be read is treated as one without a limit: the plan is then
    // too generous, never wrong about descriptors.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = control_files(&groups).into_iter().filter_map(|file| read_number(file).ok());
    Ok(limits.fold(total, u64::min))
}

/// `MemTotal` in bytes.
fn meminfo_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that may limit the memory of a process with these lines in `/proc/self/cgroup`: those of its
/// group and of all groups above, for both versions of control groups.
fn control_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|above| Path::new(root).join(above).join(file)));
    }
    files
}

/// The number that a file of the kernel holds; the `max` of an unlimited control group is an error.
fn read_number(path: impl AsRef<Path>) -> io::Result<u64> {
    let text = std::fs::read_to_string(&path)?;
    text.trim().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", path.as_ref().display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_found() {
        assert_eq!(meminfo_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(meminfo_bytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn limits_of_all_groups_above_count() {
        let paths = |groups| -> Vec<String> {
            control_files(groups).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            paths("0::/system.slice/tcbchat.service\n"),
            [
                "/sys/fs/cgroup/system.slice/tcbchat.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            paths("5:cpu,memory:/box\n2:cpuset:/\n"),
            [
                "/sys/fs/cgroup/memory/box/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::prepare().unwrap();
        assert!(machine.cores >= 1 && machine.fd_limit >= 1 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
