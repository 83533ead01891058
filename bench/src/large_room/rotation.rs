//! Guests that join a room one after the other, stay for a while, and leave.
//!
//! Open loop: joins are due at even times whatever the server does. After the first stay there are as many leaves a second as
//! joins.
//!
//! Invariant: a guest is free, on its way in, inside, or on its way out.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::beside::{Act, ROOM};
use crate::guests::Heard;
use crate::guests::{Guests, JOINED, LEFT};

/// See the module.
#[derive(Debug)]
pub struct Rotation {
    every: Duration,
    stay: Duration,
    /// When the next join is due.
    next: Instant,
    /// Joins that have not begun.
    left: u64,
    free: VecDeque<u32>,
    /// Since when a guest that is not free waits for its receipt, or has been inside.
    since: Vec<Option<Instant>>,
    /// Inside, in the order in which they joined.
    inside: VecDeque<u32>,
    /// From each SUBSCRIBE to its RECEIPT, in milliseconds.
    pub joins_ms: Vec<f64>,
    /// Messages that these guests have heard.
    pub deliveries: u64,
}

impl Rotation {
    /// These guests join, `per_s` a second and `joins` in all, and stay so long each.
    pub fn new(guests: Range<u32>, per_s: u32, joins: u64, stay: Duration) -> Rotation {
        Rotation {
            every: Duration::from_secs(1) / per_s.max(1),
            stay,
            next: Instant::now(),
            left: joins,
            since: vec![None; guests.end as usize],
            free: guests.collect(),
            inside: VecDeque::new(),
            joins_ms: Vec::new(),
            deliveries: 0,
        }
    }

    /// How many guests it takes: those that are inside, and twice as many as come in a second on their way.
    pub fn guests(per_s: u32, stay: Duration) -> u32 {
        (f64::from(per_s) * (stay.as_secs_f64() + 2.0)).ceil() as u32
    }

    /// The number behind those of its guests.
    pub fn end(&self) -> u32 {
        self.since.len() as u32
    }

    /// The first join is due now.
    pub fn begin(&mut self) {
        self.next = Instant::now();
    }

    /// Whether all have joined and left again.
    pub fn is_over(&self) -> bool {
        self.left == 0 && self.since.iter().all(Option::is_none)
    }
}

impl Act for Rotation {
    fn act(&mut self, guests: &mut Guests) -> Result<Option<Instant>, String> {
        let now = Instant::now();
        while self.left > 0 && self.next <= now {
            let n = self.free.pop_front().ok_or("no guest is free to join: answers take too long")?;
            self.since[n as usize] = Some(Instant::now());
            guests.join(n, ROOM)?;
            self.next += self.every;
            self.left -= 1;
        }
        let mut next = (self.left > 0).then_some(self.next);
        while let Some(&n) = self.inside.front() {
            let leaves = self.since[n as usize].unwrap_or(now) + self.stay;
            if leaves > now {
                next = Some(next.map_or(leaves, |next| next.min(leaves)));
                break;
            }
            guests.leave(n)?;
            self.inside.pop_front();
        }
        Ok(next)
    }

    fn hear(&mut self, n: u32, heard: &Heard<'_>) -> Result<(), String> {
        let since = self.since.get_mut(n as usize).filter(|since| since.is_some());
        match (heard, since) {
            (Heard::Message { .. }, Some(_)) => self.deliveries += 1,
            (Heard::Receipt(JOINED), Some(since)) => {
                let asked = since.replace(Instant::now());
                self.joins_ms.extend(asked.map(|asked| asked.elapsed().as_secs_f64() * 1e3));
                self.inside.push_back(n);
            }
            (Heard::Receipt(LEFT), Some(since)) => {
                *since = None;
                self.free.push_back(n);
            }
            (Heard::Beat, _) => {}
            (heard, _) => return Err(format!("guest {n} is not in the rotation and hears {heard:?}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_free_again_when_it_has_left() {
        let mut rotation = Rotation::new(1..3, 10, 1, Duration::ZERO);
        assert!(!rotation.is_over());
        let message = Heard::Message { sequence: 1, body: b"" };
        assert!(rotation.hear(2, &message).is_err(), "it has not joined");
        // As `act` does, but for the socket.
        let n = rotation.free.pop_front().unwrap();
        (rotation.since[n as usize], rotation.left) = (Some(Instant::now()), 0);
        rotation.hear(n, &Heard::Receipt(JOINED)).unwrap();
        rotation.hear(n, &message).unwrap();
        assert_eq!(
            (rotation.inside.pop_front(), rotation.deliveries, rotation.is_over()),
            (Some(1), 1, false)
        );
        rotation.hear(n, &Heard::Receipt(LEFT)).unwrap();
        assert_eq!((rotation.joins_ms.len(), rotation.is_over()), (1, true));
        assert_eq!(rotation.free, [2, 1]);
        assert_eq!(Rotation::guests(100, Duration::from_secs(2)), 400);
    }
}
