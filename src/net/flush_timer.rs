//! Ends a reactor's wait when delayed messages are due.
//!
//! The poll itself waits for whole milliseconds (epoll_wait(2)), and the longest delay is one. A timerfd is as fine as
//! the kernel's clock, and is one more descriptor in the poll. It costs a system call for each delayed write of a room,
//! which then goes to all its members, and nothing where no delay is configured.
//!
//! Invariant: while `armed` names a moment to come, the poll will report it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::time::Micros;

/// A timer in a poll.
#[derive(Debug)]
pub struct FlushTimer {
    timer: OwnedFd,
    armed: Option<Micros>,
}

impl FlushTimer {
    /// Makes a timer whose expiry the poll reports as `token`.
    ///
    /// # Errors
    /// What `timerfd_create` and `epoll_ctl` say.
    pub fn new(registry: &Registry, token: Token) -> io::Result<FlushTimer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Edge-triggered: each expiry is reported, read or not.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(FlushTimer { timer, armed: None })
    }

    /// Makes the poll report `due`; `false` if that moment has come already, and there is nothing to wait for.
    ///
    /// # Errors
    /// What `timerfd_settime` says.
    pub fn arm(&mut self, due: Micros, now: Micros) -> io::Result<bool> {
        if due <= now {
            return Ok(false);
        }
        if self.armed != Some(due) {
            let wait = due.since(now);
            let value =
                Timespec { tv_sec: (wait / 1_000_000) as i64, tv_nsec: (wait % 1_000_000 * 1_000) as i64 };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            self.armed = Some(due);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::time::Clock;

    #[test]
    fn the_poll_wakes_at_each_moment_that_was_armed_and_not_before() {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(4);
        let mut timer = FlushTimer::new(poll.registry(), Token(7)).unwrap();
        let clock = Clock::start();
        for _ in 0..3 {
            let now = clock.micros();
            let due = now.after(300);
            assert!(timer.arm(due, now).unwrap());
            // Once more changes nothing.
            assert!(timer.arm(due, now).unwrap());
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [Token(7)]);
            // The clock's microseconds are rounded down when the timer is armed.
            assert!(clock.micros().after(2) >= due);
            assert!(!timer.arm(due, clock.micros().after(2)).unwrap());
        }
    }
}
