//! Walks of a shard alone: how much they look at in a turn, and what becomes of those that nobody waits for.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::*;
use crate::conn::pending::Pending;
use crate::conn::suspects::Progress;
use crate::conn::transport::Silence;
use crate::mesh::Mesh;
use crate::mesh::inquiry::Answer;
use crate::metrics::ShardMetrics;
use crate::shard::{ShardLimits, ShardSetup, Site};
use crate::tcb::{Closer, FourTuple, TableConfig, TcbTable};
use crate::wire::framing::Framing;
use crate::wire::http::Request;

struct Nothing;

impl Site for Nothing {
    fn answer(&self, _: &Request<'_>, _: SocketAddr, _: &mut Vec<u8>) {}
}

impl Transport for Nothing {
    fn send(&mut self, _: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn shutdown_write(&mut self, _: u32) {}

    fn closer(&self, _: u32) -> Closer {
        Closer::Local
    }

    fn silence(&self, _: u32, _: &io::Error) -> Option<Silence> {
        None
    }

    fn progress(&self, _: u32) -> Option<Progress> {
        None
    }
}

/// A shard with so many connections in the handshake.
fn shard(connections: u32) -> Shard {
    let mut limits = ShardLimits::default();
    limits.handshake.pending_max = connections.max(1);
    let mut shard = Shard::new(ShardSetup {
        id: 0,
        limits: Arc::new(limits),
        connections_max: connections,
        is_echo_enabled: false,
        mesh: Arc::new(Mesh::new(vec![Box::new(|| {})])),
        pending: Arc::new(Pending::new(u32::MAX)),
        tcbs: Arc::new(TcbTable::new(TableConfig::sized(connections + 1, 1))),
        metrics: Arc::new(ShardMetrics::default()),
        site: Arc::new(Nothing),
        authenticator: None,
        bans: Arc::default(),
        logins: Arc::default(),
        addresses: Arc::default(),
        audience: Arc::default(),
        seed: 1,
        started_s: 1,
        now: Tick(0),
    });
    for number in 0..connections {
        let remote = SocketAddr::from(([127, 0, (number >> 14) as u8, 1], 1 + (number & 0x3fff) as u16));
        let tuple = FourTuple::new(SocketAddr::from(([127, 0, 0, 1], 80)), remote);
        shard.open(tuple, Framing::WebSocket, Tick(0)).expect("there is a place");
    }
    shard
}

fn ask<T>(shard: &mut Shard, inquiry: impl FnOnce(Reply<T>) -> Inquiry) -> Answer<T> {
    let (reply, answer) = Reply::channel();
    shard.inquire(inquiry(reply), Tick(0));
    answer
}

fn sessions(part: Part, reply: Reply<Page<SessionView>>) -> Inquiry {
    Inquiry::Sessions { filter: Filter::default(), part, reply }
}

#[test]
fn no_turn_looks_at_more_than_its_share() {
    let mut shard = shard(3 * LOOKED_AT_MAX - 1);
    let part = Part { from: 0, limit: 2 };
    let mut answer = ask(&mut shard, |reply| sessions(part, reply));
    for turn in 1..=3 {
        assert!(shard.has_work() && answer.try_recv().is_err(), "{turn}");
        shard.continue_inquiries(&Nothing, Tick(0));
    }
    let page = answer.try_recv().expect("three turns are enough");
    assert_eq!((page.count, page.entries.len(), page.next), (u64::from(3 * LOOKED_AT_MAX - 1), 2, Some(2)));
    assert!(!shard.has_work());
    // Two that are under way share the turns.
    let [mut one, mut other] = [(); 2].map(|()| ask(&mut shard, |reply| sessions(part, reply)));
    for _ in 0..5 {
        shard.continue_inquiries(&Nothing, Tick(0));
    }
    assert!(one.try_recv().is_ok() && other.try_recv().is_err());
    shard.continue_inquiries(&Nothing, Tick(0));
    assert!(other.try_recv().is_ok());
    shard.check();
}

#[test]
fn a_list_that_nobody_waits_for_is_not_finished() {
    let mut shard = shard(2 * LOOKED_AT_MAX);
    let answer = ask(&mut shard, |reply| sessions(Part { from: 0, limit: 1 }, reply));
    shard.continue_inquiries(&Nothing, Tick(0));
    assert!(shard.has_work());
    drop(answer);
    shard.continue_inquiries(&Nothing, Tick(0));
    assert!(!shard.has_work());
}

#[test]
fn what_a_shard_has_not_answered_is_gone_with_it() {
    let mut shard = shard(1);
    let mut answer = ask(&mut shard, |reply| sessions(Part { from: 0, limit: 1 }, reply));
    drop(shard);
    assert!(matches!(answer.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Closed)));
}
