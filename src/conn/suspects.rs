//! Peers that are suspected of being dead: what is remembered of them between two looks at their sockets.
//!
//! Silence alone proves nothing. What the peer has said may lie unread in the socket; it may be busy with what was sent
//! before the ping; or the server itself may have been away. So a suspect is asked about at the socket ([`Progress`]).
//! While bytes are under way to it, what counts is whether it acknowledges them: all that was under way when the suspicion
//! arose excuses its silence as long as it flows, and no longer. The kernel of a peer whose program hangs still answers
//! probes of its closed window, so an acknowledgement without new bytes excuses nothing.
//!
//! It sets no timer and ends no connection, and it asks no socket itself.
//!
//! Invariant: the table has memory only while somebody is in it.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::footprint::Part;
use crate::time::Tick;

/// A wake-up that is so much later than was planned shows that the server was away: paused, or in a long turn; or its
/// clock has leapt. In ticks: one second, which is what a peer that promised beats may be late.
const AWAY_TICKS: u32 = 1000 / Tick::MILLIS;

/// Ticks in which unread input is read, if the connection is read from at all. In its last phases it may not be.
const READ_TICKS: u32 = 1000 / Tick::MILLIS;

/// What the kernel knows of a peer's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes, an end or an error of the peer's stream wait to be read.
    pub has_unread: bool,
    /// Milliseconds since bytes last came, read or not.
    pub arrived_ms_ago: u32,
    /// Milliseconds since the peer's kernel last acknowledged anything, also without new bytes.
    pub answered_ms_ago: u32,
    /// Bytes that the peer has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes that its kernel was given and the peer has not acknowledged.
    pub unacknowledged: u64,
}

/// A deadline that ends a connection unless something is read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// `handshake.timeout_ms`.
    Handshake,
    /// `handshake.connect_timeout_ms`.
    Connect,
    /// `websocket.close_timeout_ms`, for receipts that come before the end.
    Receipts,
    /// `websocket.close_timeout_ms`.
    Close,
}

/// What becomes of a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is dead.
    Dead,
    /// It may live: to be looked at again at this time.
    Open(Tick),
}

/// Bytes that were under way to a peer when it became suspect.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Bytes acknowledged at the last look.
    acknowledged: u64,
    /// Once so many are, nothing excuses it any more.
    until: u64,
    /// The last look that found more acknowledged than the one before.
    moved: Tick,
}

#[derive(Debug, Clone, Copy, Default)]
struct Suspect {
    /// When the first of several pings was sent that are unanswered.
    pinged_first: Option<Tick>,
    trial: Option<Trial>,
    /// The deadline that has passed over unread input, and when.
    passed: Option<(Deadline, Tick)>,
}

/// Suspects by the index of their connection.
#[derive(Debug, Default)]
pub struct Suspects {
    table: HashMap<u32, Suspect, FixedState>,
    /// When the server came back, the last time that it was away.
    back_at: Tick,
}

impl Suspects {
    /// The server looks at its timers at `now`, and had planned to at `planned`. If that was long ago it was away, and
    /// nobody's silence until now counts.
    pub fn note_wake_up(&mut self, planned: Tick, now: Tick) {
        if now.since(planned) >= AWAY_TICKS {
            self.back_at = now;
        }
    }

    /// When the server came back, the last time that it was away.
    pub fn back_at(&self) -> Tick {
        self.back_at
    }

    /// When the first of the pings was sent that are unanswered, if `pinged` is when the last one was.
    pub fn pinged_first(&self, index: u32, pinged: Tick, heard: Tick) -> Tick {
        let first = self.table.get(&index).and_then(|suspect| suspect.pinged_first);
        first.filter(|first| *first > heard).unwrap_or(pinged)
    }

    /// One more ping is sent to a peer that has not answered the one of `pinged_first`.
    pub fn ping_again(&mut self, index: u32, pinged_first: Tick) {
        self.table.entry(index).or_default().pinged_first = Some(pinged_first);
    }

    /// The peer was heard in time. A ping may be unanswered nevertheless.
    pub fn acquit(&mut self, index: u32, is_pinged: bool) {
        if self.table.is_empty() {
            return;
        }
        match self.table.get_mut(&index) {
            Some(suspect) if is_pinged && suspect.pinged_first.is_some() => {
                *suspect = Suspect { pinged_first: suspect.pinged_first, ..Suspect::default() };
            }
            _ => self.forget(index),
        }
    }

    /// Judges a peer that has missed what it had to say, of which nothing is unread and `queued` bytes wait for its
    /// socket. It has `patience` ticks for each step.
    pub fn judge(
        &mut self,
        index: u32,
        progress: &Progress,
        queued: u64,
        patience: u32,
        now: Tick,
    ) -> Verdict {
        let Progress { acknowledged, unacknowledged, answered_ms_ago, .. } = *progress;
        // Saturates where the clock does.
        let later = |from: Tick| Tick(from.0.saturating_add(patience.max(1)));
        let under_way = unacknowledged + queued;
        let Some(trial) = self.table.get_mut(&index).and_then(|suspect| suspect.trial.as_mut()) else {
            // Where nothing is under way nothing excuses it; nor if nothing at all has come back for so long.
            if under_way == 0 || answered_ms_ago / Tick::MILLIS >= patience {
                return Verdict::Dead;
            }
            let trial = Trial { acknowledged, until: acknowledged + under_way, moved: now };
            self.table.entry(index).or_default().trial = Some(trial);
            return Verdict::Open(later(now));
        };
        if acknowledged > trial.acknowledged && trial.acknowledged < trial.until {
            trial.acknowledged = acknowledged;
            trial.moved = now;
        }
        if now.since(trial.moved) >= patience { Verdict::Dead } else { Verdict::Open(later(trial.moved)) }
    }

    /// A deadline of a connection has passed and there is unread input, which may be what was waited for. True if it is
    /// to be read first; false if bytes have been read since and did not end the wait, or nothing was read for a second.
    pub fn may_wait(&mut self, index: u32, deadline: Deadline, heard: Tick, now: Tick) -> bool {
        let passed = &mut self.table.entry(index).or_default().passed;
        match *passed {
            Some((which, at)) if which == deadline => heard <= at && now.since(at) < READ_TICKS,
            _ => {
                *passed = Some((deadline, now.max(heard)));
                true
            }
        }
    }

    /// The connection has ended.
    pub fn forget(&mut self, index: u32) {
        if self.table.is_empty() {
            return;
        }
        self.table.remove(&index);
        if self.table.is_empty() {
            self.table = HashMap::default();
        }
    }

    /// Nobody is suspected.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// What the table takes.
    pub fn memory(&self) -> Part {
        Part::array(self.table.len(), self.table.capacity(), size_of::<(u32, Suspect)>())
    }

    /// Verifies the invariant, and that suspects are connections. O(suspects); for tests and the simulation.
    ///
    /// # Panics
    /// If that is not so.
    pub fn check(&self, is_connection: impl Fn(u32) -> bool) {
        assert!(!self.table.is_empty() || self.table.capacity() == 0);
        assert!(self.table.keys().all(|index| is_connection(*index)), "a suspect without a connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: u32 = 30;

    /// A peer that has acknowledged so much, has so much under way in the kernel, and answers what the kernel asks.
    fn progress(acknowledged: u64, unacknowledged: u64) -> Progress {
        let (has_unread, arrived_ms_ago, answered_ms_ago) = (false, 100_000, 10);
        Progress { has_unread, arrived_ms_ago, answered_ms_ago, acknowledged, unacknowledged }
    }

    fn judge(suspects: &mut Suspects, acknowledged: u64, under_way: u64, now: u32) -> Verdict {
        // Half of it in the kernel, the rest not there yet.
        let in_kernel = under_way / 2;
        suspects.judge(7, &progress(acknowledged, in_kernel), under_way - in_kernel, PATIENCE, Tick(now))
    }

    #[test]
    fn silence_with_nothing_under_way_is_death() {
        let mut suspects = Suspects::default();
        assert_eq!(judge(&mut suspects, 5000, 0, 100), Verdict::Dead);
        assert!(suspects.is_empty(), "nothing is remembered of the dead");
    }

    #[test]
    fn a_kernel_that_is_silent_as_well_is_no_excuse() {
        let mut suspects = Suspects::default();
        let vanished = Progress { answered_ms_ago: PATIENCE * Tick::MILLIS, ..progress(5000, 2) };
        assert_eq!(suspects.judge(7, &vanished, 0, PATIENCE, Tick(100)), Verdict::Dead);
    }

    #[test]
    fn who_takes_nothing_is_dead_though_its_kernel_answers() {
        let mut suspects = Suspects::default();
        assert_eq!(judge(&mut suspects, 5000, 3000, 100), Verdict::Open(Tick(130)));
        // Looked at too early, for the sake of a beat.
        assert_eq!(judge(&mut suspects, 5000, 3000, 110), Verdict::Open(Tick(130)));
        assert_eq!(judge(&mut suspects, 5000, 3000, 130), Verdict::Dead);
    }

    #[test]
    fn a_download_that_flows_excuses_silence_until_it_is_done() {
        let mut suspects = Suspects::default();
        assert_eq!(judge(&mut suspects, 0, 100, 100), Verdict::Open(Tick(130)));
        assert_eq!(judge(&mut suspects, 40, 60, 130), Verdict::Open(Tick(160)));
        // More is sent to it meanwhile, which does not excuse it.
        assert_eq!(judge(&mut suspects, 99, 5000, 160), Verdict::Open(Tick(190)));
        assert_eq!(judge(&mut suspects, 150, 5000, 190), Verdict::Open(Tick(220)));
        assert_eq!(judge(&mut suspects, 300, 5000, 220), Verdict::Dead);
    }

    #[test]
    fn who_is_heard_is_a_suspect_no_more() {
        let mut suspects = Suspects::default();
        judge(&mut suspects, 0, 100, 100);
        suspects.acquit(8, false);
        assert!(!suspects.is_empty());
        suspects.acquit(7, false);
        assert!(suspects.is_empty());
        suspects.check(|_| false);
    }

    #[test]
    fn the_first_unanswered_ping_is_remembered_until_it_is_answered() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.pinged_first(7, Tick(20), Tick(0)), Tick(20));
        suspects.ping_again(7, Tick(20));
        assert_eq!(suspects.pinged_first(7, Tick(40), Tick(0)), Tick(20));
        suspects.acquit(7, true);
        assert_eq!(suspects.pinged_first(7, Tick(40), Tick(0)), Tick(20));
        assert_eq!(suspects.pinged_first(7, Tick(40), Tick(25)), Tick(40), "the first one is answered");
        suspects.acquit(7, false);
        assert!(suspects.is_empty());
    }

    #[test]
    fn a_deadline_waits_for_what_is_unread_and_not_for_what_comes_then() {
        let mut suspects = Suspects::default();
        assert!(suspects.may_wait(7, Deadline::Handshake, Tick(90), Tick(100)));
        assert!(suspects.may_wait(7, Deadline::Handshake, Tick(90), Tick(101)), "it was not read yet");
        assert!(!suspects.may_wait(7, Deadline::Handshake, Tick(101), Tick(102)));
        // Nobody reads it.
        assert!(suspects.may_wait(9, Deadline::Close, Tick(90), Tick(100)));
        assert!(!suspects.may_wait(9, Deadline::Close, Tick(90), Tick(100 + READ_TICKS)));
        // The next deadline has its own.
        assert!(suspects.may_wait(7, Deadline::Connect, Tick(150), Tick(150)));
        // Somebody who never stops sending was read before the first look, in the same turn.
        assert!(suspects.may_wait(8, Deadline::Close, Tick(101), Tick(100)));
        assert!(!suspects.may_wait(8, Deadline::Close, Tick(102), Tick(101)));
    }

    #[test]
    fn nobody_is_silent_while_the_server_is_away() {
        let mut suspects = Suspects::default();
        suspects.note_wake_up(Tick(100), Tick(100 + AWAY_TICKS - 1));
        assert_eq!(suspects.back_at(), Tick(0));
        suspects.note_wake_up(Tick(100), Tick(100_000));
        assert_eq!(suspects.back_at(), Tick(100_000));
    }
}
