//! Inquiries of services: what they want to know of this shard, or have done.
//!
//! A publication goes the way of any other: its owner gives it its place, or parks it. All others are *walks* over a table of
//! the shard, which look at [`LOOKED_AT_MAX`] entries in a turn and go on in the next one, in rotation. So no turn is longer
//! for the length of a list. A walk goes up the table's places, and no entry changes its place: what is there from begin to end
//! is met once.
//!
//! Invariant: an inquiry that was taken is in one of the two tables until it is answered.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use foldhash::fast::FixedState;

use crate::broker::queue::QueueLook;
use crate::broker::topic::RoomLook;
use crate::conn::Phase;
use crate::conn::hold::Reason;
use crate::conn::transport::Transport;
use crate::mesh::inquiry::{
    ConnectionView, Filter, Inquiry, MarksView, Page, Part, QueueView, Reply, RoomView, SessionDetail,
    SessionState, SessionView, SubscriptionView, TimersView,
};
use crate::mesh::mail::Mail;
use crate::mesh::request::Completion;
use crate::message::class::AckMode;
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::origin::{ConnKey, Holder, Origin, SessionName};
use crate::policy::bans::Host;
use crate::session::State;
use crate::shard::Shard;
use crate::time::Tick;

/// Entries that all walks together look at in one turn: a tenth of a millisecond, or one if the ledger is asked for the address
/// of each.
const LOOKED_AT_MAX: u32 = 4096;

/// What ending a session counts for, among entries that are looked at.
const ENDING: u32 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    /// Publications whose place is waited for, by the numbers of their requests.
    publications: HashMap<u32, Reply<Result<(), Fault>>, FixedState>,
    walks: VecDeque<Walk>,
}

impl Inquiries {
    /// Whether a walk is to go on.
    pub(super) fn has_walks(&self) -> bool {
        !self.walks.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publications.is_empty() && self.walks.is_empty()
    }
}

/// An inquiry under way.
#[derive(Debug)]
struct Walk {
    /// The place to look at next.
    at: u32,
    task: Task,
}

#[derive(Debug)]
enum Task {
    Sessions { filter: Filter, part: Part, page: Page<SessionView>, reply: Reply<Page<SessionView>> },
    Session { session: SessionName, reply: Reply<Option<Box<SessionDetail>>> },
    Rooms { prefix: Box<str>, part: Part, page: Page<RoomView>, reply: Reply<Page<RoomView>> },
    Queues { prefix: Box<str>, part: Part, page: Page<QueueView>, reply: Reply<Page<QueueView>> },
    End { filter: Filter, reason: Box<str>, ended: u64, reply: Reply<u64> },
    Ban { ended: u64, reply: Reply<u64> },
}

impl Task {
    /// Whether it only looks, and nobody waits for what it finds.
    fn is_unwanted(&self) -> bool {
        match self {
            Task::Sessions { reply, .. } => reply.is_unwanted(),
            Task::Session { reply, .. } => reply.is_unwanted(),
            Task::Rooms { reply, .. } => reply.is_unwanted(),
            Task::Queues { reply, .. } => reply.is_unwanted(),
            Task::End { .. } | Task::Ban { .. } => false,
        }
    }
}

impl From<RoomLook<'_>> for RoomView {
    fn from(room: RoomLook<'_>) -> RoomView {
        RoomView {
            destination: room.key.into(),
            members: room.members,
            reactors: room.shards,
            sequence: room.sequence,
            kept: room.kept,
            is_full: room.is_full,
        }
    }
}

impl From<QueueLook<'_>> for QueueView {
    fn from(queue: QueueLook<'_>) -> QueueView {
        QueueView {
            destination: queue.key.into(),
            messages: queue.messages,
            bytes: queue.bytes,
            waiting: queue.waiting as u64,
            consumers: queue.consumers as u64,
            sequence: queue.sequence,
        }
    }
}

/// Goes on with a walk over a table of keys that has so many places and entries. Returns whether it is over.
fn walk_keys<'a, L, V: From<L>>(
    at: &mut u32,
    (places, entries): (u32, usize),
    prefix: &str,
    part: Part,
    page: &mut Page<V>,
    left: &mut u32,
    look: impl Fn(u32) -> Option<(&'a str, L)>,
) -> bool {
    if !prefix.is_empty() {
        while *at < places && *left > 0 {
            *left -= 1;
            if let Some((key, found)) = look(*at)
                && key.starts_with(prefix)
            {
                page.add(*at, part, || found.into());
            }
            *at += 1;
        }
        return *at >= places;
    }
    // How many there are is known, so the walk is over with the page.
    *at = (*at).max(part.from);
    while *at < places && *left > 0 && part.limit > 0 && !page.is_full() {
        *left -= 1;
        if let Some((_, found)) = look(*at) {
            page.add(*at, part, || found.into());
        }
        *at += 1;
    }
    page.count = entries as u64;
    *at >= places || part.limit == 0 || page.is_full()
}

impl Shard {
    /// Takes an inquiry.
    pub(super) fn inquire(&mut self, inquiry: Inquiry, now: Tick) {
        self.counters.inquiries_total += 1;
        let task = match inquiry {
            Inquiry::Publish { message, reply } => {
                let serial = self.sessions.serial();
                self.inquiries.publications.insert(serial, reply);
                self.rest.published_bytes += message.weight();
                let (shard, connection) = (self.env.id, ConnKey::INQUIRIES);
                let origin = Origin { shard, connection, serial: Some(serial), holder: Holder::Api };
                return self.handle(Mail::Publish { origin, message }, now);
            }
            Inquiry::Sessions { filter, part, reply } => {
                Task::Sessions { filter, part, page: Page::default(), reply }
            }
            Inquiry::Session { session, reply } => Task::Session { session, reply },
            Inquiry::Rooms { prefix, part, reply } => {
                Task::Rooms { prefix, part, page: Page::default(), reply }
            }
            Inquiry::Queues { prefix, part, reply } => {
                Task::Queues { prefix, part, page: Page::default(), reply }
            }
            Inquiry::End { filter, reason, reply } => Task::End { filter, reason, ended: 0, reply },
            Inquiry::Ban { bans, reply } => {
                self.bans = bans;
                Task::Ban { ended: 0, reply }
            }
        };
        self.inquiries.walks.push_back(Walk { at: 0, task });
    }

    /// A publication of a service has its place, or was refused.
    pub(super) fn publication_answered(&mut self, serial: Option<u32>, completion: Completion) {
        let waiting = serial.and_then(|serial| self.inquiries.publications.remove(&serial));
        match (waiting, completion) {
            (Some(reply), Completion::Published) => reply.say(Ok(())),
            (Some(reply), Completion::Refused(fault)) => reply.say(Err(fault)),
            // It has been answered before.
            _ => {}
        }
        if self.inquiries.publications.is_empty() {
            self.inquiries.publications.shrink_to(super::rest::LIST_KEPT);
        }
    }

    /// Goes on with walks, as far as one turn goes.
    pub(super) fn continue_inquiries(&mut self, transport: &impl Transport, now: Tick) {
        let mut left = LOOKED_AT_MAX;
        while left > 0
            && let Some(walk) = self.inquiries.walks.pop_front()
        {
            if let Some(walk) = self.continue_walk(walk, &mut left, transport, now) {
                self.inquiries.walks.push_back(walk);
            }
        }
        if self.inquiries.walks.is_empty() {
            self.inquiries.walks = VecDeque::new();
        }
    }

    /// Goes on with a walk; gives it back if it is not over. `left` is what may still be looked at.
    fn continue_walk(
        &mut self,
        walk: Walk,
        left: &mut u32,
        transport: &impl Transport,
        now: Tick,
    ) -> Option<Walk> {
        let Walk { mut at, task } = walk;
        let mut task = match task {
            Task::Session { session, reply } => {
                *left = left.saturating_sub(ENDING);
                reply.say(self.detail(session, transport, now));
                return None;
            }
            task if task.is_unwanted() => return None,
            task => task,
        };
        let is_over = match &mut task {
            Task::Session { .. } => true,
            Task::Sessions { filter, part, page, .. } => {
                let place = self.place_of(filter);
                let end = self.connections.last().map_or(0, |last| last + 1);
                while at < end && *left > 0 {
                    let cost = 1 + self.looked_at_for(at, filter);
                    *left = left.saturating_sub(cost);
                    if self.is_meant(at, filter, place) {
                        page.add(at, *part, || self.view(at));
                    }
                    at += 1;
                }
                at >= end
            }
            Task::Rooms { prefix, part, page, .. } => {
                let table = (self.topics.places(), self.topics.len());
                walk_keys(&mut at, table, prefix, *part, page, left, |at| {
                    self.topics.at(at).map(|room| (room.key, room))
                })
            }
            Task::Queues { prefix, part, page, .. } => {
                let table = (self.queues.places(), self.queues.len());
                walk_keys(&mut at, table, prefix, *part, page, left, |at| {
                    self.queues.at(at).map(|queue| (queue.key, queue))
                })
            }
            Task::End { filter, reason, ended, .. } => {
                let end = self.connections.last().map_or(0, |last| last + 1);
                while at < end && *left > 0 {
                    let place = self.place_of(filter);
                    *left = left.saturating_sub(1 + self.looked_at_for(at, filter));
                    if self.is_meant(at, filter, place) && self.kick(at, reason, now) {
                        *ended += 1;
                        *left = left.saturating_sub(ENDING);
                    }
                    at += 1;
                }
                at >= end
            }
            Task::Ban { ended, .. } => {
                let end = self.connections.last().map_or(0, |last| last + 1);
                while at < end && *left > 0 && !self.bans.is_empty() {
                    *left -= 1;
                    if self.end_banned(at, now) {
                        *ended += 1;
                        *left = left.saturating_sub(ENDING);
                    }
                    at += 1;
                }
                at >= end || self.bans.is_empty()
            }
        };
        if !is_over {
            return Some(Walk { at, task });
        }
        match task {
            Task::Sessions { page, reply, .. } => reply.say(page),
            Task::Rooms { page, reply, .. } => reply.say(page),
            Task::Queues { page, reply, .. } => reply.say(page),
            Task::End { ended, reply, .. } | Task::Ban { ended, reply } => reply.say(ended),
            Task::Session { .. } => {}
        }
        None
    }

    // ---- who is meant ----

    /// The place here of the destination that a filter names, if it names one and there is one.
    fn place_of(&self, filter: &Filter) -> Option<u32> {
        let (key, kind) = filter.destination.as_ref()?;
        match kind {
            Kind::Queue => self.sessions.names().find(&**key).map(|name| name.0),
            _ => self.members.find(key),
        }
    }

    /// What a look at a connection costs beside the look itself.
    fn looked_at_for(&self, index: u32, filter: &Filter) -> u32 {
        if filter.destination.is_none() || self.connections.get(index).is_none() {
            return 0;
        }
        self.sessions[index].subscriptions().len() as u32 / 4
    }

    fn state_of(&self, index: u32) -> Option<SessionState> {
        Some(match self.connections.get(index)?.phase {
            Phase::Opening | Phase::Refused => SessionState::Handshake,
            Phase::Stomp if self.sessions[index].is_connected() => SessionState::Connected,
            Phase::Stomp => SessionState::Connecting,
            Phase::Echo => SessionState::Echo,
            Phase::Concluding | Phase::Closing | Phase::Finishing | Phase::Lingering => SessionState::Ending,
            Phase::Closed => return None,
        })
    }

    /// Whether a connection is one that a filter names; `place` is that of its destination.
    fn is_meant(&self, index: u32, filter: &Filter, place: Option<u32>) -> bool {
        let Filter { session, login, host, peer, destination, state } = filter;
        let Some(found) = self.state_of(index) else { return false };
        let of_login = || {
            let principal = self.sessions[index].principal();
            principal.map(|principal| self.sessions.principals().login(principal))
        };
        state.is_none_or(|state| state == found)
            && session.is_none_or(|session| session == self.name_of(index))
            && login.as_ref().is_none_or(|login| of_login() == Some(&**login))
            && destination.as_ref().is_none_or(|(_, kind)| {
                place.is_some() && self.sessions[index].subscriptions().has_joined(*kind, place)
            })
            && host.is_none_or(|host| {
                self.connections.client_of(index).is_some_and(|address| Host::of(address) == host)
            })
            && peer.is_none_or(|peer| self.peer(index) == Some(peer))
    }

    // ---- what is done ----

    /// Ends a session, or a connection to `/echo`, at an operator's word. `false` if it is ending already.
    fn kick(&mut self, index: u32, reason: &str, now: Tick) -> bool {
        self.end_by_operator(index, Fault::Kicked { reason: reason.into() }, now)
    }

    /// Ends a session whose login or address is banned.
    fn end_banned(&mut self, index: u32, now: Tick) -> bool {
        if self.state_of(index).is_none() {
            return false;
        }
        let Some(reason) = self.ban_of(index) else { return false };
        self.end_by_operator(index, Fault::Banned { reason }, now)
    }

    fn end_by_operator(&mut self, index: u32, fault: Fault, now: Tick) -> bool {
        match self.connections.phase(index) {
            phase if phase.has_session() => {
                self.fault(index, fault, None, now);
                true
            }
            Phase::Echo => {
                self.begin_close(index, fault.close_code(), fault.name(), now);
                true
            }
            _ => false,
        }
    }

    /// Why a connection may not be here, if its login or its client's address is banned.
    pub(super) fn ban_of(&self, index: u32) -> Option<Box<str>> {
        let bans = &self.bans;
        if bans.is_empty() {
            return None;
        }
        let principal = self.sessions[index].principal();
        let login = principal.map(|principal| self.sessions.principals().login(principal));
        let by_login = login.and_then(|login| bans.of_login(login));
        by_login.or_else(|| self.ban_of_address(index)).map(Into::into)
    }

    /// Why the address of a connection's client is banned, if it is.
    pub(super) fn ban_of_address(&self, index: u32) -> Option<&str> {
        let bans = &self.bans;
        if !bans.has_hosts() {
            return None;
        }
        bans.of_address(self.connections.client_of(index)?)
    }

    // ---- what is shown ----

    fn view(&self, index: u32) -> SessionView {
        let session = &self.sessions[index];
        let login = session.principal().map(|principal| self.sessions.principals().login(principal).into());
        SessionView {
            id: self.name_of(index),
            login,
            address: self.connections.client_of(index),
            state: self.state_of(index).unwrap_or(SessionState::Ending),
            subscriptions: session.subscriptions().len() as u32,
            unsent_bytes: self.connections[index].output.bytes(),
        }
    }

    fn detail(
        &self,
        session: SessionName,
        transport: &impl Transport,
        now: Tick,
    ) -> Option<Box<SessionDetail>> {
        let key = session.connection;
        if session.shard != self.env.id || !self.is_current(key) {
            return None;
        }
        let index = key.index;
        let (connection, session) = (&self.connections[index], &self.sessions[index]);
        let ledger = connection.tcb.and_then(|tcb| self.connections.tcbs().get(tcb));
        let ms = |from: Tick| Tick(now.since(from)).as_millis();
        let (beats_out, beats_in) = session.heart_beats();
        let interval = |ticks: Option<u32>| ticks.map(|ticks| Tick(ticks).as_millis());
        let held = Reason::ALL.into_iter().filter(|reason| connection.holds.has(*reason));
        let watched = self.liveness(key).map(|liveness| liveness.armed).unwrap_or_default();
        let principals = self.sessions.principals();
        let principal = session.principal();
        let local = ledger.as_ref().map(|view| view.tuple.local());
        let peer: Option<SocketAddr> = self.peer(index);
        Some(Box::new(SessionDetail {
            view: self.view(index),
            roles: principal.map(|principal| principals.roles(principal).to_vec()).unwrap_or_default(),
            claims: principal.map(|principal| principals.claims(principal).to_vec()).unwrap_or_default(),
            version: session.version().map(|version| version.as_str()),
            connection: ConnectionView {
                local,
                peer,
                phase: format!("{:?}", connection.phase).to_ascii_lowercase(),
                ledger: ledger.as_ref().map(|view| format!("{:?}", view.state).to_ascii_lowercase()),
                opened_ms_ago: ledger.as_ref().map(|view| ms(view.opened)),
                held_for: held.map(|reason| format!("{reason:?}").to_ascii_lowercase()).collect(),
                is_writable: connection.is_writable,
            },
            timers: TimersView {
                heard_ms_ago: ms(connection.heard),
                sent_ms_ago: ms(connection.sent),
                due_in_ms: self.connections.deadline(index).map(|due| Tick(due.since(now)).as_millis()),
                beats_out_ms: interval(beats_out.ticks()),
                beats_in_ms: interval(beats_in.ticks()),
                watched_by: watched.into_iter().map(|mechanism| mechanism.name()).collect(),
            },
            marks: MarksView {
                answer_bytes: connection.output.answer_bytes(),
                debts: connection.output.debts().len() as u32,
                unsettled: session.unsettled() as u32,
                awaited: session.awaited() as u32,
                transaction_bytes: session.transaction_bytes(),
            },
            subscriptions_to: session.subscriptions().iter().map(|one| self.subscription_view(one)).collect(),
            tcp: transport.tcp_info(index),
        }))
    }

    fn subscription_view(&self, subscription: &crate::session::Subscription) -> SubscriptionView {
        let is_known = subscription.is_named() || subscription.state != State::Joining;
        SubscriptionView {
            id: self.members.classes().value(subscription.class).id.clone(),
            destination: is_known.then(|| self.key_of(subscription)),
            ack: match subscription.ack {
                AckMode::Auto => "auto",
                AckMode::Client => "client",
                AckMode::Individual => "client-individual",
            },
            state: match subscription.state {
                State::Joining => "joining",
                State::Recovering => "recovering",
                State::Joined => "joined",
                State::Leaving => "leaving",
                State::Asked => "asked",
                State::Answered => "answered",
            },
        }
    }
}
