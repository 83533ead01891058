//! Whole shards without sockets: a message to rooms, and visitors.

use crate::crowd::{Client, Crowd, send, subscribe};

/// Bytes of a message's body.
pub const BODY: usize = 128;

/// The destination of a room.
#[must_use]
pub fn topic(room: u32) -> String {
    format!("/topic/room-{room}")
}

/// A crowd and messages that are given to it over and over.
pub struct Publications {
    crowd: Crowd,
    messages: Vec<(Client, Vec<u8>)>,
}

impl Publications {
    /// Rooms of so many members each, and a message to each room by its first member. `ids` subscription ids are
    /// in use, the same in all rooms.
    #[must_use]
    pub fn to_rooms(rooms: u32, members: u32, ids: u32) -> Publications {
        let mut crowd = Crowd::new(1, rooms * members);
        crowd.gather(rooms * members, |n| (format!("sub-{}", n % ids), topic(n / members)));
        let sender = |room: u32| crowd.clients()[(room * members) as usize];
        let messages = (0..rooms).map(|room| (sender(room), send(&topic(room), BODY, None))).collect();
        Publications { crowd, messages }
    }

    /// Members of two rooms, who get both rooms' messages in one write: through their outbound queues.
    #[must_use]
    pub fn to_both_rooms(members: u32) -> Publications {
        let mut crowd = Crowd::new(1, members);
        crowd.gather(members, |_| ("sub-0".into(), topic(0)));
        for client in crowd.clients().to_vec() {
            crowd.give(client, &mut subscribe("sub-1", &topic(1)));
        }
        crowd.settle();
        let sender = crowd.clients()[0];
        let messages = [0, 1].map(|room| (sender, send(&topic(room), BODY, None))).into();
        Publications { crowd, messages }
    }

    /// So many frames in one read of one client, each with a receipt, to a room that nobody is in.
    #[must_use]
    pub fn to_nobody(frames: usize) -> Publications {
        let mut crowd = Crowd::new(1, 1);
        crowd.gather(1, |_| ("sub-0".into(), topic(0)));
        let sender = crowd.clients()[0];
        let messages = vec![(sender, send("/topic/nobody", BODY, Some("receipt-1")).repeat(frames))];
        Publications { crowd, messages }
    }

    /// All messages, and the turn in which they leave, or the turns if a room is large.
    pub fn publish(&mut self) {
        for (sender, message) in &mut self.messages {
            self.crowd.give(*sender, message);
        }
        self.crowd.turn();
        self.crowd.go_on();
    }

    /// Writes so far, each of which would have been a system call.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.crowd.writes()
    }
}

/// A whole life beside a room of so many members: accepted, upgraded, connected, subscribed, gone.
pub fn visit(members: u32) -> impl FnMut() {
    let mut crowd = Crowd::new(1, 10 * members);
    crowd.gather(members, |_| ("sub-0".into(), topic(0)));
    let mut join = subscribe("sub-0", &topic(0));
    move || {
        let client = crowd.connect(0);
        crowd.give(client, &mut join);
        crowd.turn();
        crowd.end(client);
        crowd.turn();
    }
}
