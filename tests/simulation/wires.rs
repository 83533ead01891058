//! What a shard writes to: one wire for each connection, which takes as much as fits, and breaks.
//!
//! Knows nothing of clients: the world carries bytes from here to them.
//!
//! Invariant: nothing is written behind the end of a stream.

use std::collections::HashMap;
use std::io::{self, IoSlice};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedMutRandom;
use tcbchat::shard::{Shard, Silence, Transport};
use tcbchat::tcb::Closer;
use tcbchat::time::{Micros, Tick};

/// The socket between one connection of a shard and its client.
pub struct Wire {
    /// Bytes that the server has written and the client has not read.
    pub to_client: Vec<u8>,
    /// How many may be there.
    pub room: usize,
    pub is_blocked: bool,
    pub is_broken: bool,
    pub is_shut: bool,
    /// Whose stream ended first, read or not.
    pub ended_first: Option<Closer>,
}

#[derive(Default)]
pub struct Wires(pub HashMap<u32, Wire>);

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
}

/// A shard's wires, and what other reactors do while it writes to them.
pub struct Meanwhile<'a> {
    pub wires: &'a mut Wires,
    pub others: Vec<(&'a mut Shard, &'a mut Wires)>,
    pub rng: &'a mut StdRng,
    pub now: Tick,
    pub at: Micros,
}

impl Transport for Meanwhile<'_> {
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.rng.random_bool(0.2)
            && let Some((shard, wires)) = self.others.choose_mut(self.rng)
        {
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
}
