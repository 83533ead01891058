//! The states of a connection and the one function that leads from one to the next.
//!
//! Knows neither table nor time. Invariant: what the table of [`next`] does not name is refused, so that a
//! wrong order of events shows where it happens.

use std::fmt;

/// What a connection is at.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// TCP is established; the WebSocket opening handshake is not done.
    HalfOpen,
    /// The WebSocket connection is open.
    Established,
    /// One side has begun to close, and the sockets are not closed yet. In TCP's terms (RFC 9293, section
    /// 3.3.2): FIN-WAIT-1, FIN-WAIT-2, CLOSE-WAIT, CLOSING and LAST-ACK.
    Closing,
    /// This side closed first, so its end of the connection is remembered until no late segment of it can
    /// arrive any more (RFC 9293, section 3.6).
    TimeWait,
    /// No connection. Fictional, as in RFC 9293: it is the state in which there is no TCB.
    Closed,
}

/// What happens to a connection.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// It was accepted.
    Admit,
    /// The opening handshake is done.
    Upgraded,
    /// This side begins to close.
    LocalClose,
    /// The peer begins to close.
    RemoteClose,
    /// Its socket is closed.
    Done {
        /// Whose FIN or RST went first.
        closed_by: Closer,
    },
    /// It was long enough in TIME_WAIT, or another connection takes its place there.
    Expire,
}

/// Who ended a connection. It decides who has the TIME_WAIT: the one whose FIN went first.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum Closer {
    /// This side sent the first FIN.
    Local,
    /// The peer did.
    Remote,
    /// An RST, by either side. It leaves no TIME_WAIT (RFC 9293, section 3.10.7.4).
    Reset,
}

/// An event that the state does not allow: a bug of the caller.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct IllegalTransition {
    /// The state, which stays.
    pub state: State,
    /// The event, which is ignored.
    pub event: Event,
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not possible in state {:?}", self.event, self.state)
    }
}

impl std::error::Error for IllegalTransition {}

/// The state after `event`:
///
/// | | `HalfOpen` | `Established` | `Closing` | `TimeWait` | `Closed` |
/// |---|---|---|---|---|---|
/// | `Admit` | | | | `HalfOpen` | `HalfOpen` |
/// | `Upgraded` | `Established` | | | | |
/// | `LocalClose`, `RemoteClose` | `Closing` | `Closing` | `Closing` | | |
/// | `Done` by `Local` | `TimeWait` | `TimeWait` | `TimeWait` | | |
/// | `Done` by `Remote` or `Reset` | `Closed` | `Closed` | `Closed` | | |
/// | `Expire` | | | | `Closed` | |
///
/// Closing twice is allowed because both sides may begin at once. `Admit` in `TimeWait` is allowed because
/// the kernel accepts a new connection of the same name that is plainly not the old one (RFC 6191).
///
/// # Errors
/// For the empty fields.
///
/// ```
/// use tcbchat::tcb::state::{Closer, Event, State, next};
///
/// let state = next(State::Established, Event::LocalClose).unwrap();
/// assert_eq!(state, State::Closing);
/// assert_eq!(next(state, Event::Done { closed_by: Closer::Local }), Ok(State::TimeWait));
/// assert!(next(state, Event::Upgraded).is_err());
/// ```
pub const fn next(state: State, event: Event) -> Result<State, IllegalTransition> {
    use Closer::{Local, Remote, Reset};
    use Event::{Admit, Done, Expire, LocalClose, RemoteClose, Upgraded};
    use State::{Closed, Closing, Established, HalfOpen, TimeWait};
    Ok(match (state, event) {
        (Closed | TimeWait, Admit) => HalfOpen,
        (HalfOpen, Upgraded) => Established,
        (HalfOpen | Established | Closing, LocalClose | RemoteClose) => Closing,
        (HalfOpen | Established | Closing, Done { closed_by: Local }) => TimeWait,
        (HalfOpen | Established | Closing, Done { closed_by: Remote | Reset }) => Closed,
        (TimeWait, Expire) => Closed,
        _ => return Err(IllegalTransition { state, event }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Admit, Done, Expire, LocalClose, RemoteClose, Upgraded};
    use State::{Closed, Closing, Established, HalfOpen, TimeWait};

    const STATES: [State; 5] = [HalfOpen, Established, Closing, TimeWait, Closed];

    #[test]
    fn the_table_in_the_documentation_is_the_function() {
        let rows: [(Event, [Option<State>; 5]); 8] = [
            (Admit, [None, None, None, Some(HalfOpen), Some(HalfOpen)]),
            (Upgraded, [Some(Established), None, None, None, None]),
            (LocalClose, [Some(Closing), Some(Closing), Some(Closing), None, None]),
            (RemoteClose, [Some(Closing), Some(Closing), Some(Closing), None, None]),
            (Done { closed_by: Closer::Local }, [Some(TimeWait), Some(TimeWait), Some(TimeWait), None, None]),
            (Done { closed_by: Closer::Remote }, [Some(Closed), Some(Closed), Some(Closed), None, None]),
            (Done { closed_by: Closer::Reset }, [Some(Closed), Some(Closed), Some(Closed), None, None]),
            (Expire, [None, None, None, Some(Closed), None]),
        ];
        for (event, expected) in rows {
            for (state, expected) in STATES.into_iter().zip(expected) {
                assert_eq!(next(state, event).ok(), expected, "{event:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_refusal_names_state_and_event() {
        let refused = next(TimeWait, Upgraded).unwrap_err();
        assert_eq!(refused.to_string(), "Upgraded is not possible in state TimeWait");
    }
}
