//! The phases of a connection and the one transition function, as the TCB table has its states.
//!
//! | phase | what it waits for |
//! |---|---|
//! | `Opening` | an HTTP request head; where STOMP frames are [bare](crate::wire::framing::Framing), the first bytes |
//! | `Refused` | the same, but the table is full: an upgrade is answered 503, and who speaks bare STOMP an ERROR |
//! | `Stomp` | STOMP frames |
//! | `Echo` | messages on `/echo` |
//! | `Concluding` | answers of owners: it is decided that the session ends, and its receipts come before that |
//! | `Closing` | the peer's close frame; ours is queued or sent (RFC 6455 section 7.1.2) |
//! | `Finishing` | that the rest of the output is sent; then the socket closes. Both sides have said that they end |
//! | `Lingering` | that the output is sent and the peer's stream ends. What the peer says is thrown away |
//! | `Closed` | the end of the turn, when the socket closes |
//!
//! `Lingering` exists because closing a socket with unread input sends a reset, which can overtake the last answer.
//!
//! Invariant: [`next`] alone says which phase follows; a connection that is `Closed` stays closed.

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for an HTTP request head, or for the first bytes of bare STOMP.
    Opening,
    /// The same, but the table is full: it will be refused.
    Refused,
    /// Open for a STOMP session.
    Stomp,
    /// WebSocket open on `/echo`.
    Echo,
    /// The session takes no more frames, and ends as soon as it has the receipts that it is due. It is in its rooms
    /// until then.
    Concluding,
    /// A close frame is queued or sent; waits for the peer's.
    Closing,
    /// Nothing will be added to what is queued; once that is sent, the socket is closed.
    Finishing,
    /// Nothing will be added to what is queued; once that is sent, this side's stream ends, and input is
    /// thrown away until the peer's does.
    Lingering,
    /// To be closed at the end of the turn.
    Closed,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// 101 on `/ws` is queued, or the first bytes of bare STOMP are there.
    OpenedStomp,
    /// 101 on `/echo` is queued.
    OpenedEcho,
    /// A page or a refusal is queued.
    Answered,
    /// The session is to end, and waits for receipts.
    EndDecided,
    /// Our close frame is queued.
    CloseSent,
    /// The peer's close frame has come.
    CloseReceived,
    /// The peer's stream has ended.
    EndReceived,
    /// The peer broke the framing, or was cut off while it was closing, or knows no close frames: our last word is queued.
    LastWord,
    /// The socket is to be closed.
    Close,
}

impl Phase {
    /// All phases, for tests and tables.
    pub const ALL: [Phase; 9] = [
        Phase::Opening,
        Phase::Refused,
        Phase::Stomp,
        Phase::Echo,
        Phase::Concluding,
        Phase::Closing,
        Phase::Finishing,
        Phase::Lingering,
        Phase::Closed,
    ];

    /// In the opening handshake.
    pub fn is_handshake(self) -> bool {
        matches!(self, Phase::Opening | Phase::Refused)
    }

    /// Takes messages.
    pub fn is_open(self) -> bool {
        matches!(self, Phase::Stomp | Phase::Echo)
    }

    /// Open, and its end has not begun: nobody's close frame was answered or queued.
    pub fn is_established(self) -> bool {
        self.is_open() || self == Phase::Concluding
    }

    /// What comes is parsed, and not thrown away.
    pub fn takes_input(self) -> bool {
        !matches!(self, Phase::Finishing | Phase::Lingering | Phase::Closed)
    }

    /// Has a STOMP session, which may be in rooms and wait for answers.
    pub fn has_session(self) -> bool {
        matches!(self, Phase::Stomp | Phase::Concluding)
    }
}

/// The phase that follows; `None` if the event changes nothing, or cannot happen, in this phase.
pub fn next(phase: Phase, event: Event) -> Option<Phase> {
    match (phase, event) {
        (Phase::Closed, _) => None,
        (_, Event::Close) => Some(Phase::Closed),
        (Phase::Opening, Event::OpenedStomp) => Some(Phase::Stomp),
        (Phase::Opening, Event::OpenedEcho) => Some(Phase::Echo),
        (Phase::Opening | Phase::Refused, Event::Answered) => Some(Phase::Lingering),
        // Nobody is left to read an answer.
        (Phase::Opening | Phase::Refused, Event::EndReceived) => Some(Phase::Closed),
        (Phase::Stomp, Event::EndDecided) => Some(Phase::Concluding),
        (Phase::Stomp | Phase::Echo | Phase::Concluding, Event::CloseSent) => Some(Phase::Closing),
        (Phase::Stomp | Phase::Echo | Phase::Concluding, Event::EndReceived) => Some(Phase::Finishing),
        (Phase::Stomp | Phase::Echo | Phase::Concluding | Phase::Closing, Event::CloseReceived) => {
            Some(Phase::Finishing)
        }
        (Phase::Stomp | Phase::Echo | Phase::Concluding | Phase::Closing, Event::LastWord) => {
            Some(Phase::Lingering)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 9] = [
        Event::OpenedStomp,
        Event::OpenedEcho,
        Event::Answered,
        Event::EndDecided,
        Event::CloseSent,
        Event::CloseReceived,
        Event::EndReceived,
        Event::LastWord,
        Event::Close,
    ];

    /// The whole function: a row for each phase, a column for each event in the order above.
    #[test]
    fn the_table_of_transitions() {
        use Phase::*;
        let ends = [Some(Closing), Some(Finishing), Some(Finishing), Some(Lingering), Some(Closed)];
        let told = [None, Some(Finishing), None, Some(Lingering), Some(Closed)];
        let last = [None, None, None, None, Some(Closed)];
        type Row = (Phase, [Option<Phase>; 4], [Option<Phase>; 5]);
        let table: [Row; 9] = [
            (
                Opening,
                [Some(Stomp), Some(Echo), Some(Lingering), None],
                [None, None, Some(Closed), None, Some(Closed)],
            ),
            (Refused, [None, None, Some(Lingering), None], [None, None, Some(Closed), None, Some(Closed)]),
            (Stomp, [None, None, None, Some(Concluding)], ends),
            (Echo, [None; 4], ends),
            (Concluding, [None; 4], ends),
            (Closing, [None; 4], told),
            (Finishing, [None; 4], last),
            (Lingering, [None; 4], last),
            (Closed, [None; 4], [None; 5]),
        ];
        for (phase, begins, ends) in table {
            for (event, after) in EVENTS.into_iter().zip(begins.into_iter().chain(ends)) {
                assert_eq!(next(phase, event), after, "{phase:?} and {event:?}");
            }
        }
    }

    #[test]
    fn every_way_ends() {
        for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Closed) {
            assert_eq!(next(phase, Event::Close), Some(Phase::Closed), "{phase:?}");
        }
    }
}
