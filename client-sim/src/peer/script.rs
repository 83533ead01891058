//! What all clients of a run say, but for their room: made once, shared by all threads.
//!
//! Invariant: a script never changes while clients follow it.

use std::borrow::Cow;

use super::upgrade::Upgrade;
use crate::stomp;

/// Intervals in milliseconds that both ends agreed on in CONNECT and CONNECTED; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeartBeats {
    /// The client sends something at least this often.
    pub out_ms: u32,
    /// The server does.
    pub in_ms: u32,
}

impl HeartBeats {
    /// The server's side of a heart-beat header: what it can send and what it would like to get. An unreadable
    /// one means none, as an absent one does.
    pub(super) fn parse(value: Option<&str>) -> Self {
        let (out, r#in) = value.and_then(|value| value.split_once(',')).unwrap_or(("0", "0"));
        Self { out_ms: out.trim().parse().unwrap_or(0), in_ms: r#in.trim().parse().unwrap_or(0) }
    }
}

/// With what clients prove who they are.
#[derive(Debug, Clone)]
pub enum Proof {
    /// With nothing.
    None,
    /// All with this login and passcode.
    Password(String, String),
    /// Each with one of these tokens, as its passcode. There is one at least.
    Tokens(Vec<String>),
}

/// What all clients of a run have in common.
#[derive(Debug, Clone)]
pub struct Script {
    /// The opening handshake.
    pub upgrade: Upgrade,
    /// The whole CONNECT frame, without a token.
    connect: String,
    /// Tokens, if clients have some.
    tokens: Vec<String>,
    /// What CONNECT asks for.
    heart_beats: HeartBeats,
    /// Destination without the number of the room.
    destination: String,
}

impl Script {
    /// A script for one server. `room_prefix` keeps the rooms of one run apart from those of another.
    pub fn new(
        upgrade: Upgrade,
        host: &str,
        heart_beats: HeartBeats,
        proof: &Proof,
        room_prefix: &str,
    ) -> Self {
        let beats = format!("{},{}", heart_beats.out_ms, heart_beats.in_ms);
        let mut headers = vec![("accept-version", "1.2"), ("host", host), ("heart-beat", &beats)];
        if let Proof::Password(login, passcode) = proof {
            headers.extend([("login", &**login), ("passcode", passcode)]);
        }
        let mut connect = Vec::new();
        stomp::encode(&mut connect, "CONNECT", &headers, b"");
        Self {
            upgrade,
            connect: String::from_utf8_lossy(&connect).into_owned(),
            tokens: if let Proof::Tokens(tokens) = proof { tokens.clone() } else { Vec::new() },
            heart_beats,
            destination: format!("/topic/{room_prefix}"),
        }
    }

    /// The CONNECT frame of a client.
    pub(super) fn connect(&self, client: u32) -> Cow<'_, str> {
        let token = (client as usize).checked_rem(self.tokens.len()).map(|at| &self.tokens[at]);
        let Some(token) = token else { return Cow::Borrowed(&self.connect) };
        // A CONNECT has no body, so its first empty line ends it. A token has nothing that would be escaped.
        Cow::Owned(self.connect.replacen("\n\n", &format!("\npasscode:{token}\n\n"), 1))
    }

    /// The destination of a room.
    pub fn destination(&self, room: u32) -> String {
        format!("{}{room}", self.destination)
    }

    /// Is this the destination of that room?
    pub(super) fn is_room(&self, destination: &str, room: u32) -> bool {
        destination.strip_prefix(&self.destination).and_then(|number| number.parse().ok()) == Some(room)
    }

    /// STOMP 1.2, "Heart-beating": zero on either side means none, else the larger of both.
    pub(super) fn agree(&self, server: HeartBeats) -> HeartBeats {
        let agree = |ours: u32, theirs: u32| if ours == 0 || theirs == 0 { 0 } else { ours.max(theirs) };
        HeartBeats {
            out_ms: agree(self.heart_beats.out_ms, server.in_ms),
            in_ms: agree(self.heart_beats.in_ms, server.out_ms),
        }
    }
}
