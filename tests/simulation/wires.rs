//! Between a shard and its clients: one wire for each connection, which takes as much as fits, and breaks.
//!
//! Knows nothing of clients: the world carries bytes from here to them.
//!
//! Invariant: nothing is written behind the end of a stream.

use std::collections::HashMap;
use std::io::{self, IoSlice};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedMutRandom;
use tcbchat::conn::suspects::Progress;
use tcbchat::shard::{Shard, Silence, Transport};
use tcbchat::tcb::Closer;
use tcbchat::time::{Micros, Tick};

use crate::post::Post;

/// What has come from a client.
enum FromClient {
    /// Bytes that the server has not read.
    Bytes(Vec<u8>),
    /// The same, and the end of the stream behind them.
    Last(Vec<u8>),
    /// The end of the stream, and the server has not read it. What came before it is lost.
    End,
    /// The server has read the end.
    Nothing,
}

/// The socket between one connection of a shard and its client.
pub struct Wire {
    from_client: FromClient,
    /// Bytes that the server has written and the client has not read.
    pub to_client: Vec<u8>,
    /// How many may be there.
    room: usize,
    is_blocked: bool,
    pub is_broken: bool,
    is_shut: bool,
    /// Whose stream ended first, read or not.
    pub ended_first: Option<Closer>,
    /// When bytes last came from the client, read or not.
    arrived: Tick,
    /// Bytes that the client has read.
    taken: u64,
}

impl Wire {
    pub fn new(room: usize, now: Tick) -> Wire {
        Wire {
            from_client: FromClient::Bytes(Vec::new()),
            to_client: Vec::new(),
            room,
            is_blocked: false,
            is_broken: false,
            is_shut: false,
            ended_first: None,
            arrived: now,
            taken: 0,
        }
    }

    /// Bytes come from the client; behind the end of its stream they are lost.
    pub fn arrive(&mut self, bytes: &[u8], now: Tick) {
        if let FromClient::Bytes(unread) = &mut self.from_client
            && !bytes.is_empty()
        {
            unread.extend(bytes);
            self.arrived = now;
        }
    }

    /// The client's stream ends.
    pub fn end(&mut self) {
        self.from_client = FromClient::End;
        self.ended_first.get_or_insert(Closer::Remote);
    }

    /// The client's stream ends behind what it has said.
    pub fn end_in_order(&mut self) {
        if let FromClient::Bytes(unread) = &mut self.from_client {
            self.from_client = FromClient::Last(std::mem::take(unread));
            self.ended_first.get_or_insert(Closer::Remote);
        }
    }

    /// The client's stream has ended, read or not.
    pub fn has_ended(&self) -> bool {
        !matches!(self.from_client, FromClient::Bytes(_))
    }

    /// The server has something to read.
    fn has_unread(&self) -> bool {
        matches!(self.from_client, FromClient::End | FromClient::Last(_)) || self.unread() > 0
    }

    /// Bytes that the server has not read.
    pub fn unread(&self) -> usize {
        match &self.from_client {
            FromClient::Bytes(bytes) | FromClient::Last(bytes) => bytes.len(),
            FromClient::End | FromClient::Nothing => 0,
        }
    }

    /// Up to `count` bytes for the server; none of them is the end, which is told once. `None` if nothing is there.
    pub fn read(&mut self, count: usize) -> Option<Vec<u8>> {
        match &mut self.from_client {
            FromClient::Bytes(bytes) | FromClient::Last(bytes) if !bytes.is_empty() => {
                Some(bytes.drain(..count.min(bytes.len())).collect())
            }
            FromClient::Bytes(_) | FromClient::Nothing => None,
            FromClient::Last(_) | FromClient::End => {
                self.from_client = FromClient::Nothing;
                Some(Vec::new())
            }
        }
    }

    /// Up to `count` bytes for the client.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.to_client.len());
        self.taken += count as u64;
        self.to_client.drain(..count).collect()
    }

    /// The client has read all, and the end behind it.
    pub fn is_at_end(&self) -> bool {
        self.is_shut && self.to_client.is_empty()
    }

    /// Whether the server waits to write; from now on it does not.
    pub fn unblock(&mut self) -> bool {
        std::mem::take(&mut self.is_blocked)
    }
}

#[derive(Default)]
pub struct Wires(pub HashMap<u32, Wire>);

impl Wires {
    /// What the kernel would say at `now`. It answers for a client whose program hangs.
    fn progress_at(&self, index: u32, now: Tick) -> Option<Progress> {
        let wire = self.0.get(&index)?;
        Some(Progress {
            has_unread: wire.has_unread(),
            arrived_ms_ago: now.since(wire.arrived) * Tick::MILLIS,
            answered_ms_ago: 0,
            acknowledged: wire.taken,
            unacknowledged: wire.to_client.len() as u64,
        })
    }
}

/// A shard's wires at a moment, for its timers.
pub struct Wired<'a>(pub &'a mut Wires, pub Tick);

impl Transport for Wired<'_> {
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send(index, slices)
    }

    fn shutdown_write(&mut self, index: u32) {
        self.0.shutdown_write(index);
    }

    fn closer(&self, index: u32) -> Closer {
        self.0.closer(index)
    }

    fn silence(&self, index: u32, error: &io::Error) -> Option<Silence> {
        self.0.silence(index, error)
    }

    fn progress(&self, index: u32) -> Option<Progress> {
        self.0.progress_at(index, self.1)
    }
}

impl Transport for Wires {
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let wire = self.0.get_mut(&index).expect("only open connections are written to");
        assert!(!wire.is_shut, "a write after the end of the stream");
        if wire.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut sent = 0;
        for slice in slices {
            let free = wire.room.saturating_sub(wire.to_client.len());
            let count = slice.len().min(free);
            wire.to_client.extend_from_slice(&slice[..count]);
            sent += count;
            if count < slice.len() {
                wire.is_blocked = true;
                break;
            }
        }
        if sent == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(sent) }
    }

    fn shutdown_write(&mut self, index: u32) {
        let wire = self.0.get_mut(&index).expect("only open connections are shut");
        wire.is_shut = true;
        wire.ended_first.get_or_insert(Closer::Local);
    }

    fn closer(&self, index: u32) -> Closer {
        self.0[&index].ended_first.unwrap_or(Closer::Local)
    }

    fn silence(&self, _: u32, _: &io::Error) -> Option<Silence> {
        None
    }

    fn progress(&self, _: u32) -> Option<Progress> {
        unreachable!("only timers ask, who know the time")
    }
}

/// A shard's wires, and what other reactors do while it writes to them.
pub struct Meanwhile<'a> {
    pub wires: &'a mut Wires,
    pub others: Vec<(usize, (&'a mut Shard, &'a mut Wires))>,
    pub post: &'a mut Post,
    pub rng: &'a mut StdRng,
    pub now: Tick,
    pub at: Micros,
}

impl Transport for Meanwhile<'_> {
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.rng.random_bool(0.2)
            && let Some((at, (shard, wires))) = self.others.choose_mut(self.rng)
        {
            self.post.look(*at);
            shard.take_mail(self.now);
            shard.flush(*wires, self.now, self.at);
        }
        self.wires.send(index, slices)
    }

    fn shutdown_write(&mut self, index: u32) {
        self.wires.shutdown_write(index);
    }

    fn closer(&self, index: u32) -> Closer {
        self.wires.closer(index)
    }

    fn silence(&self, index: u32, error: &io::Error) -> Option<Silence> {
        self.wires.silence(index, error)
    }

    fn progress(&self, index: u32) -> Option<Progress> {
        self.wires.progress_at(index, self.now)
    }
}
