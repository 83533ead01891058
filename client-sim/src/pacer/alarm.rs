//! Wakes a poll at a time finer than the millisecond that `epoll_wait` knows.
//!
//! A timer descriptor in the poll. Without it every paced message would leave up to a millisecond late,
//! which is more than a delivery takes.
//!
//! Invariant: at most one system call per change of the time.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A one-shot timer registered with a poll.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    set_us: Option<u64>,
}

impl Alarm {
    /// A timer that wakes the poll with `token`.
    ///
    /// # Errors
    /// No descriptor left, or the poll refuses it.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_us: None })
    }

    /// Sets the time of the next wake-up; both times in microseconds after the start of the run. An expired
    /// timer needs no reading: setting it anew makes it wake again.
    ///
    /// # Errors
    /// None in practice: the arguments are always valid.
    pub fn set(&mut self, at_us: u64, now_us: u64) -> io::Result<()> {
        if self.set_us == Some(at_us) {
            return Ok(());
        }
        let wait_us = at_us.saturating_sub(now_us).max(1);
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: (wait_us / 1_000_000).try_into().unwrap_or(i64::MAX),
                tv_nsec: (wait_us % 1_000_000 * 1000) as _,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        self.set_us = Some(at_us);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn wakes_each_time_it_is_set() {
        let mut poll = Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry(), Token(5)).unwrap();
        let mut events = Events::with_capacity(4);
        let start = Instant::now();
        let us = || start.elapsed().as_micros() as u64;
        for _ in 0..3 {
            let due_us = us() + 300;
            alarm.set(due_us, us()).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert_eq!(events.iter().next().unwrap().token(), Token(5));
            assert!(us() >= due_us);
        }
    }
}
