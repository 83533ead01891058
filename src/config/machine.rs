//! What the machine has for this process: cores, descriptors, memory.
//!
//! The only part of the configuration that asks what the system has (through [`super::procfs`]). It raises the soft descriptor limit to the
//! hard one, because that is the limit the plan counts with; it changes nothing else. What follows from
//! the numbers is for [`super::plan`] to say.
//!
//! Invariant: every number is at least 1, and no larger than what the kernel would really grant.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::procfs::{Controller, Tree};

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
        let tree = Tree::live();
        let nr_open = tree.number("/proc/sys/fs/nr_open")?;
        let limit = raise_fd_limit()?.unwrap_or(nr_open);
        let cores = std::thread::available_parallelism()?.get();
        Ok(Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            // A hard limit set while `fs.nr_open` was higher is capped by it all the same.
            fd_limit: limit.min(nr_open).max(1),
            memory_bytes: memory_bytes(&tree)?.max(1),
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
fn memory_bytes(tree: &Tree) -> io::Result<u64> {
    let total = tree.meminfo_bytes("MemTotal")?;
    // A process whose control group cannot be read is treated as one without a limit: the plan is then
    // too generous, never wrong about descriptors.
    let limits = tree.group_limits(Controller::Memory).unwrap_or_default();
    Ok(limits.iter().fold(total, |least, group| least.min(group.limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::prepare().unwrap();
        assert!(machine.cores >= 1 && machine.fd_limit >= 1 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
