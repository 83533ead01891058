//! How a shard reaches a socket: implemented by the reactor and by the simulation.
//!
//! Invariant: an index names the socket of the connection that has this index, or none.

use std::io::{self, IoSlice};

use serde::Serialize;

use crate::conn::suspects::Progress;
use crate::tcb::Closer;

/// The sockets of one shard, by connection index.
pub trait Transport {
    /// Writes once. `WouldBlock`, or less than all, means: not before the shard was told that the socket is writable.
    ///
    /// # Errors
    /// As the socket's.
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// [`send`](Transport::send) of one slice, for what is called once for each member of a room. There should be no call
    /// and few branches between two such system calls: they cost far more there than elsewhere
    /// (`docs/lab/fan-out.md`, "What it was").
    ///
    /// # Errors
    /// As the socket's; `Interrupted`, too.
    fn send_one(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize> {
        self.send(index, &[IoSlice::new(bytes)])
    }

    /// Ends this side's stream.
    fn shutdown_write(&mut self, index: u32);

    /// Who will have ended the connection first if this side ends its stream now: [`Closer::Remote`] if the
    /// peer's end has arrived, read or not; [`Closer::Reset`] if ending it makes a reset of it.
    fn closer(&self, index: u32) -> Closer;

    /// Whether `error` says that the kernel has given the peer up, and what that was about; `None` if it is
    /// something else.
    fn silence(&self, index: u32, error: &io::Error) -> Option<Silence>;

    /// What the socket knows of its peer's life; `None` if that cannot be told. It is asked only before a connection is
    /// ended for what it did not say.
    fn progress(&self, index: u32) -> Option<Progress>;

    /// What the kernel knows of the connection; `None` where there is no kernel. For who looks at one connection.
    fn tcp_info(&self, _: u32) -> Option<TcpInfo> {
        None
    }
}

/// What the kernel knows of a connection (TCP_INFO of tcp(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TcpInfo {
    /// Smoothed round trip, in microseconds.
    pub rtt_us: u32,
    /// Its variation, in microseconds.
    pub rtt_variation_us: u32,
    /// Segments that were sent again.
    pub retransmissions: u32,
    /// Segments under way.
    pub unacknowledged_segments: u32,
    /// Segments that may be under way.
    pub congestion_window: u32,
    /// Bytes of a full segment.
    pub segment_bytes: u32,
    /// Bytes that the peer has acknowledged.
    pub acknowledged_bytes: u64,
    /// Bytes that have come.
    pub received_bytes: u64,
    /// Bytes that the kernel has been given and has not sent.
    pub unsent_bytes: u32,
    /// Milliseconds since bytes last came.
    pub heard_ms_ago: u32,
    /// Milliseconds since an acknowledgement last came.
    pub acknowledged_ms_ago: u32,
}

/// What a peer did not answer until the kernel gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Probes of a connection on which nothing was under way.
    Probes,
    /// Bytes that were sent.
    Unacknowledged,
}
