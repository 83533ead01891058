//! What the kernel charges a control group for one connection: measured, with some hundred real ones.
//!
//! Connections are made on loopback and wait to be accepted; then they are accepted and put into an epoll set, as a
//! server does it, and how far the group's kernel memory has grown in between is divided by their number. It is done in
//! a group of its own below that of the process where one can be made, so that nobody else is measured.
//!
//! Invariant: whatever fails, the process is in its own group again, and the group that was made is gone.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::epoll;
use socket2::{Domain, SockRef, Socket, Type};

use super::files::named_number;
use crate::config::procfs::Version;

/// Connections that are made at most.
const CONNECTIONS_MAX: u64 = 2_000;
/// Connections without which a measurement says nothing: a group is charged by pages.
const CONNECTIONS_MIN: u64 = 100;
/// Descriptors that are left for everything else.
const DESCRIPTORS_SPARE: u64 = 64;

/// The group that is measured in.
struct Place {
    directory: PathBuf,
    version: Version,
    /// Where the process came from, if it has moved.
    home: Option<PathBuf>,
}

impl Place {
    /// A group below that of the process, or else that one.
    fn enter(directory: &Path, version: Version) -> Place {
        let own = directory.join(format!("tcbchat-measure-{}", std::process::id()));
        let stay = || Place { directory: directory.to_owned(), version, home: None };
        if fs::create_dir(&own).is_err() {
            return stay();
        }
        let place = Place { directory: own.clone(), version, home: Some(directory.to_owned()) };
        // A group without the controller has no such file.
        let is_counted = place.kernel_bytes().is_ok();
        if is_counted && fs::write(own.join("cgroup.procs"), std::process::id().to_string()).is_ok() {
            return place;
        }
        drop(place);
        stay()
    }

    /// Bytes of kernel memory that the group is charged.
    fn kernel_bytes(&self) -> io::Result<u64> {
        let missing = || io::Error::other("the group does not tell its kernel memory");
        match self.version {
            Version::V1 => {
                let text = fs::read_to_string(self.directory.join("memory.kmem.usage_in_bytes"))?;
                text.trim().parse().map_err(|_| missing())
            }
            Version::V2 => {
                let text = fs::read_to_string(self.directory.join("memory.stat"))?;
                // Since Linux 5.18 all of it; before, the objects.
                named_number(&text, "kernel").or_else(|| named_number(&text, "slab")).ok_or_else(missing)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            // One that never moved in is at home already; a group that is left over is empty and costs nothing.
            drop(fs::write(home.join("cgroup.procs"), std::process::id().to_string()));
            drop(fs::remove_dir(&self.directory));
        }
    }
}

/// Bytes of the kernel for one connection that is accepted and watched.
///
/// # Errors
/// That there are too few descriptors, or what a system call or the group's files say.
pub(super) fn bytes_each(
    directory: &Path,
    version: Version,
    somaxconn: u64,
    fd_limit: u64,
) -> io::Result<u64> {
    let by_descriptors = fd_limit.saturating_sub(DESCRIPTORS_SPARE) / 2;
    let count = CONNECTIONS_MAX.min(by_descriptors).min(somaxconn.saturating_sub(1));
    if count < CONNECTIONS_MIN {
        return Err(io::Error::other(format!(
            "{count} connections are too few to measure with (RLIMIT_NOFILE, net.core.somaxconn)"
        )));
    }
    let place = Place::enter(directory, version);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(i32::try_from(count + 1).unwrap_or(i32::MAX))?;
    let address = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let clients: Vec<TcpStream> = (0..count)
        .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(1)))
        .collect::<io::Result<_>>()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let before = place.kernel_bytes()?;
    let mut accepted = Vec::with_capacity(clients.len());
    for number in 0..count {
        let (socket, _) = listener.accept()?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, &socket, epoll::EventData::new_u64(number), events)?;
        accepted.push(socket);
    }
    let grown = place.kernel_bytes()?.saturating_sub(before);
    for client in &clients {
        // Closed by a reset, they leave nothing in TIME_WAIT.
        SockRef::from(client).set_linger(Some(Duration::ZERO))?;
    }
    drop(clients);
    drop((accepted, poll, listener));
    drop(place);
    Ok(grown / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_no_measurement() {
        let error = bytes_each(Path::new("/nowhere"), Version::V1, 4_096, 100).unwrap_err();
        assert!(error.to_string().starts_with("18 connections are too few"), "{error}");
        // A group that is none has no kernel memory to tell.
        assert!(bytes_each(Path::new("/nowhere"), Version::V1, 4_096, 1_000).is_err());
    }
}
