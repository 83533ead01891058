//! Connections that a load balancer announces with a PROXY protocol header before their request.
//!
//! The header is part of what is kept until the request's head is complete, and is read again with it: a connection
//! needs no room for having had one.
//!
//! Invariant: the handshake counts for the client that the header names, from the moment it is complete, unless that is a
//! trusted proxy itself.

use std::net::IpAddr;

use crate::conn::handshake::{self, Announced, Speaker};
use crate::conn::pending::Source;
use crate::shard::Shard;
use crate::time::Tick;
use crate::wire::http::HttpError;

/// What is in front of a request.
pub(super) enum Front {
    /// So many bytes, and who speaks behind them.
    Passed { bytes: usize, speaker: Speaker },
    /// It is not complete.
    Need,
    /// It is not accepted.
    Refused(HttpError),
    /// The client has too many handshakes.
    TooMany,
}

impl Shard {
    /// For whom a handshake counts that begins.
    pub(super) fn source_of(&self, peer: IpAddr) -> Source {
        let is_proxy = handshake::is_trusted(peer, &self.env.limits.trusted_proxies);
        if is_proxy { Source::Proxy } else { Source::of(peer) }
    }

    /// Reads what a balancer has put in front of a request.
    pub(super) fn front(&mut self, index: u32, bytes: &[u8], now: Tick) -> Front {
        let limits = &self.env.limits;
        // Without a header nobody's address is asked for.
        let announced =
            handshake::announced(bytes, &limits.trusted_proxies, limits.handshake.head_bytes_max, || {
                self.peer(index).map(|peer| peer.ip())
            });
        let header = match announced {
            Ok(Announced::Nothing) => return Front::Passed { bytes: 0, speaker: Speaker::Peer },
            Ok(Announced::Need) => return Front::Need,
            Ok(Announced::Header(header)) => header,
            Err(error) => return Front::Refused(error),
        };
        let bytes = header.bytes;
        let Some(client) = header.client else { return Front::Passed { bytes, speaker: Speaker::Unnamed } };
        // A proxy that stands behind another is no client: its request may name one.
        let is_client = !handshake::is_listed(client.ip(), &limits.trusted_proxies);
        if is_client && !self.connections.pass_handshake_to(index, client.ip(), &mut self.counters, now) {
            return Front::TooMany;
        }
        Front::Passed { bytes, speaker: Speaker::Named(client) }
    }
}
