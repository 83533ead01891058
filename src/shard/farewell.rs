//! The end of the process: everybody is told, then whoever is left is reset; so many connections in a turn.
//!
//! A reactor of 20,000 connections that told all of them in one turn would not read an answer before it is through,
//! and fifty such reactors on two cores would all be busy for seconds. In slices (`turn.farewells_max`) the answers
//! to the first goodbyes are read while the last are still to be said, and each turn shows that the end comes nearer:
//! the supervisor waits as long as it does.
//!
//! Goodbyes can be spread over a time (`drain.spread_ms`), so that those who come back do not all come at once. Until it
//! is over, connections are still taken, and their upgrades answered 503. A walk without spread follows, for those.
//!
//! Invariant: once a farewell without spread has begun no connection is opened, so its walk over the indices that there
//! are meets every connection.

use std::ops::Range;

use crate::conn::Phase;
use crate::session::End;
use crate::shard::Shard;
use crate::time::Tick;

/// RFC 6455 section 7.4.1: the server is going down.
pub const GOING_AWAY: u16 = 1001;
/// IANA, WebSocket Close Code Number Registry: the service is restarted, and the client may come back.
pub const SERVICE_RESTART: u16 = 1012;

/// A walk over all connections.
#[derive(Debug)]
pub(super) struct Farewell {
    how: How,
    /// Indices that have not been looked at.
    left: Range<u32>,
    /// Indices below this may be looked at.
    due: u32,
    pace: Option<Pace>,
}

/// Goodbyes over a time.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begun: Tick,
    ticks: u32,
    indices: u32,
}

impl Pace {
    /// The index up to which goodbyes are due.
    fn due(self, now: Tick) -> u32 {
        // The first tick has its part, and the last ends with all.
        let passed = u64::from(now.since(self.begun)) + 1;
        let due = u64::from(self.indices) * passed / u64::from(self.ticks.max(1));
        u32::try_from(due).unwrap_or(u32::MAX).min(self.indices)
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// With a close frame of this code, and the time that a closing handshake has.
    Goodbye(u16),
    /// Their time is up.
    Reset,
}

impl Farewell {
    pub(super) fn has_work(&self) -> bool {
        self.left.start < self.due
    }

    /// Connections are still taken, so that they can be answered.
    pub(super) fn takes_connections(&self) -> bool {
        self.pace.is_some()
    }

    /// When more of it is due.
    pub(super) fn next_deadline(&self, now: Tick) -> Option<Tick> {
        (self.pace.is_some() && !self.left.is_empty()).then(|| now.after_ms(u64::from(Tick::MILLIS)))
    }
}

impl Shard {
    /// Takes no more connections; [`Shard::continue_farewell`] closes those that are open with 1001.
    pub fn begin_shutdown(&mut self) {
        self.begin_farewell(How::Goodbye(GOING_AWAY), None);
    }

    /// [`Shard::continue_farewell`] closes the connections that are open with `code`, over so many milliseconds. While
    /// these last, others are taken and their upgrades refused; 0 takes none.
    pub fn begin_drain(&mut self, code: u16, spread_ms: u32, now: Tick) {
        // Not the capacity, most of which may be unused: the time would be over before the pace is.
        let indices = self.connections.last().map_or(0, |index| index + 1);
        let ticks = spread_ms.div_ceil(Tick::MILLIS);
        let pace = (spread_ms > 0).then_some(Pace { begun: now, ticks, indices });
        self.begin_farewell(How::Goodbye(code), pace);
    }

    /// The time to end in order is up: [`Shard::continue_farewell`] resets whoever is left.
    pub fn begin_reset(&mut self) {
        self.begin_farewell(How::Reset, None);
    }

    fn begin_farewell(&mut self, how: How, pace: Option<Pace>) {
        let indices = self.connections.indices();
        let due = if pace.is_some() { 0 } else { indices };
        self.farewell = Some(Farewell { how, left: 0..indices, due, pace });
    }

    /// Ends the next connections, at most `turn.farewells_max`; does nothing while the server is not ending.
    pub fn continue_farewell(&mut self, now: Tick) {
        let Some(Farewell { how, left, due, pace }) = &mut self.farewell else { return };
        if let Some(pace) = pace {
            *due = pace.due(now);
        }
        let (how, is_spread) = (*how, pace.is_some());
        let next = left.start.saturating_add(self.env.limits.turn.farewells_max).min(*due);
        let indices = left.start..next.max(left.start);
        left.start = indices.end;
        for index in indices {
            if self.connections.get(index).is_none() {
                continue;
            }
            match (how, self.connections.phase(index)) {
                // Its request comes yet, and has an answer.
                (How::Goodbye(_), Phase::Opening | Phase::Refused) if is_spread => {}
                (How::Goodbye(_), Phase::Opening | Phase::Refused) => self.close(index, false, now),
                (How::Goodbye(code), phase) if phase.is_established() => {
                    let reason = match code {
                        SERVICE_RESTART => "the server is restarting",
                        _ => "the server is shutting down",
                    };
                    self.end(index, End::Goodbye(code, reason), now);
                }
                // They are ending already.
                (How::Goodbye(_), _) => {}
                (How::Reset, _) => self.close(index, true, now),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodbyes_are_spread_evenly_and_end_in_time() {
        let pace = Pace { begun: Tick(5), ticks: 10, indices: 1000 };
        let due: Vec<u32> = (5..17).map(|tick| pace.due(Tick(tick))).collect();
        assert_eq!(due, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1000, 1000]);
        let few = Pace { begun: Tick(0), ticks: 600, indices: 1 };
        assert_eq!((few.due(Tick(0)), few.due(Tick(598)), few.due(Tick(599))), (0, 0, 1));
        let most = Pace { begun: Tick(0), ticks: 1, indices: u32::MAX };
        assert_eq!(most.due(Tick(u32::MAX)), u32::MAX);
    }
}
