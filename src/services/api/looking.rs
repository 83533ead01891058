//! Operations that only look: sessions, rooms, queues, bans.
//!
//! Invariant: nothing changes by them.

use serde::Serialize;

use super::bans::{Ban, Who};
use super::listener::Answered;
use super::lists::{Listed, Query, list};
use super::operations::{Operations, answered, filter_by};
use super::problem::Problem;
use crate::mesh::inquiry::{Inquiry, QueueView, RoomView, SessionState, SessionView};
use crate::message::destination::Destination;
use crate::message::fault::Fault;
use crate::message::origin::SessionName;

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<SessionView>,
    #[serde(flatten)]
    listed: Listed<()>,
}

#[derive(Serialize)]
struct Rooms {
    rooms: Vec<RoomView>,
    #[serde(flatten)]
    listed: Listed<()>,
}

#[derive(Serialize)]
struct Queues {
    queues: Vec<QueueView>,
    #[serde(flatten)]
    listed: Listed<()>,
}

#[derive(Serialize)]
struct Bans<'a> {
    bans: Vec<&'a Ban>,
    count: u64,
    next: Option<String>,
}

/// The entries of a page, and the rest of it.
fn apart<T>(listed: Listed<T>) -> (Vec<T>, Listed<()>) {
    let Listed { entries, count, next } = listed;
    (entries, Listed { entries: Vec::new(), count, next })
}

impl Operations {
    /// `GET /v1/sessions`.
    pub(super) async fn sessions(&self, query: &str) -> Result<Answered, Problem> {
        let mut query = Query::parse(query)?;
        let part = query.part(&self.limits, &self.counts)?;
        let (login, address) = (query.take("login"), query.take("address"));
        let mut filter = filter_by(login.as_deref(), address.as_deref(), None)?;
        if let Some(text) = query.take("destination") {
            let destination = Destination::parse_send(&text).map_err(Fault::from)?;
            filter.destination = Some((destination.key().into(), destination.kind()));
        }
        let state = query.take("state");
        filter.state = match state.as_deref() {
            None => Some(SessionState::Connected),
            Some("any") => None,
            Some(word) => {
                let known = SessionState::WORDS.iter().find(|(other, _)| *other == word);
                let wrong =
                    || Problem::invalid("state is connected, connecting, ending, handshake, echo or any");
                Some(known.ok_or_else(wrong)?.1)
            }
        };
        query.finish()?;
        let ask = |part, reply| Inquiry::Sessions { filter: filter.clone(), part, reply };
        let (sessions, listed) = apart(list(&self.shards, part, ask).await?);
        Ok(answered(200, &Sessions { sessions, listed }))
    }

    /// `GET /v1/sessions/{id}`.
    pub(super) async fn session(&self, id: &str) -> Result<Answered, Problem> {
        let absent = || Problem::not_found("there is no session of this id");
        // An id that no session can have is one that is not there.
        let session: SessionName = id.parse().map_err(|_| absent())?;
        if session.shard >= self.shards.count() {
            return Err(absent());
        }
        let answer = self.shards.ask(session.shard, |reply| Inquiry::Session { session, reply });
        let detail = self.shards.answer(answer).await?.ok_or_else(absent)?;
        Ok(answered(200, &detail))
    }

    /// `GET /v1/rooms`.
    pub(super) async fn rooms(&self, query: &str) -> Result<Answered, Problem> {
        let mut query = Query::parse(query)?;
        let part = query.part(&self.limits, &self.counts)?;
        let prefix = query.take("prefix").unwrap_or_default().into_owned();
        query.finish()?;
        let ask = |part, reply| Inquiry::Rooms { prefix: prefix.as_str().into(), part, reply };
        let (rooms, listed) = apart(list(&self.shards, part, ask).await?);
        Ok(answered(200, &Rooms { rooms, listed }))
    }

    /// `GET /v1/queues`.
    pub(super) async fn queues(&self, query: &str) -> Result<Answered, Problem> {
        let mut query = Query::parse(query)?;
        let part = query.part(&self.limits, &self.counts)?;
        let prefix = query.take("prefix").unwrap_or_default().into_owned();
        query.finish()?;
        let ask = |part, reply| Inquiry::Queues { prefix: prefix.as_str().into(), part, reply };
        let (queues, listed) = apart(list(&self.shards, part, ask).await?);
        Ok(answered(200, &Queues { queues, listed }))
    }

    /// `GET /v1/bans`.
    pub(super) fn list_bans(&self, query: &str) -> Result<Answered, Problem> {
        let mut query = Query::parse(query)?;
        let after = query.take("after");
        let limit = query.part(&self.limits, &self.counts)?.1 as usize;
        query.finish()?;
        let wrong = || Problem::new(422, "cursor", "after must be the value of next of the page before");
        let after = after.map(|text| Who::decode(&text).ok_or_else(wrong)).transpose()?;
        let register = self.bans.lock();
        let mut behind = register.behind(after.as_ref()).peekable();
        let (mut bans, mut last) = (Vec::new(), None);
        while bans.len() < limit
            && let Some((who, ban)) = behind.next()
        {
            bans.push(ban);
            last = Some(who);
        }
        let next = last.filter(|_| behind.peek().is_some()).map(Who::encode);
        Ok(answered(200, &Bans { bans, count: register.len() as u64, next }))
    }
}
