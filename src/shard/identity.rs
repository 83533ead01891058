//! Who clients are: the question, the answer, and its end.
//!
//! A CONNECT whose client must prove who it is becomes a request to the
//! [`Authenticator`](crate::mesh::request::Authenticator), as does a new token that a session
//! sends to [`RENEWAL`](crate::session::RENEWAL). The connection is held until the answer comes, and the deadline for CONNECT goes on.
//!
//! Invariant: a session that is connected has what the last answer said, and a deadline if that ends.

use crate::auth::Credentials;
use crate::conn::Phase;
use crate::conn::hold::Reason;
use crate::mesh::request::{Identity, Question};
use crate::message::fault::Fault;
use crate::message::origin::{ConnKey, Origin};
use crate::session::ticket::Ticket;
use crate::shard::Shard;
use crate::time::Tick;
use crate::wire::http::Request;

impl Shard {
    /// Whether clients prove who they are: then messages say when they were accepted.
    pub fn is_guarded(&self) -> bool {
        self.env.authenticator.is_some()
    }

    /// The wall clock, in milliseconds since 1970, for what is accepted and told in this turn.
    pub fn set_wall_ms(&mut self, wall_ms: u64) {
        self.timers.set_wall_ms(wall_ms);
    }

    /// Keeps what an upgrade says of its client. `false` if it cannot be kept.
    pub(super) fn keep_ticket(&mut self, index: u32, request: &Request<'_>) -> bool {
        let Some(authenticator) = &self.env.authenticator else { return true };
        let Some(ticket) = Ticket::of(request, authenticator.sources()) else { return true };
        let holder = self.holder(index);
        let is_kept = self.sessions.keep_ticket(index, ticket, holder);
        self.counters.credentials_refused_total += u64::from(!is_kept);
        is_kept
    }

    /// Asks who the client is that says CONNECT.
    pub(super) fn authenticate(&mut self, index: u32, credentials: Box<Credentials>) {
        let serial = self.sessions.serial();
        self.sessions[index].connecting(serial, credentials.login.clone());
        self.ask_identity(index, serial, credentials);
    }

    /// Asks who the client is that sends a new token. Its receipt waits for the answer.
    pub(super) fn renew(&mut self, index: u32, serial: u32, token: Box<str>) {
        let credentials = Credentials {
            login: None,
            passcode: None,
            token: Some(token),
            headers: Box::default(),
            address: None,
        };
        self.ask_identity(index, serial, Box::new(credentials));
    }

    fn ask_identity(&mut self, index: u32, serial: u32, mut credentials: Box<Credentials>) {
        let trusted = &self.env.limits.trusted_proxies;
        credentials.address = self.connections.account_of(index, trusted);
        let holder = self.holder(index);
        let origin = Origin { holder, ..self.origin(index, Some(serial)) };
        self.holds.hold(&mut self.connections[index], Reason::Identity);
        let is_admitted = self.sessions.ask(index, credentials.weight(), holder);
        let question = Question::new(origin, credentials, self.sessions[index].asking(), self.port.mesh());
        if !is_admitted {
            self.counters.credentials_refused_total += 1;
            return question.answer(Err(Fault::AuthBusy));
        }
        match &self.env.authenticator {
            Some(authenticator) => authenticator.ask(question),
            // It is refused.
            None => drop(question),
        }
    }

    /// The service says who the client is.
    pub(super) fn identified(&mut self, connection: ConnKey, serial: u32, identity: Identity, now: Tick) {
        let index = connection.index;
        let Identity { principal, expiry } = identity;
        self.sessions.answered(index);
        let expires = expiry.map(|expiry| now.after_ms(expiry.in_ms));
        if self.connections.phase(index) == Phase::Stomp && self.sessions[index].is_connecting_by(serial) {
            let banned = principal.as_ref().and_then(|principal| self.bans.of_login(&principal.login));
            if let Some(reason) = banned {
                let reason = reason.into();
                return self.fault(index, Fault::Banned { reason }, None, now);
            }
            let max = self.env.limits.sessions_per_login_max;
            if let Some(principal) = &principal
                && !self.logins.enter(index, &principal.login, max)
            {
                return self.fault(index, Fault::TooManySessions { max }, None, now);
            }
            self.sessions.connected_as(index, principal, expires, now);
            self.counters.logins_total += 1;
            // While it was held nothing could be heard.
            self.connections[index].heard = now;
            self.connected(index, now);
            self.release(connection, Reason::Identity);
        } else if self.sessions[index].awaits_request(serial) {
            match self.sessions.renewed_as(index, principal, expires, now) {
                Ok(freed) => freed.into_iter().for_each(|number| self.authorizer.release(number)),
                Err(fault) => return self.refuse_earlier(index, Some(serial), fault, now),
            }
            self.counters.logins_renewed_total += 1;
            if let Some(expiry) = expiry {
                self.sessions[index].lasts_until(serial, expiry.at_s);
            }
            self.release(connection, Reason::Identity);
            self.completed(index, serial, now);
        }
    }

    /// Ends sessions whose proof has expired. Returns whether there are more: `turn.timers_max` bounds one call.
    pub(super) fn expire_sessions(&mut self, now: Tick) -> bool {
        let mut expired = Vec::new();
        let budget = self.env.limits.turn.timers_max as usize;
        let has_more = self.sessions.take_expired(now, budget, &mut expired);
        for index in expired {
            self.counters.sessions_expired_total += 1;
            self.fault(index, Fault::Expired, None, now);
        }
        has_more
    }
}
