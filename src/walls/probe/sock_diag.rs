//! Listening sockets, asked over netlink (`sock_diag(7)`).
//!
//! A dump of one state only: the kernel walks its table of listeners and not the connections, so the answer
//! comes in no time however many there are. Unlike `/proc/net/tcp` it tells the maximum of each queue.
//!
//! Invariant: the answer is read by bounds-checked slices; a message that is too short is passed over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::Listener;

/// Time after which the kernel is taken not to answer: it does at once, or never.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Listening sockets that are told at most.
const LISTENERS_MAX: usize = 65_536;

const HEADER_BYTES: usize = 16;
/// `inet_diag_req_v2`.
const REQUEST_BYTES: usize = 56;
/// `inet_diag_msg`.
const MESSAGE_BYTES: usize = 72;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x301;
const IPPROTO_TCP: u8 = 6;
/// The bit of TCP_LISTEN.
const LISTEN: u32 = 1 << 10;

/// The listening TCP sockets of the network namespace.
///
/// # Errors
/// If there is no such socket family (a sandbox may forbid it), or the kernel refuses.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_MAX))?;
    let mut listeners = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        dump(&socket, family, &mut listeners)?;
    }
    Ok(listeners)
}

fn dump(socket: &OwnedFd, family: AddressFamily, listeners: &mut Vec<Listener>) -> io::Result<()> {
    // Without an address it goes to the kernel.
    rustix::net::send(socket, &request(family), SendFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (received, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if received == 0 || !parse(&buffer[..received], listeners)? {
            return Ok(());
        }
    }
}

fn request(family: AddressFamily) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + REQUEST_BYTES);
    bytes.extend(((HEADER_BYTES + REQUEST_BYTES) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port: one request at a time needs neither.
    bytes.extend([0; 8]);
    // Families are small numbers.
    bytes.extend([family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
    bytes.extend(LISTEN.to_ne_bytes());
    // No socket in particular.
    bytes.resize(HEADER_BYTES + REQUEST_BYTES, 0);
    bytes
}

/// Reads one datagram of answers; false after the last.
fn parse(mut rest: &[u8], listeners: &mut Vec<Listener>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = length as usize;
        let Some(message) = rest.get(HEADER_BYTES..length) else { break };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = u32_at(message, 0).map_or(0, |code| code as i32);
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            _ if listeners.len() < LISTENERS_MAX => listeners.extend(listener(message)),
            _ => {}
        }
        // Messages start at multiples of four.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn listener(message: &[u8]) -> Option<Listener> {
    if message.len() < MESSAGE_BYTES {
        return None;
    }
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let ip = if message[0] == AddressFamily::INET.as_raw() as u8 {
        let bytes: [u8; 4] = message.get(8..12)?.try_into().ok()?;
        IpAddr::V4(Ipv4Addr::from(bytes))
    } else {
        let bytes: [u8; 16] = message.get(8..24)?.try_into().ok()?;
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    Some(Listener {
        address: SocketAddr::new(ip, port),
        // Of a listening socket these are the queue of `accept` and its maximum (`inet_diag_fill_req`'s
        // `idiag_rqueue`, `idiag_wqueue`).
        queued: u64::from(u32_at(message, 56)?),
        queued_max: u32_at(message, 60).map(u64::from),
        inode: u32_at(message, 68).map(u64::from),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    /// The queue of a listener that does not accept is told with its length and its maximum.
    #[test]
    fn the_kernel_tells_the_queue_of_a_listener() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        rustix::net::listen(&listening, 7).unwrap();
        let _waiting: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let found = listeners().unwrap();
        let found = found.iter().find(|listener| listener.address == address).unwrap();
        assert_eq!((found.queued, found.queued_max), (3, Some(7)));
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), length in 0_u32..200) {
            let mut listeners = Vec::new();
            drop(parse(&bytes, &mut listeners));
            let mut framed = length.to_ne_bytes().to_vec();
            framed.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            framed.extend(&bytes);
            drop(parse(&framed, &mut listeners));
        }
    }
}
