//! The end of the process: everybody is told, then whoever is left is reset; so many connections in a turn.
//!
//! A reactor of 20,000 connections that told all of them in one turn would not read an answer before it is through,
//! and fifty such reactors on two cores would all be busy for seconds. In slices (`turn.farewells_max`) the answers
//! to the first goodbyes are read while the last are still to be said, and each turn shows that the end comes nearer:
//! the supervisor waits as long as it does.
//!
//! Invariant: once a farewell has begun no connection is opened, so a walk over the indices that there are meets
//! every connection.

use std::ops::Range;

use crate::conn::Phase;
use crate::shard::Shard;
use crate::time::Tick;

/// RFC 6455 section 7.4.1: the server is going down.
const GOING_AWAY: u16 = 1001;

/// A walk over all connections.
#[derive(Debug)]
pub(super) struct Farewell {
    how: How,
    /// Indices that have not been looked at.
    left: Range<u32>,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// With a close frame, and the time that a closing handshake has.
    Goodbye,
    /// Their time is up.
    Reset,
}

impl Farewell {
    pub(super) fn has_work(&self) -> bool {
        !self.left.is_empty()
    }
}

impl Shard {
    /// Takes no more connections; [`Shard::continue_farewell`] closes those that are open with 1001.
    pub fn begin_shutdown(&mut self) {
        self.begin_farewell(How::Goodbye);
    }

    /// The time to end in order is up: [`Shard::continue_farewell`] resets whoever is left.
    pub fn begin_reset(&mut self) {
        self.begin_farewell(How::Reset);
    }

    fn begin_farewell(&mut self, how: How) {
        self.farewell = Some(Farewell { how, left: 0..self.connections.indices() });
    }

    /// Ends the next connections, at most `turn.farewells_max`; does nothing while the server is not ending.
    pub fn continue_farewell(&mut self, now: Tick) {
        let Some(Farewell { how, left }) = &mut self.farewell else { return };
        let how = *how;
        let next = left.start.saturating_add(self.env.limits.turn.farewells_max).min(left.end);
        let indices = left.start..next;
        left.start = next;
        for index in indices {
            if self.connections.get(index).is_none() {
                continue;
            }
            match (how, self.connections.phase(index)) {
                (How::Goodbye, Phase::Http | Phase::Refused) => self.close(index, false, now),
                (How::Goodbye, Phase::Stomp | Phase::Echo) => {
                    self.begin_close(index, GOING_AWAY, "the server is shutting down", now);
                }
                // They are ending already.
                (How::Goodbye, _) => {}
                (How::Reset, _) => self.close(index, true, now),
            }
        }
    }
}
