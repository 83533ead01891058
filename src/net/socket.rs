//! A reactor's sockets, parallel to its shard's connections.
//!
//! The slot of a socket is the index of its connection in the shard: 4 bytes for the descriptor and one for
//! what is known of its readiness. Two parallel arrays and not one of pairs, which alignment would make 8
//! bytes each.
//!
//! This module reads and writes when it is told to. It does not poll, and knows no connection states.
//!
//! # Readiness bits, and the stall that they prevent
//! Sockets are registered once, edge-triggered, for both directions: the kernel reports *changes*. A loop
//! that acts on reports alone stalls: it gets a report, stops reading for its own reasons (fairness, or
//! backpressure) with bytes left in the socket, and sleeps for the next report, which never comes because
//! nothing changes: the peer waits for an answer to what it has already sent. The cure is to note the report
//! and to forget it only when the kernel itself says that it no longer holds:
//!
//! - `READABLE` is set by a report and cleared when a read would block, or returns less than asked for.
//!   Whoever stops earlier leaves it set and comes back on its own accord.
//! - `ENDED`: the report said that the peer has sent its last byte. No further report will come, so a
//!   short read proves nothing and the stream is read up to its end.
//! - `BLOCKED` is set by a write that the kernel did not take whole; only then is a report of writability
//!   news to anybody.
//! - `LISTED`: the reactor has the connection on its list of those to read from.
//!
//! Invariant: a slot without a socket has no bit set.

use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;

use crate::conn::suspects::Progress;
use crate::conn::transport::TcpInfo;
use crate::shard::{Silence, Transport};
use crate::tcb::Closer;

/// There may be bytes to read.
pub const READABLE: u8 = 1;
/// The peer has ended its stream.
pub const ENDED: u8 = 1 << 1;
/// The last write was not taken whole.
pub const BLOCKED: u8 = 1 << 2;
/// On the reactor's list of connections to read from.
pub const LISTED: u8 = 1 << 3;

const _: () = assert!(size_of::<Option<TcpStream>>() == 4, "the descriptor's niche holds the empty slot");

/// Bytes of one socket here: its descriptor and its readiness.
pub const BYTES_PER_SOCKET: usize = size_of::<Option<TcpStream>>() + size_of::<u8>();

/// Sockets and their readiness by connection index.
#[derive(Debug, Default)]
pub struct Sockets {
    streams: Vec<Option<TcpStream>>,
    readiness: Vec<u8>,
}

impl Sockets {
    /// Room for `connections` sockets without reallocation. Pages that are never used cost nothing.
    pub fn with_capacity(connections: usize) -> Sockets {
        Sockets { streams: Vec::with_capacity(connections), readiness: Vec::with_capacity(connections) }
    }

    /// Puts a new connection's socket in its slot and returns a reference for registering it.
    ///
    /// # Panics
    /// When the slot is taken: the shard reuses an index only after its socket was closed.
    pub fn insert(&mut self, index: u32, stream: TcpStream) -> &TcpStream {
        let index = index as usize;
        if index >= self.streams.len() {
            self.streams.resize_with(index + 1, || None);
            self.readiness.resize(index + 1, 0);
        }
        let slot = &mut self.streams[index];
        assert!(slot.is_none(), "connection {index} already has a socket");
        slot.insert(stream)
    }

    /// Closes a socket; nothing happens when there is none.
    ///
    /// `reset` makes the kernel send RST and forget the connection, for peers that cannot be trusted to
    /// let it end in order; unsent bytes are lost.
    ///
    /// The descriptor leaves the epoll instance by being closed, as no other descriptor, in any table, refers
    /// to the same socket: sparing a system call per connection.
    pub fn close(&mut self, index: u32, reset: bool) {
        let index = index as usize;
        let Some(stream) = self.streams.get_mut(index).and_then(Option::take) else { return };
        self.readiness[index] = 0;
        if reset {
            reset_on_close(&stream);
        }
    }

    /// The readiness bits of a connection; 0 when it has no socket.
    pub fn readiness(&self, index: u32) -> u8 {
        self.readiness.get(index as usize).copied().unwrap_or(0)
    }

    /// Sets readiness bits and returns which were set before. Without a socket nothing is set.
    pub fn set(&mut self, index: u32, bits: u8) -> u8 {
        let index = index as usize;
        if self.streams.get(index).is_none_or(Option::is_none) {
            return 0;
        }
        let before = self.readiness[index];
        self.readiness[index] = before | bits;
        before
    }

    /// Clears readiness bits.
    pub fn clear(&mut self, index: u32, bits: u8) {
        if let Some(readiness) = self.readiness.get_mut(index as usize) {
            *readiness &= !bits;
        }
    }

    /// One read into `buffer`, keeping the READABLE bit true: 0 is the end of the stream.
    ///
    /// # Errors
    /// What `recv` says; WouldBlock when there is nothing to read.
    pub fn receive(&mut self, index: u32, buffer: &mut [u8]) -> io::Result<usize> {
        // Not by the C library, as in `send`.
        let result = self.stream(index).and_then(|stream| {
            retry_interrupted(|| Ok(rustix::net::recv(stream, &mut *buffer, RecvFlags::empty())?.1))
        });
        match result {
            Ok(received) => {
                // Less than was asked for means that there was no more (epoll(7)), and that the next byte
                // will be reported; unless the end of the stream was reported with it.
                if received == 0 || (received < buffer.len() && self.readiness(index) & ENDED == 0) {
                    self.clear(index, READABLE);
                }
            }
            Err(_) => self.clear(index, READABLE),
        }
        result
    }

    /// The error that the kernel has noted for a socket, if there is one.
    pub fn take_error(&self, index: u32) -> Option<io::Error> {
        match self.stream(index).and_then(TcpStream::take_error) {
            Ok(noted) => noted,
            Err(error) => Some(error),
        }
    }

    /// Sockets open; walks all slots.
    pub fn open(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    /// Panics when the invariant is broken.
    pub fn check(&self) {
        assert_eq!(self.streams.len(), self.readiness.len());
        for (stream, readiness) in self.streams.iter().zip(&self.readiness) {
            assert!(stream.is_some() || *readiness == 0, "readiness of an empty slot");
        }
    }

    /// Sets BLOCKED when the kernel did not take all `len` bytes.
    fn note_sent(&mut self, index: u32, result: &io::Result<usize>, len: usize) {
        let is_blocked = match result {
            Ok(sent) => *sent < len,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_blocked {
            self.set(index, BLOCKED);
        }
    }

    #[inline]
    fn stream(&self, index: u32) -> io::Result<&TcpStream> {
        self.streams
            .get(index as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Transport for Sockets {
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let stream = self.stream(index)?;
        let result = retry_interrupted(|| match slices {
            // The kernel need not copy and check a vector, and the C library is left out: its `send` looks for a
            // cancellation of this thread, before and after.
            [slice] => Ok(rustix::net::send(stream, slice, SendFlags::NOSIGNAL)?),
            slices => (&mut &*stream).write_vectored(slices),
        });
        self.note_sent(index, &result, slices.iter().map(|slice| slice.len()).sum());
        result
    }

    #[inline(always)]
    fn send_one(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize> {
        match rustix::net::send(self.stream(index)?, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => Ok(sent),
            other => {
                let result = other.map_err(io::Error::from);
                self.note_sent(index, &result, bytes.len());
                result
            }
        }
    }

    fn shutdown_write(&mut self, index: u32) {
        if let Ok(stream) = self.stream(index)
            && let Err(error) = stream.shutdown(Shutdown::Write)
        {
            // The peer has reset the connection meanwhile: reading will say so, too.
            tracing::trace!(index, %error, "shutdown");
        }
    }

    fn closer(&self, index: u32) -> Closer {
        let Ok(stream) = self.stream(index) else { return Closer::Reset };
        // One system call for each connection that this side ends first. Without it an end that came since the
        // last poll would not be seen, and the model of TIME_WAIT would drift from the kernel's.
        // EINTR or ENOMEM: the common case is as good a guess as any.
        readiness(stream).map_or(Closer::Local, closer_by)
    }

    fn silence(&self, index: u32, error: &io::Error) -> Option<Silence> {
        // When it gives up, the kernel says ETIMEDOUT, or what routers, or its own routing, told it meanwhile.
        let is_silence = matches!(
            Errno::from_io_error(error),
            Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH)
        );
        // Probes are sent only while nothing is unacknowledged, so what is tells the two apart.
        is_silence.then(|| match self.stream(index).and_then(unacknowledged) {
            Ok(0) | Err(_) => Silence::Probes,
            Ok(_) => Silence::Unacknowledged,
        })
    }

    fn progress(&self, index: u32) -> Option<Progress> {
        let stream = self.stream(index).ok()?;
        // This order: what arrives between two of the calls makes the peer look more alive, never less.
        let info = tcp_info(stream).ok()?;
        Some(Progress {
            unacknowledged: unacknowledged(stream).ok()?.into(),
            // EINTR or ENOMEM: to read in vain costs nothing.
            has_unread: readiness(stream).map_or(true, |readiness| !readiness.is_empty()),
            arrived_ms_ago: info.tcpi_last_data_recv,
            answered_ms_ago: info.tcpi_last_ack_recv,
            acknowledged: info.tcpi_bytes_acked,
        })
    }

    fn tcp_info(&self, index: u32) -> Option<TcpInfo> {
        // A Unix socket has none.
        let info = tcp_info(self.stream(index).ok()?).ok()?;
        Some(TcpInfo {
            rtt_us: info.tcpi_rtt,
            rtt_variation_us: info.tcpi_rttvar,
            retransmissions: info.tcpi_total_retrans,
            unacknowledged_segments: info.tcpi_unacked,
            congestion_window: info.tcpi_snd_cwnd,
            segment_bytes: info.tcpi_snd_mss,
            acknowledged_bytes: info.tcpi_bytes_acked,
            received_bytes: info.tcpi_bytes_received,
            unsent_bytes: info.tcpi_notsent_bytes,
            heard_ms_ago: info.tcpi_last_data_recv,
            acknowledged_ms_ago: info.tcpi_last_ack_recv,
        })
    }
}

/// What there is to read from a socket: bytes, an end, an error.
fn readiness(stream: &TcpStream) -> io::Result<PollFlags> {
    const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut socket = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut socket, Some(&NO_WAIT))?;
    Ok(socket[0].revents())
}

/// What the kernel knows of a connection (TCP_INFO of tcp(7)).
fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: integers only, for all of which zero is a value; a kernel that knows fewer fields leaves the others zero.
    #[allow(unsafe_code)]
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = libc::socklen_t::try_from(size_of_val(&info)).expect("a few hundred bytes");
    // SAFETY: the kernel writes at most `bytes` bytes to `info`, which is that large, and the length to `bytes`; both
    // live for the whole call, and the descriptor is open while the stream is borrowed.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut bytes,
        )
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that the kernel has been given and the peer has not acknowledged (SIOCOUTQ of tcp(7)).
fn unacknowledged(stream: &TcpStream) -> io::Result<u32> {
    /// As in Linux' asm-generic, which all architectures with a Rust tier 1 or 2 server target share but MIPS and
    /// PowerPC.
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: tcp(7): this request stores one `int` and does nothing else.
    #[allow(unsafe_code)]
    let bytes =
        unsafe { rustix::ioctl::ioctl(stream, rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new()) }?;
    u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What a socket's readiness says of who will have ended it first.
fn closer_by(readiness: PollFlags) -> Closer {
    if readiness.contains(PollFlags::ERR) {
        Closer::Reset
    } else if readiness.contains(PollFlags::RDHUP) {
        Closer::Remote
    } else if readiness.contains(PollFlags::IN) {
        // The kernel answers a close over unread bytes with RST (RFC 9293 section 3.10.4, RFC 2525 section 2.17).
        Closer::Reset
    } else {
        Closer::Local
    }
}

/// Makes the kernel reset the connection when the socket is closed.
pub(super) fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        // Then the close is an orderly one, which costs a TIME_WAIT entry and nothing else.
        tracing::debug!(%error, "SO_LINGER");
    }
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Our end in slot 3 of a fresh table, and the peer's end.
    fn connected() -> (Sockets, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut sockets = Sockets::default();
        sockets.insert(3, stream);
        (sockets, peer)
    }

    /// Reads until something other than WouldBlock comes; loopback delivers at once, in most cases.
    fn receive(sockets: &mut Sockets, buffer: &mut [u8]) -> io::Result<usize> {
        for _ in 0..1000 {
            match sockets.receive(3, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sockets.set(3, READABLE);
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result,
            }
        }
        panic!("nothing came")
    }

    #[test]
    fn a_short_read_is_the_end_of_what_was_reported() {
        let (mut sockets, mut peer) = connected();
        peer.write_all(b"hello").unwrap();
        sockets.set(3, READABLE);
        assert_eq!(receive(&mut sockets, &mut [0; 5]).unwrap(), 5);
        assert_eq!(sockets.readiness(3), READABLE, "a full buffer says nothing about the rest");
        assert_eq!(sockets.receive(3, &mut [0; 5]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(sockets.readiness(3), 0);
        peer.write_all(b"abc").unwrap();
        sockets.set(3, READABLE);
        assert_eq!(receive(&mut sockets, &mut [0; 5]).unwrap(), 3);
        assert_eq!(sockets.readiness(3), 0);
    }

    #[test]
    fn an_ended_stream_is_read_to_its_end() {
        let (mut sockets, mut peer) = connected();
        peer.write_all(b"bye").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        sockets.set(3, READABLE | ENDED);
        assert_eq!(receive(&mut sockets, &mut [0; 9]).unwrap(), 3);
        assert_eq!(sockets.readiness(3), READABLE | ENDED, "the end itself is still to be read");
        assert_eq!(receive(&mut sockets, &mut [0; 9]).unwrap(), 0);
        assert_eq!(sockets.readiness(3), ENDED);
    }

    #[test]
    fn a_write_that_does_not_fit_blocks() {
        let (mut sockets, mut peer) = connected();
        let piece = vec![7; 1 << 20];
        let mut sent = 0;
        while sockets.readiness(3) & BLOCKED == 0 {
            sent += sockets.send(3, &[IoSlice::new(&piece), IoSlice::new(&piece)]).unwrap();
        }
        assert_eq!(sockets.send(3, &[IoSlice::new(&piece)]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut received = vec![0; sent];
        peer.read_exact(&mut received).unwrap();
        assert!(received.iter().all(|byte| *byte == 7));
        // The same of one piece, which is written on another way.
        sockets.clear(3, BLOCKED);
        while sockets.send_one(3, &piece).is_ok_and(|sent| sent == piece.len()) {}
        assert_eq!(sockets.readiness(3) & BLOCKED, BLOCKED);
        sockets.clear(3, BLOCKED);
        assert_eq!(sockets.send_one(3, &piece).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(sockets.readiness(3) & BLOCKED, BLOCKED);
    }

    #[test]
    fn who_ends_first_is_what_the_kernel_has_seen() {
        /// Waits for the peer's packets, which loopback delivers at once, in most cases.
        fn becomes(sockets: &Sockets, closer: Closer) {
            for _ in 0..1000 {
                if sockets.closer(3) == closer {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("{:?} and not {closer:?}", sockets.closer(3));
        }
        let (mut sockets, mut peer) = connected();
        assert_eq!(sockets.closer(3), Closer::Local);
        peer.write_all(b"late").unwrap();
        becomes(&sockets, Closer::Reset);
        receive(&mut sockets, &mut [0; 4]).unwrap();
        assert_eq!(sockets.closer(3), Closer::Local);
        peer.write_all(b"later").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        becomes(&sockets, Closer::Remote);

        let (sockets, peer) = connected();
        reset_on_close(&peer);
        drop(peer);
        becomes(&sockets, Closer::Reset);
        assert_eq!(sockets.closer(4), Closer::Reset, "there is no such socket");
    }

    /// Waits for the peer's packets, which loopback delivers at once, in most cases.
    fn await_progress(sockets: &Sockets, is_there: impl Fn(&Progress) -> bool) -> Progress {
        for _ in 0..1000 {
            let progress = sockets.progress(3).unwrap();
            if is_there(&progress) {
                return progress;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{:?}", sockets.progress(3))
    }

    #[test]
    fn a_socket_knows_what_has_come_and_what_was_taken() {
        let (mut sockets, mut peer) = connected();
        let before = sockets.progress(3).unwrap();
        assert!(!before.has_unread && before.unacknowledged == 0, "{before:?}");
        peer.write_all(b"hello").unwrap();
        await_progress(&sockets, |progress| progress.has_unread);
        receive(&mut sockets, &mut [0; 9]).unwrap();
        assert!(!sockets.progress(3).unwrap().has_unread);
        assert_eq!(sockets.send(3, &[IoSlice::new(b"hello back")]).unwrap(), 10);
        let after = await_progress(&sockets, |progress| progress.unacknowledged == 0);
        assert_eq!(after.acknowledged - before.acknowledged, 10);
        assert!(after.arrived_ms_ago < 60_000 && after.answered_ms_ago < 60_000, "{after:?}");
        // An end is something to read as well.
        drop(peer);
        await_progress(&sockets, |progress| progress.has_unread);
        assert_eq!(sockets.progress(4), None, "there is no such socket");
    }

    #[test]
    fn probes_that_are_answered_acknowledge_nothing() {
        let (mut sockets, peer) = connected();
        let piece = vec![7; 1 << 20];
        while sockets.readiness(3) & BLOCKED == 0 {
            sockets.send_one(3, &piece).unwrap();
        }
        // What the peer's kernel takes without its program is over when two looks, far apart for loopback, agree.
        let mut last = sockets.progress(3).unwrap();
        let full = loop {
            std::thread::sleep(Duration::from_millis(500));
            let progress = sockets.progress(3).unwrap();
            if progress.acknowledged == last.acknowledged {
                break progress;
            }
            last = progress;
        };
        assert!(full.unacknowledged > 0);
        // The kernel probes the closed window, and the peer's kernel answers.
        let probed = await_progress(&sockets, |progress| progress.answered_ms_ago < 200);
        assert_eq!((probed.acknowledged, probed.unacknowledged), (full.acknowledged, full.unacknowledged));
        drop(peer);
    }

    #[test]
    fn a_close_is_orderly_unless_it_is_a_reset() {
        for reset in [false, true] {
            let (mut sockets, mut peer) = connected();
            sockets.set(3, READABLE | LISTED);
            sockets.close(3, reset);
            sockets.check();
            sockets.close(3, reset);
            let end = peer.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(end, if reset { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) });
        }
    }

    #[test]
    fn empty_slots_are_harmless() {
        let (mut sockets, peer) = connected();
        for index in [0, 2, 4, u32::MAX] {
            assert_eq!(sockets.set(index, READABLE), 0);
            assert_eq!(sockets.readiness(index), 0);
            assert_eq!(sockets.receive(index, &mut [0]).unwrap_err().kind(), io::ErrorKind::NotConnected);
            assert_eq!(sockets.send(index, &[]).unwrap_err().kind(), io::ErrorKind::NotConnected);
            sockets.shutdown_write(index);
        }
        sockets.check();
        sockets.close(3, true);
        assert_eq!(sockets.open(), 0);
        drop(peer);
    }
}
