//! Rooms: who is in them, and the order of what is said in them.
//!
//! Locks: the map's, then a room's, then a line's; never another way round. Invariant: the messages of a room
//! reach every member in one order, because its lock is held until the last member's socket has taken a message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcbchat::wire::stomp::{Command, Encoder, StompFrame, Version, user_header_lines};
use tcbchat::wire::ws;

use super::line::Line;

/// All rooms that have members.
#[derive(Debug, Default)]
pub struct Rooms(Mutex<HashMap<String, Arc<Room>>>);

/// One room.
#[derive(Debug, Default)]
struct Room(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    members: Vec<Member>,
    messages: u64,
}

#[derive(Debug)]
struct Member {
    subscription: Box<str>,
    line: Arc<Line>,
}

impl Member {
    fn is(&self, line: &Arc<Line>, subscription: &str) -> bool {
        Arc::ptr_eq(&self.line, line) && *self.subscription == *subscription
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rooms {
    /// A subscription: what is said in the room from here on goes to it.
    pub fn enter(&self, destination: &str, subscription: &str, line: &Arc<Line>) {
        let mut rooms = lock(&self.0);
        let room = rooms.entry(destination.to_owned()).or_default();
        let member = Member { subscription: subscription.into(), line: Arc::clone(line) };
        // Under the map's lock, so that the room is not forgotten as empty meanwhile.
        lock(&room.0).members.push(member);
    }

    /// The end of a subscription. A room without members is forgotten.
    pub fn leave(&self, destination: &str, subscription: &str, line: &Arc<Line>) {
        let mut rooms = lock(&self.0);
        let Some(room) = rooms.get(destination) else { return };
        let mut inside = lock(&room.0);
        if let Some(at) = inside.members.iter().position(|member| member.is(line, subscription)) {
            inside.members.swap_remove(at);
        }
        let is_empty = inside.members.is_empty();
        drop(inside);
        if is_empty {
            rooms.remove(destination);
        }
    }

    /// Says a message to all members of a room, one blocking write after the other.
    pub fn publish(&self, destination: &str, send: &StompFrame<'_>) {
        let Some(room) = lock(&self.0).get(destination).cloned() else { return };
        let mut headers = Vec::new();
        user_header_lines(send, false, &mut headers);
        let mut inside = lock(&room.0);
        inside.messages += 1;
        let id = inside.messages.to_string();
        let (mut encoded_for, mut ws_frame) = (None, Vec::new());
        for Member { subscription, line } in &inside.members {
            if encoded_for != Some(subscription) {
                encode(send, destination, subscription, &id, &headers, &mut ws_frame);
                encoded_for = Some(subscription);
            }
            // A member that cannot be written to is shut down; its own thread sees that, and leaves.
            line.send(&ws_frame).unwrap_or_default();
        }
    }

    /// Rooms that have members.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// MESSAGE as a whole ws_frame: text if the body is, as tcbchat does.
fn encode(
    send: &StompFrame<'_>,
    destination: &str,
    subscription: &str,
    id: &str,
    headers: &[u8],
    out: &mut Vec<u8>,
) {
    let mut message = Vec::with_capacity(send.body.len() + headers.len() + 128);
    Encoder::new(&mut message, Command::Message, Version::V12)
        .header("subscription", subscription)
        .header("message-id", id)
        .header("destination", destination)
        .raw_lines(headers)
        .body(send.body);
    let kind = if std::str::from_utf8(send.body).is_ok() { ws::Kind::Text } else { ws::Kind::Binary };
    out.clear();
    ws::encode_message(kind, &message, out);
}
