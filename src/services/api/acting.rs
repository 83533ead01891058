//! Operations by which an operator acts: sessions are ended, logins and addresses banned, the server drained.
//!
//! Invariant: what is answered 200 has been done; what is answered 202 has been ordered.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::bans::{Ban, Who};
use super::counts::Refusal;
use super::listener::Answered;
use super::lists::Query;
use super::operations::{Asked, Operations, answered, filter_by, parsed};
use super::problem::Problem;
use crate::auth::principal::LOGIN_BYTES_MAX;
use crate::mesh::inquiry::{Answer, Inquiry};
use crate::policy::bans::{Bans, Host};

/// Bytes of a reason. A client is shown it.
const REASON_BYTES_MAX: usize = 255;

/// Seconds of a ban: a hundred years.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// How often it is looked at least whether a ban is over: the wall clock may be set.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    login: Option<String>,
    session: Option<String>,
    address: Option<String>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBan {
    login: Option<String>,
    address: Option<String>,
    seconds: Option<u64>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct EndOfBan {
    login: Option<String>,
    address: Option<String>,
}

#[derive(Serialize)]
struct Disconnected {
    disconnected: u64,
}

#[derive(Serialize)]
struct Banned {
    ban: Ban,
    disconnected: u64,
}

#[derive(Serialize)]
struct Unbanned {
    removed: bool,
}

#[derive(Serialize)]
struct Ordered {
    ordered: &'static str,
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A reason that a client can be shown.
fn reason(text: String) -> Result<Box<str>, Problem> {
    if text.len() > REASON_BYTES_MAX || text.contains(char::is_control) {
        return Err(Problem::invalid("a reason has at most 255 bytes, and no control characters"));
    }
    Ok(text.into())
}

/// Who is to be banned, or not to be any more.
fn who(login: Option<&str>, address: Option<&str>) -> Result<Who, Problem> {
    match (login, address) {
        (Some(login), None) if (1..=LOGIN_BYTES_MAX).contains(&login.len()) => Ok(Who::Login(login.into())),
        (Some(_), None) => Err(Problem::invalid("a login has 1 to 255 bytes")),
        (None, Some(text)) => {
            let wrong = || Problem::invalid("address is an IP address, or of IPv6 a /64");
            text.parse::<Host>().map(Who::Host).map_err(|_| wrong())
        }
        _ => Err(Problem::invalid("say login or address, one of them")),
    }
}

fn not_written(error: &io::Error) -> Problem {
    tracing::error!(%error, "the file of bans cannot be written: nothing has changed");
    Problem::new(503, "bans-file", format!("api.bans_file cannot be written: {error}"))
}

impl Operations {
    /// `POST /v1/disconnect`.
    pub(super) async fn disconnect(&self, body: &[u8]) -> Result<Answered, Problem> {
        let Disconnect { login, session, address, reason: text } = parsed(body)?;
        let said = [&login, &session, &address].into_iter().filter(|said| said.is_some()).count();
        if said != 1 {
            return Err(Problem::invalid("say login, session or address, one of them"));
        }
        let reason = reason(text)?;
        let filter = filter_by(login.as_deref(), address.as_deref(), session.as_deref())?;
        let end = |reply| Inquiry::End { filter: filter.clone(), reason: reason.clone(), reply };
        let disconnected = match filter.session {
            Some(session) if session.shard < self.shards.count() => {
                self.shards.answer(self.shards.ask(session.shard, end)).await?
            }
            Some(_) => 0,
            None => self.shards.sum(end).await?,
        };
        Ok(answered(200, &Disconnected { disconnected }))
    }

    /// `POST /v1/bans`.
    pub(super) async fn ban(&self, body: &[u8]) -> Result<Answered, Problem> {
        let NewBan { login, address, seconds, reason: text } = parsed(body)?;
        let who = who(login.as_deref(), address.as_deref())?;
        let reason = reason(text)?;
        if seconds.is_some_and(|seconds| !(1..=SECONDS_MAX).contains(&seconds)) {
            return Err(Problem::invalid(format!("seconds are 1 to {SECONDS_MAX}, or left out for good")));
        }
        let since_s = now_s();
        let ban = Ban {
            login: login.map(Into::into),
            address: if let Who::Host(host) = &who { Some(host.to_string()) } else { None },
            since_s,
            until_s: seconds.map(|seconds| since_s + seconds),
            reason,
        };
        let answers = {
            let mut register = self.bans.lock();
            let max = self.limits.bans_max;
            if register.len() >= max as usize && !register.has(&who) {
                self.counts.refused(Refusal::Bans);
                return Err(Problem::new(
                    503,
                    "too-many-bans",
                    format!("there are api.bans_max = {max} bans"),
                ));
            }
            register.add(who, ban.clone()).map_err(|error| not_written(&error))?;
            // Before the lock is free: the last list that a shard gets is the newest.
            self.send_bans(register.snapshot())
        };
        let mut disconnected = 0;
        for answer in answers {
            disconnected += self.shards.answer(answer).await?;
        }
        let Ban { login, address, until_s, reason, .. } = &ban;
        tracing::info!(login, address, until_s, reason, disconnected, "banned");
        self.look_at_bans.notify_one();
        Ok(answered(200, &Banned { ban, disconnected }))
    }

    /// `DELETE /v1/bans`, by its query or its body.
    pub(super) async fn unban(&self, asked: &Asked<'_>) -> Result<Answered, Problem> {
        let mut query = Query::parse(asked.query)?;
        let (login, address) = (query.take("login"), query.take("address"));
        query.finish()?;
        let body: EndOfBan = if asked.body.is_empty() { EndOfBan::default() } else { parsed(&asked.body)? };
        let login = login.map(|login| login.into_owned()).or(body.login);
        let address = address.map(|address| address.into_owned()).or(body.address);
        let who = who(login.as_deref(), address.as_deref())?;
        let answers = {
            let mut register = self.bans.lock();
            if !register.remove(&who).map_err(|error| not_written(&error))? {
                return Err(Problem::not_found("there is no such ban"));
            }
            self.send_bans(register.snapshot())
        };
        for answer in answers {
            self.shards.answer(answer).await?;
        }
        tracing::info!(login, address, "banned no more");
        Ok(answered(200, &Unbanned { removed: true }))
    }

    fn send_bans(&self, bans: Arc<Bans>) -> Vec<Answer<u64>> {
        let ban = |reply| Inquiry::Ban { bans: Arc::clone(&bans), reply };
        (0..self.shards.count()).map(|shard| self.shards.ask(shard, ban)).collect()
    }

    /// Ends bans whose time is up, for as long as the server lives.
    pub(super) async fn end_bans(&self) {
        loop {
            let next_s = self.bans.lock().next_end_s();
            match next_s {
                None => self.look_at_bans.notified().await,
                Some(next_s) if next_s > now_s() => sleep(LOOK).await,
                Some(_) => {
                    let mut register = self.bans.lock();
                    if register.expire(now_s()) {
                        // Nobody is ended by it, so nobody waits for the answers.
                        drop(self.send_bans(register.snapshot()));
                    }
                }
            }
        }
    }

    /// `POST /v1/drain`.
    pub(super) fn drain(&self) -> Answered {
        tracing::info!("drained by the API");
        self.operator.drain();
        answered(202, &Ordered { ordered: "drain" })
    }

    /// `POST /v1/reload`.
    pub(super) fn reload(&self) -> Answered {
        self.operator.reload();
        answered(202, &Ordered { ordered: "reload" })
    }
}
