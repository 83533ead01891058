//! The floor's rooms: an array of descriptors each, and the bytes that its members are to get.
//!
//! Invariant: a room is on the busy list exactly while it has bytes.

use std::collections::HashMap;
use std::os::fd::RawFd;

use super::parse;

/// Where a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the room.
    pub room: u32,
    /// Index in its array.
    pub member: u32,
}

#[derive(Debug, Default)]
struct Room {
    members: Vec<RawFd>,
    /// What is to be sent to all members at the end of the pass.
    bytes: Vec<u8>,
    /// Members with a full socket.
    blocked: Vec<u32>,
}

/// All rooms.
#[derive(Debug, Default)]
pub struct Rooms {
    names: HashMap<Vec<u8>, u32>,
    rooms: Vec<Room>,
    busy: Vec<u32>,
}

/// A room with something to say.
#[derive(Debug)]
pub struct Busy<'a> {
    /// Its number.
    pub room: u32,
    /// Its members.
    pub members: &'a [RawFd],
    /// What they get.
    pub bytes: &'a [u8],
    /// Members with a full socket, by index.
    pub blocked: &'a [u32],
}

impl Rooms {
    /// Takes a member in.
    pub fn join(&mut self, name: &[u8], fd: RawFd) -> Place {
        let next = self.rooms.len() as u32;
        let room = *self.names.entry(name.to_vec()).or_insert(next);
        if room == next {
            self.rooms.push(Room::default());
        }
        let members = &mut self.rooms[room as usize].members;
        members.push(fd);
        Place { room, member: members.len() as u32 - 1 }
    }

    /// Lets a member go; who has its place now.
    pub fn leave(&mut self, place: Place) -> Option<RawFd> {
        let room = &mut self.rooms[place.room as usize];
        let last = room.members.len() as u32 - 1;
        room.blocked.retain(|member| *member != place.member);
        room.blocked.iter_mut().filter(|member| **member == last).for_each(|member| *member = place.member);
        room.members.swap_remove(place.member as usize);
        room.members.get(place.member as usize).copied()
    }

    /// Encodes a message for a room. One that has no members has nobody to miss it.
    pub fn publish(&mut self, name: &[u8], id: u64, body: &[u8]) {
        let Some(&number) = self.names.get(name) else { return };
        let room = &mut self.rooms[number as usize];
        if room.bytes.is_empty() {
            self.busy.push(number);
        }
        let (mut digits, length) = ([0; 20], body.len().to_string());
        let id = decimal(id, &mut digits);
        parse::message(
            &[
                b"MESSAGE\nsubscription:0\nmessage-id:",
                parse::LIFE,
                id,
                b"\ndestination:",
                name,
                b"\ncontent-type:text/plain\ncontent-length:",
                length.as_bytes(),
                b"\n\n",
                body,
                b"\0",
            ],
            &mut room.bytes,
        );
    }

    /// The rooms with something to say.
    pub fn busy(&self) -> impl Iterator<Item = Busy<'_>> {
        self.busy.iter().map(|&number| {
            let Room { members, bytes, blocked } = &self.rooms[number as usize];
            Busy { room: number, members, bytes, blocked }
        })
    }

    /// Everything that was to be said has been.
    pub fn settle(&mut self) {
        for number in self.busy.drain(..) {
            self.rooms[number as usize].bytes.clear();
        }
    }

    /// A socket is full: its member is to be passed by.
    pub fn block(&mut self, place: Place) {
        self.rooms[place.room as usize].blocked.push(place.member);
    }

    /// A socket has room again.
    pub fn unblock(&mut self, place: Place) {
        self.rooms[place.room as usize].blocked.retain(|member| *member != place.member);
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_member_takes_the_place_of_the_one_that_left() {
        let mut rooms = Rooms::default();
        let places: Vec<Place> = (10..13).map(|fd| rooms.join(b"/topic/a", fd)).collect();
        rooms.block(places[2]);
        assert_eq!(rooms.leave(places[0]), Some(12));
        rooms.publish(b"/topic/a", 1, b"x");
        let busy: Vec<_> = rooms.busy().collect();
        assert_eq!((busy[0].members, busy[0].blocked), (&[12, 11][..], &[0][..]));
        assert_eq!(rooms.leave(Place { room: 0, member: 1 }), None);
    }

    #[test]
    fn a_pass_is_one_run_of_messages() {
        let mut rooms = Rooms::default();
        rooms.join(b"/topic/a", 1);
        rooms.publish(b"/topic/a", 9, b"x");
        rooms.publish(b"/topic/a", 10, b"y");
        rooms.publish(b"/topic/nobody", 11, b"z");
        let bytes = rooms.busy().next().unwrap().bytes.to_vec();
        let count = |text: &[u8]| memchr::memmem::find_iter(&bytes, text).count();
        assert_eq!((rooms.busy().count(), count(b"MESSAGE\n"), count(b"-10\n")), (1, 2, 1));
        rooms.settle();
        assert_eq!(rooms.busy().count(), 0);
        assert_eq!(decimal(u64::MAX, &mut [0; 20]), b"18446744073709551615");
    }
}
