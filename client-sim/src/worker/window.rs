//! Closed loop: so many messages of each room are in flight, and one is in flight until every member has it.
//!
//! 'Until every member', because a server that has queued a message has not delivered it: counted from the
//! receipt or from the sender's own copy, long queues would look like speed.
//!
//! A member's n-th message is, in a room with one order, the room's n-th. Where a server breaks that order the
//! run fails by the checks ([`crate::check`]); the window then only has to go on. A message that a member loses takes
//! up a place in its room's window for good, and a member that fails takes up all of them: a run with losses stalls.
//!
//! All rooms together may be bounded, too: then they take turns, and how many of them there are does not change how
//! much the server has to do at once.
//!
//! Invariant: a room has at most `width` messages in flight, and is in `open` once for each that it lacks; all rooms
//! have at most `in_flight_max`.

use std::collections::VecDeque;

/// The windows of all rooms of one worker.
#[derive(Debug)]
pub(super) struct Windows {
    rooms: Vec<Flight>,
    /// Rooms that may send a message, first come, first served.
    open: VecDeque<u32>,
    /// Messages of all rooms that some member does not have yet.
    in_flight: u32,
    in_flight_max: u32,
}

/// What one room has in flight.
#[derive(Debug)]
struct Flight {
    members: u32,
    /// Messages that every member has.
    landed: u32,
    /// How many members have each of the messages after those.
    reached: VecDeque<u32>,
}

impl Windows {
    /// Windows of `width` messages, of all rooms together at most `in_flight_max`; `members` of each room are waited
    /// for. Rooms are numbered from 0.
    pub(super) fn new(width: u32, in_flight_max: u32, members: impl Iterator<Item = u32>) -> Self {
        let rooms: Vec<Flight> =
            members.map(|members| Flight { members, landed: 0, reached: VecDeque::new() }).collect();
        // Round by round: a wide window is not used up by the first rooms.
        let open = (0..width).flat_map(|_| 0..rooms.len() as u32).collect();
        Self { rooms, open, in_flight: 0, in_flight_max }
    }

    /// A room may send: it is to do so, or to be left out for good.
    pub(super) fn take_open(&mut self) -> Option<u32> {
        if self.in_flight < self.in_flight_max { self.open.pop_front() } else { None }
    }

    /// Some room may send.
    pub(super) fn any_open(&self) -> bool {
        self.in_flight < self.in_flight_max && !self.open.is_empty()
    }

    /// A message of a room is about to leave.
    pub(super) fn sent(&mut self, room: u32) {
        self.rooms[room as usize].reached.push_back(0);
        self.in_flight += 1;
    }

    /// A member of a room has received its `nth` message (from 1), for the first time.
    pub(super) fn received(&mut self, room: u32, nth: u32) {
        let flight = &mut self.rooms[room as usize];
        // Messages that were never sent are the checks' concern.
        let place = nth.checked_sub(flight.landed + 1);
        let Some(count) = place.and_then(|place| flight.reached.get_mut(place as usize)) else { return };
        *count += 1;
        while flight.reached.front().is_some_and(|count| *count >= flight.members) {
            flight.reached.pop_front();
            flight.landed += 1;
            self.in_flight -= 1;
            self.open.push_back(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(windows: &mut Windows) -> Vec<u32> {
        std::iter::from_fn(|| windows.take_open()).collect()
    }

    #[test]
    fn each_room_opens_as_often_as_its_window_is_wide() {
        let mut windows = Windows::new(2, u32::MAX, [3, 3].into_iter());
        assert_eq!(opened(&mut windows), [0, 1, 0, 1]);
        assert!(!windows.any_open());
    }

    #[test]
    fn a_message_has_landed_when_the_last_member_has_it() {
        let mut windows = Windows::new(2, u32::MAX, [2].into_iter());
        for room in opened(&mut windows) {
            windows.sent(room);
        }
        windows.received(0, 1);
        windows.received(0, 2);
        assert!(!windows.any_open(), "one member is ahead, the other has nothing");
        windows.received(0, 1);
        assert_eq!(opened(&mut windows), [0]);
        windows.sent(0);
        windows.received(0, 2);
        assert_eq!(opened(&mut windows), [0]);
        windows.received(0, 3);
        windows.received(0, 3);
        assert_eq!(opened(&mut windows), [0]);
    }

    #[test]
    fn rooms_take_turns_when_all_together_are_bounded() {
        let mut windows = Windows::new(1, 2, [1, 1, 1].into_iter());
        for expected in [0, 1] {
            assert_eq!(windows.take_open(), Some(expected));
            windows.sent(expected);
        }
        assert!(!windows.any_open() && windows.take_open().is_none(), "two are in flight");
        windows.received(1, 1);
        assert_eq!(windows.take_open(), Some(2), "whose turn it is, not who has landed");
        windows.sent(2);
        windows.received(0, 1);
        assert_eq!(windows.take_open(), Some(1));
    }

    #[test]
    fn what_was_never_sent_opens_nothing() {
        let mut windows = Windows::new(1, u32::MAX, [1].into_iter());
        assert_eq!(opened(&mut windows), [0]);
        windows.received(0, 1);
        windows.received(0, 0);
        assert!(!windows.any_open());
    }
}
