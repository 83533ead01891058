//! What an operator must be able to explain later: who was refused, cut off or ended by the server, in one line each.
//!
//! Nothing is said for a message. Under an attack the lines are bounded, and the next one says how many were left out.
//!
//! Invariant: a shard says at most [`LINES_MAX`] of these lines in a second.

use crate::message::fault::Fault;
use crate::message::origin::SessionName;
use crate::shard::Shard;
use crate::time::Tick;

/// Lines in a second.
const LINES_MAX: u32 = 20;
const SECOND: u32 = 1000 / Tick::MILLIS;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Notes {
    second: u32,
    lines: u32,
    left_out: u64,
}

impl Notes {
    /// Whether one line more may be said, and then how many were left out before it.
    fn admit(&mut self, now: Tick) -> Option<u64> {
        let second = now.0 / SECOND;
        if second != self.second {
            (self.second, self.lines) = (second, 0);
        }
        if self.lines >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Whether the fault is a verdict of the server on a client, and no mistake of its program.
fn is_verdict(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::NotAuthenticated(_)
            | Fault::AuthBusy
            | Fault::AuthUnavailable
            | Fault::Expired
            | Fault::TooManySessions { .. }
            | Fault::Kicked { .. }
            | Fault::Banned { .. }
            | Fault::Forbidden { .. }
            | Fault::SlowConsumer { .. }
            | Fault::OutboundExhausted { .. }
            | Fault::BuffersExhausted { .. }
            | Fault::TransactionsExhausted { .. }
    )
}

impl Shard {
    /// Says that a session ends by a fault, before it has left anything.
    pub(super) fn note_fault(&mut self, index: u32, fault: &Fault, now: Tick) {
        self.note(index, fault, "session ended", now);
    }

    /// Says that a frame was refused, and that its session goes on.
    pub(super) fn note_refusal(&mut self, index: u32, fault: &Fault, now: Tick) {
        self.note(index, fault, "frame refused", now);
    }

    fn note(&mut self, index: u32, fault: &Fault, what: &'static str, now: Tick) {
        if !is_verdict(fault) {
            // As a value, which is quoted: what a client chose can be in it.
            let (shard, fault, why) = (self.env.id, fault.name(), fault.to_string());
            return tracing::debug!(shard, index, fault, why = why.as_str(), "{what}");
        }
        if !self.may_note(now) {
            return;
        }
        let (session, login) = (self.session_name(index), self.login(index));
        let address = self.connections.client_of(index).map(|address| address.to_string());
        let claims = self.sessions[index].claimed();
        let (fault, why) = (fault.name(), fault.to_string());
        tracing::info!(session, login, claims, address, fault, why = why.as_str(), "{what}");
    }

    /// Says that a client may not open a WebSocket.
    pub(super) fn note_unopened(&mut self, index: u32, why: &str, now: Tick) {
        if self.may_note(now) {
            let address = self.connections.client_of(index).map(|address| address.to_string());
            tracing::info!(address, why, "upgrade refused");
        }
    }

    /// Whether a line may be written.
    fn may_note(&mut self, now: Tick) -> bool {
        if !tracing::enabled!(tracing::Level::INFO) {
            return false;
        }
        let Some(left_out) = self.notes.admit(now) else { return false };
        if left_out > 0 {
            tracing::info!(left_out, "refusals of which no line was written");
        }
        true
    }

    /// Says that a session has begun.
    pub(super) fn note_connected(&self, index: u32) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let (session, login) = (self.session_name(index), self.login(index));
            let address = self.connections.client_of(index).map(|address| address.to_string());
            tracing::debug!(session, login, address, "connected");
        }
    }

    /// Says that a session is over.
    pub(super) fn note_over(&self, index: u32) {
        if tracing::enabled!(tracing::Level::DEBUG) && self.sessions[index].version().is_some() {
            let (session, login) = (self.session_name(index), self.login(index));
            tracing::debug!(session, login, "over");
        }
    }

    /// The value of `session` in CONNECTED.
    fn session_name(&self, index: u32) -> String {
        self.name_of(index).to_string()
    }

    /// The session's name is the connection's.
    pub(super) fn name_of(&self, index: u32) -> SessionName {
        SessionName { shard: self.env.id, connection: self.connections.key_of(index) }
    }

    /// The name's parts: which shard, which place, which use of it.
    pub(super) fn session_numbers(&self, index: u32) -> [u32; 3] {
        [u32::from(self.env.id), index, self.connections[index].generation]
    }

    /// The session's login, if it has said one.
    pub(super) fn login(&self, index: u32) -> Option<&str> {
        self.sessions[index].principal().map(|principal| self.sessions.principals().login(principal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_is_left_out_is_said() {
        let mut notes = Notes::default();
        let said: Vec<_> = (0..50).map(|_| notes.admit(Tick(1))).collect();
        assert!(said[..20].iter().all(|line| *line == Some(0)) && said[20..].iter().all(Option::is_none));
        assert_eq!(notes.admit(Tick(SECOND)), Some(30));
        assert_eq!(notes.admit(Tick(SECOND)), Some(0));
    }
}
