//! What the machine has for this process: cores, descriptors, memory.
//!
//! Plain numbers that the plan is made from, and the one thing that is changed for it: the soft descriptor limit is
//! raised to the hard one, because that is the limit the plan counts with. Who reads them is `walls::probe`, for
//! `serve` and for the doctor alike; what follows from them is for [`super::plan`] to say.
//!
//! Invariant: every limit is at least 1, and no larger than what the kernel would really grant.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the machine has for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Cores that this process may use, quotas of a container considered.
    pub cores: u32,
    /// Descriptors that one descriptor table may hold.
    pub fd_limit: u64,
    /// Descriptors beyond the three standard streams that the process was born with. Every table has them.
    pub fds_inherited: u64,
    /// Whether a thread may take a private descriptor table.
    pub has_private_tables: bool,
    /// Bytes of memory, limits of a container considered.
    pub memory_bytes: u64,
}

impl Machine {
    /// A machine on which a process starts with nothing but its standard streams, and without a sandbox.
    pub fn new(cores: u32, fd_limit: u64, memory_bytes: u64) -> Self {
        Self {
            cores: cores.max(1),
            fd_limit: fd_limit.max(1),
            fds_inherited: 0,
            has_private_tables: true,
            memory_bytes: memory_bytes.max(1),
        }
    }
}

/// Raises the soft limit of descriptors to the hard one.
///
/// # Errors
/// If the kernel refuses; no rule of it is known that does.
pub fn raise_fd_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise_fd_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
