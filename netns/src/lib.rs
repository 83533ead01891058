//! A network namespace of one's own, and what the kernel counts in it.
//!
//! Limits of the kernel are changed only here: the namespace is empty but for a loopback interface, and it ends with the
//! last thread in it. As root it is simply made; without root a user namespace is tried first, in which
//! the process may do to *its* network what root may do to the host's.
//!
//! A namespace is a thread's, and of the threads and processes that this one starts from then on. [`enter`] in a process
//! that has only one thread moves the process. Beside other threads it takes root: a user namespace is a process's.
//!
//! Invariant: in the namespace that a thread came from nothing is changed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

/// Why there is no such namespace, or not with that limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A privilege is missing, or memory for one more.
    Missing(String),
    /// Anything else.
    Broken(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing(text) | Error::Broken(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// Moves this thread into a network namespace of its own, with the loopback interface up.
///
/// # Errors
/// A missing privilege, or what the kernel says.
pub fn enter() -> Result<(), Error> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    match unshare(UnshareFlags::NEWNET) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).map_err(|error| match error {
                Errno::INVAL => Error::Missing(
                    "a network namespace for one of several threads needs root (unshare: EINVAL)".to_owned(),
                ),
                _ => Error::Missing(format!(
                    "a network namespace of its own needs root, or a kernel that gives user namespaces to \
                     everyone (unshare: {error})"
                )),
            })?;
            // user_namespaces(7): "deny" must be written before a group map without privilege.
            for (file, text) in [
                ("/proc/self/setgroups", "deny".to_owned()),
                ("/proc/self/uid_map", format!("0 {uid} 1")),
                ("/proc/self/gid_map", format!("0 {gid} 1")),
            ] {
                fs::write(file, text).map_err(|error| refused(file, &error))?;
            }
        }
        // `user.max_net_namespaces`, and memory.
        Err(error @ (Errno::NOSPC | Errno::NOMEM)) => {
            return Err(Error::Missing(format!(
                "the kernel makes no other network namespace (unshare: {error})"
            )));
        }
        Err(error) => return Err(Error::Broken(format!("unshare: {error}"))),
    }
    loopback_up().map_err(|error| refused("the loopback interface", &error))
}

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: what `unshare` endangers is descriptors that threads share (CLONE_FILES), which is not asked
    // for; a network and a user namespace concern sockets and rights that are made after this call.
    #[allow(unsafe_code)]
    unsafe {
        rustix::thread::unshare_unsafe(flags)
    }
}

fn refused(what: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Missing(format!("{what}: {error}; run it as root, outside of a sandbox"))
        }
        _ => Error::Broken(format!("{what}: {error}")),
    }
}

/// Brings interface 1, the loopback, up: `ip link set lo up`, by the same netlink message (rtnetlink(7)).
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    const LENGTH: usize = 32;
    let mut message = Vec::with_capacity(LENGTH);
    // struct nlmsghdr
    message.extend((LENGTH as u32).to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and type unspecified, index, flags, mask of the flags to change
    message.extend([0; 4]);
    message.extend(1_i32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    // The kernel handles the message before it returns; whether it worked is seen by whoever connects.
    Ok(())
}

/// How many buckets the kernel's table of established connections has that this namespace uses.
///
/// # Errors
/// What reading the sysctl says.
pub fn connection_buckets() -> io::Result<u32> {
    signed_buckets().map(i32::unsigned_abs)
}

/// Negative in a namespace that has no table of its own, and uses the host's.
fn signed_buckets() -> io::Result<i32> {
    let text = fs::read_to_string(sysctl_path("net.ipv4.tcp_ehash_entries"))?;
    let not_a_number = |_| io::Error::new(io::ErrorKind::InvalidData, format!("not a number: {text:?}"));
    text.trim().parse().map_err(not_a_number)
}

/// Moves this thread into a network namespace whose table of established connections has `buckets` buckets, or the next
/// power of two, at most 16,777,216. The host's is set when it boots (`thash_entries`).
///
/// # Errors
/// A missing privilege, or what the kernel says; or the kernel has no memory for such a table. The thread may have left
/// its namespace all the same.
pub fn enter_with_connection_buckets(buckets: u32) -> Result<(), Error> {
    enter()?;
    // A table is made with its namespace: what is set in one is for those that come from it.
    sysctl("net.ipv4.tcp_child_ehash_entries", &buckets.to_string())?;
    enter()?;
    match signed_buckets() {
        Ok(given) if given > 0 && given.unsigned_abs() == buckets.next_power_of_two() => Ok(()),
        // What the kernel does when it has no memory for the table.
        Ok(given) => Err(Error::Missing(format!(
            "the kernel made no table of {buckets} buckets, and uses one of {given}"
        ))),
        Err(error) => Err(refused("net.ipv4.tcp_ehash_entries", &error)),
    }
}

/// Sets a sysctl of the network namespace (`net.ipv4.tcp_max_tw_buckets`).
///
/// # Errors
/// A missing privilege, or what the kernel says.
pub fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    // A line end, as sysctl(8) writes it: a write of no bytes would change nothing.
    fs::write(sysctl_path(name), format!("{value}\n"))
        .map_err(|error| refused(&format!("sysctl {name}={value}"), &error))
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// A file of `/proc/net`, which by that name is the namespace's of the process's first thread.
fn read_net(file: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/thread-self/net/{file}"))
}

/// The kernel's TCP counters of this namespace (`/proc/net/netstat`), by name.
#[derive(Debug, Clone)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads them now.
    ///
    /// # Errors
    /// What reading the file says.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&read_net("netstat")?))
    }

    /// Pairs of lines, each with a prefix: names first, then values.
    fn parse(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let pairs = lines.chunks_exact(2).filter(|pair| pair[0].starts_with("TcpExt:")).flat_map(|pair| {
            let values = pair[1].split_whitespace().skip(1);
            pair[0].split_whitespace().skip(1).zip(values)
        });
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// How much a counter has grown since `before`.
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        let value = |counters: &Self| counters.0.get(name).copied().unwrap_or(0);
        value(self).saturating_sub(value(before))
    }
}

/// The kernel's sockets in TIME_WAIT in this namespace: those whose local port is `port`, and those whose
/// peer's port it is.
///
/// # Errors
/// What reading the file says.
pub fn time_wait(port: u16) -> io::Result<(u64, u64)> {
    Ok(parse_time_wait(&read_net("tcp")?, port))
}

fn parse_time_wait(text: &str, port: u16) -> (u64, u64) {
    const TIME_WAIT: &str = "06";
    let port = format!(":{port:04X}");
    let (mut here, mut there) = (0, 0);
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if state == TIME_WAIT {
            here += u64::from(local.ends_with(&port));
            there += u64::from(remote.ends_with(&port));
        }
    }
    (here, there)
}

/// Bytes that wait in this namespace's kernel, in the queues of connections whose local port is `port`, for their
/// peers to take them. What TCP accounts for buffers is of the whole machine.
///
/// # Errors
/// What reading the file says.
pub fn unacknowledged_bytes(port: u16) -> io::Result<u64> {
    Ok(parse_unacknowledged(&read_net("tcp")?, port))
}

fn parse_unacknowledged(text: &str, port: u16) -> u64 {
    // Of a listener, the column is the length of its backlog.
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    let queue = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state, queues) = (words.next()?, words.nth(1)?, words.next()?);
        let (sent, _) = queues.split_once(':')?;
        (local.ends_with(&port) && state != LISTEN).then(|| u64::from_str_radix(sent, 16).ok())?
    };
    text.lines().skip(1).filter_map(queue).sum()
}

#[cfg(test)]
#[path = "../../tests/support/skipped.rs"]
#[allow(dead_code, reason = "this run's list is shown by another target")]
mod skipped;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    #[test]
    fn netstat_is_pairs_of_lines() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 5 7\n\
                    IpExt: InNoRoutes InOctets\nIpExt: 1 2\n";
        let before = Counters::parse(text);
        let after = Counters::parse(&text.replace(" 5 7", " 199 207"));
        assert_eq!(after.since(&before, "ListenOverflows"), 194);
        assert_eq!(after.since(&before, "ListenDrops"), 200);
        assert_eq!(after.since(&before, "InOctets"), 0, "not TCP's");
    }

    #[test]
    fn time_wait_is_told_apart_by_side() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000\n\
             1: 0100007F:1F90 0100017F:9C41 06 00000000:00000000 03:00000F2C\n\
             2: 0100017F:9C42 0100007F:1F90 06 00000000:00000000 03:00000F2C\n\
             3: 0100017F:9C43 0100007F:1F90 06 00000000:00000000 03:00000F2C\n\
             4: 0100017F:9C44 0100007F:1F90 01 00000000:00000000 03:00000F2C\n";
        assert_eq!(parse_time_wait(text, 8080), (1, 2));
    }

    #[test]
    fn queues_are_summed_for_one_port() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000007:00000000 00:00000000\n\
             1: 0100007F:1F90 0100017F:9C41 01 00001000:00000000 03:00000F2C\n\
             2: 0100007F:1F90 0100017F:9C42 04 00000020:00000001 03:00000F2C\n\
             3: 0100017F:9C42 0100007F:1F90 01 00000300:00000000 03:00000F2C\n";
        assert_eq!(parse_unacknowledged(text, 8080), 0x1020);
    }

    /// Says why a test is left out; in CI, nothing may be.
    fn skip(reason: &dyn fmt::Display) {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!in_ci, "CI may not skip: {reason}");
        skipped::note(reason);
    }

    #[test]
    fn a_thread_has_the_table_and_the_counts_that_it_asks_for() {
        let host = match connection_buckets() {
            Ok(host) => host,
            Err(error) => return skip(&format!("net.ipv4.tcp_ehash_entries: {error}")),
        };
        let other = host / 2;
        let entered = thread::spawn(move || {
            enter_with_connection_buckets(other)?;
            // Nobody listens in a namespace that is new, so every port but this has nobody.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let listens = format!(":{:04X} ", listener.local_addr().unwrap().port());
            let lines = |file: &str| read_net(file).unwrap().lines().skip(1).map(str::to_owned).collect();
            let sockets: Vec<String> = lines("tcp");
            Ok((connection_buckets().unwrap(), sockets.len(), sockets[0].contains(&listens)))
        });
        match entered.join().unwrap() {
            Ok(seen) => assert_eq!(seen, (other, 1, true)),
            Err(Error::Missing(reason)) => skip(&reason),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(connection_buckets().unwrap(), host, "of the thread alone");
    }

    #[test]
    fn this_machine_counts() {
        assert!(!Counters::read().unwrap().0.is_empty());
    }
}
