//! What other threads may ask of a reactor: wake-up, the end, other bounds, a sign of life.
//!
//! Invariant: an order that was given is done once, but for the end, which stays.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mio::{Poll, Token, Waker};
use parking_lot::Mutex;

use crate::shard::ShardLimits;

/// The token of the wake-up; listeners and connections have lower ones.
pub(super) const WAKE_UP: Token = Token(usize::MAX);

/// Order: end.
pub(super) const STOP: u32 = 1;
/// Order: other bounds.
pub(super) const LIMITS: u32 = 1 << 1;
/// Order: show that you turn.
const PULSE: u32 = 1 << 2;

/// The part of a reactor that other threads hold: made before the reactors split their descriptor tables, so
/// that its descriptor is valid in all of them.
#[derive(Debug)]
pub struct Handle {
    waker: Waker,
    /// Bits: what the reactor has been told and has not done yet; [`STOP`] stays.
    orders: AtomicU32,
    /// The close code of the goodbyes, and the milliseconds over which they are spread.
    goodbye: AtomicU64,
    /// With [`LIMITS`].
    limits: Mutex<Option<Arc<ShardLimits>>>,
    /// Connections that have ended since the order to stop; stored once per turn.
    ended: AtomicU64,
}

impl Handle {
    /// Makes the reactor's poll and the handle that wakes it.
    ///
    /// # Errors
    /// What `epoll_create` and `eventfd` say.
    pub fn new() -> io::Result<(Poll, Arc<Handle>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE_UP)?;
        let handle = Handle {
            waker,
            orders: AtomicU32::new(0),
            goodbye: AtomicU64::new(0),
            limits: Mutex::new(None),
            ended: AtomicU64::new(0),
        };
        Ok((poll, Arc::new(handle)))
    }

    /// Ends the reactor's wait, or its next one.
    ///
    /// # Panics
    /// When the descriptor is not valid in the caller's table: the rule of
    /// [`fd_table`](crate::net::fd_table) is broken.
    pub fn wake(&self) {
        self.waker.wake().expect("the wake-up's descriptor is valid in every table");
    }

    /// Tells the reactor to end once its connections have, which are told `code`, over so many milliseconds.
    pub fn stop(&self, code: u16, spread_ms: u32) {
        self.goodbye.store(u64::from(code) << 32 | u64::from(spread_ms), Ordering::Relaxed);
        self.order(STOP);
    }

    /// Gives the reactor's shard other bounds.
    pub fn set_limits(&self, limits: Arc<ShardLimits>) {
        *self.limits.lock() = Some(limits);
        self.order(LIMITS);
    }

    /// Asks the reactor for a sign of life: see [`Handle::has_answered`].
    pub fn feel(&self) {
        self.order(PULSE);
    }

    /// Whether the reactor has turned since it was last asked.
    pub fn has_answered(&self) -> bool {
        self.orders.load(Ordering::Relaxed) & PULSE == 0
    }

    fn order(&self, bit: u32) {
        // Release, for what is to be found with it.
        self.orders.fetch_or(bit, Ordering::Release);
        self.wake();
    }

    /// The orders; all but [`STOP`] are given once.
    pub(super) fn take_orders(&self) -> u32 {
        // A plain load, as nearly always there is none.
        let orders = self.orders.load(Ordering::Acquire);
        if orders & !STOP != 0 {
            self.orders.fetch_and(!orders | STOP, Ordering::AcqRel);
        }
        orders
    }

    /// Connections that have ended since the order to stop: whoever waits for the end sees that it comes nearer.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// The bounds that came with [`LIMITS`].
    pub(super) fn take_limits(&self) -> Option<Arc<ShardLimits>> {
        self.limits.lock().take()
    }

    /// What came with [`STOP`]: the close code, and the milliseconds over which goodbyes are spread.
    pub(super) fn goodbye(&self) -> (u16, u32) {
        let goodbye = self.goodbye.load(Ordering::Relaxed);
        ((goodbye >> 32) as u16, goodbye as u32)
    }

    /// So many connections have ended since the order to stop.
    pub(super) fn show_ended(&self, connections: u64) {
        self.ended.store(connections, Ordering::Relaxed);
    }
}
