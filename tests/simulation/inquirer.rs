//! A service that asks shards, as the HTTP API does: it publishes, lists, looks, ends sessions and bans, at random, and now and
//! then gives up an answer.
//!
//! Invariant: every inquiry whose answer is waited for is answered once; what is listed agrees with what is counted.

use std::net::IpAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tcbchat::broker::owner_of;
use tcbchat::mesh::Mesh;
use tcbchat::mesh::inquiry::{
    Answer, Filter, Inquiry, Page, Part, QueueView, Reply, RoomView, SessionDetail, SessionState, SessionView,
};
use tcbchat::mesh::mail::Mail;
use tcbchat::message::Message;
use tcbchat::message::destination::Destination;
use tcbchat::message::fault::Fault;
use tcbchat::message::origin::SessionName;
use tcbchat::policy::bans::{Bans, Host};
use tcbchat::wire::stomp::server_header_lines;
use tokio::sync::oneshot::error::TryRecvError;

use crate::coverage::Coverage;
use crate::model::Model;
use crate::server::Connection;

/// Who publishes, for the model: one of those who are nobody.
const AUTHOR: &str = "api5";

/// What is waited for.
enum Pending {
    Published(String, Answer<Result<(), Fault>>),
    Sessions(Part, Answer<Page<SessionView>>),
    Session(SessionName, Answer<Option<Box<SessionDetail>>>),
    Rooms(Answer<Page<RoomView>>),
    Queues(Answer<Page<QueueView>>),
    Ended(Answer<u64>),
    Banned(Answer<u64>),
}

/// See the module.
pub struct Inquirer {
    mesh: Arc<Mesh>,
    seed: u64,
    rng: StdRng,
    is_guarded: bool,
    next: u32,
    pending: Vec<Pending>,
    is_banning: bool,
}

impl Inquirer {
    pub fn new(seed: u64, mesh: Arc<Mesh>, is_guarded: bool) -> Inquirer {
        let rng = StdRng::seed_from_u64(seed ^ 0xa51);
        Inquirer { mesh, seed, rng, is_guarded, next: 0, pending: Vec::new(), is_banning: false }
    }

    fn send<T>(&self, shard: u16, inquiry: impl FnOnce(Reply<T>) -> Inquiry) -> Answer<T> {
        let (reply, answer) = Reply::channel();
        self.mesh.post(shard, &mut vec![Mail::Inquire(Box::new(inquiry(reply)))]);
        answer
    }

    /// Asks something, now and then; `live` are connections that may be there.
    pub fn ask(&mut self, places: &[&str], live: &[Connection], model: &mut Model) {
        if !self.rng.random_bool(0.15) {
            return;
        }
        let shard = self.rng.random_range(0..self.mesh.shards());
        let part = Part { from: self.rng.random_range(0..4), limit: self.rng.random_range(0..4) };
        let live = live
            .choose(&mut self.rng)
            .map(|live| SessionName { shard: live.shard as u16, connection: live.key });
        let pending = match self.rng.random_range(0..100) {
            0..50 => {
                let place = places[self.rng.random_range(0..places.len())];
                self.next += 1;
                let body = format!("{AUTHOR}-{}", self.next);
                model.sent(AUTHOR, place, &body);
                let mut lines = b"x:y\n".to_vec();
                if self.is_guarded {
                    server_header_lines(None, 1, &mut lines);
                }
                let destination = Destination::parse_send(place).expect("it is one");
                let message = Message::new(&destination, &lines, body.as_bytes());
                let owner = owner_of(self.seed, place.as_bytes(), self.mesh.shards());
                Pending::Published(body, self.send(owner, |reply| Inquiry::Publish { message, reply }))
            }
            50..65 => {
                let state = self.rng.random_bool(0.5).then_some(SessionState::Connected);
                let filter = Filter { state, ..Filter::default() };
                Pending::Sessions(part, self.send(shard, |reply| Inquiry::Sessions { filter, part, reply }))
            }
            65..75 => match live {
                Some(session) => {
                    let answer = self.send(session.shard, |reply| Inquiry::Session { session, reply });
                    Pending::Session(session, answer)
                }
                None => return,
            },
            75..85 => {
                let prefix = if self.rng.random_bool(0.5) { "" } else { "/topic/a" };
                Pending::Rooms(self.send(shard, |reply| Inquiry::Rooms {
                    prefix: prefix.into(),
                    part,
                    reply,
                }))
            }
            85..95 => {
                let prefix = if self.rng.random_bool(0.5) { "" } else { "/queue/x" };
                Pending::Queues(self.send(shard, |reply| Inquiry::Queues {
                    prefix: prefix.into(),
                    part,
                    reply,
                }))
            }
            // Rarely, or nobody would be left.
            95 => match live {
                Some(session) => {
                    let filter = Filter { session: Some(session), ..Filter::default() };
                    let end = |reply| Inquiry::End { filter, reason: "told so".into(), reply };
                    Pending::Ended(self.send(session.shard, end))
                }
                None => return,
            },
            96 => {
                // A login that few have; or the address of a client that a proxy names.
                let host = Host::of(IpAddr::from([198, 51, 100, 7]));
                self.is_banning = !self.is_banning;
                let bans = if self.is_banning {
                    Bans::new([("c3".into(), "spam".into())], [(host, "noise".into())])
                } else {
                    Bans::default()
                };
                let bans = Arc::new(bans);
                for shard in 0..self.mesh.shards() {
                    let ban = |reply| Inquiry::Ban { bans: Arc::clone(&bans), reply };
                    self.pending.push(Pending::Banned(self.send(shard, ban)));
                }
                return;
            }
            _ => {
                // Whoever asked is gone.
                if !self.pending.is_empty() {
                    let at = self.rng.random_range(0..self.pending.len());
                    drop(self.pending.remove(at));
                }
                return;
            }
        };
        self.pending.push(pending);
    }

    /// Takes the answers that have come. Returns whether there were any.
    pub fn hear(&mut self, model: &mut Model, coverage: &mut Coverage) -> bool {
        let before = self.pending.len();
        let pending = std::mem::take(&mut self.pending);
        self.pending = pending.into_iter().filter_map(|pending| heard(pending, model, coverage)).collect();
        self.pending.len() < before
    }

    /// Nobody is banned any more, so that the rest of the run has its clients.
    pub fn calm_down(&mut self) {
        for shard in 0..self.mesh.shards() {
            let ban = |reply| Inquiry::Ban { bans: Arc::default(), reply };
            self.pending.push(Pending::Banned(self.send(shard, ban)));
        }
    }

    /// Panics if an answer has not come.
    pub fn check_empty(&self) {
        assert!(self.pending.is_empty(), "{} inquiries were not answered", self.pending.len());
    }
}

/// The answer, if it has come; else what is waited for goes on.
fn come<T>(answer: &mut Answer<T>) -> Option<T> {
    match answer.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => panic!("an inquiry was dropped"),
    }
}

fn heard(mut pending: Pending, model: &mut Model, coverage: &mut Coverage) -> Option<Pending> {
    match &mut pending {
        Pending::Published(body, answer) => match come(answer) {
            Some(Ok(())) => {
                model.confirmed(body);
                coverage.note("inquiry", "published");
            }
            Some(Err(fault)) => coverage.note("inquiry", &format!("refused: {}", fault.name())),
            None => return Some(pending),
        },
        Pending::Sessions(part, answer) => {
            let page = match come(answer) {
                Some(page) => page,
                None => return Some(pending),
            };
            assert!(page.entries.len() as u64 <= page.count && page.entries.len() <= part.limit as usize);
            let mut ids: Vec<String> = page.entries.iter().map(|session| session.id.to_string()).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), page.entries.len(), "a session is listed twice");
            coverage.note("inquiry", "sessions");
            if page.next.is_some() {
                coverage.note("inquiry", "sessions, and more");
            }
        }
        Pending::Session(session, answer) => match come(answer) {
            Some(Some(detail)) => {
                assert_eq!(detail.view.id, *session);
                assert_eq!(detail.subscriptions_to.len(), detail.view.subscriptions as usize);
                coverage.note("inquiry", "a session");
            }
            Some(None) => coverage.note("inquiry", "a session that is gone"),
            None => return Some(pending),
        },
        Pending::Rooms(answer) => match come(answer) {
            Some(page) => {
                assert!(page.entries.iter().all(|room| room.members > 0 || room.is_full || room.kept > 0));
                coverage.note("inquiry", "rooms");
            }
            None => return Some(pending),
        },
        Pending::Queues(answer) => match come(answer) {
            Some(page) => {
                assert!(page.entries.iter().all(|queue| queue.waiting <= queue.messages));
                coverage.note("inquiry", "queues");
            }
            None => return Some(pending),
        },
        Pending::Ended(answer) => match come(answer) {
            Some(ended) => coverage.note("inquiry", if ended > 0 { "ended" } else { "nobody to end" }),
            None => return Some(pending),
        },
        Pending::Banned(answer) => match come(answer) {
            Some(_) => coverage.note("inquiry", "banned"),
            None => return Some(pending),
        },
    }
    None
}

/// Whether a refusal of an upgrade, whose body begins here, may be that of the address that is banned now and then. The body
/// may come later.
pub fn is_ban(answer: &[u8], body_at: usize) -> bool {
    let (head, body) = answer.split_at(body_at);
    let said = b"The address is banned. noise\n";
    let length = format!("Content-Length: {}\r\n", said.len());
    String::from_utf8_lossy(head).contains(&length) && said.starts_with(body)
}
