//! How a session begins: CONNECT, who its client is, and how that is proved again.
//!
//! Where clients are who they say, CONNECT is answered at once. Where they prove it, it becomes a question, and the session is
//! connected when that is answered. The answer comes by the shard.
//!
//! Invariant: a session has a principal only if it is connected.

use std::sync::{Arc, Weak};

use super::head::{Head, Value};
use super::principals::PrincipalId;
use super::ticket::{self, Said, Ticket};
use super::{Command, Context, Interval, Session};
use crate::auth::{Principal, Secret};
use crate::message::fault::Fault;
use crate::wire::stomp::{StompFrame, Version};

/// The destination to which a session sends a new token.
pub const RENEWAL: &str = "/session/token";

impl Session {
    /// Whether CONNECTED was answered.
    pub fn is_connected(&self) -> bool {
        self.version.is_some() && self.extra.as_ref().is_none_or(|extra| extra.connecting.is_none())
    }

    /// The version of which the client knows: CONNECTED has said it.
    pub fn agreed_version(&self) -> Option<Version> {
        self.version.filter(|_| self.is_connected())
    }

    /// Who the client is; `None` for one that has not said, or need not say.
    pub fn principal(&self) -> Option<PrincipalId> {
        self.principal
    }

    /// CONNECT and STOMP (STOMP 1.2, Connecting). A missing `host` is accepted: no client sends it unasked.
    pub(super) fn connect(
        &mut self,
        stomp_frame: &StompFrame<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let [accepted, beats, login, passcode, authorization] =
            stomp_frame.values(["accept-version", "heart-beat", "login", "passcode", "Authorization"]);
        let version = Version::negotiate(accepted.as_deref()).ok_or(Fault::NoCommonVersion)?;
        if let Some(beats) = beats {
            let (can_send, wants) = beats.split_once(',').ok_or(Fault::BadHeartBeat)?;
            let number = |text: &str| {
                let text = text.trim_matches([' ', '\t']);
                // A sign is no digit, though a parser of numbers takes it.
                let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                let is_number = is_number && !text.is_empty();
                // One that is too large for this is still a number, and longer than anything agreed to.
                is_number.then(|| text.parse::<u32>().unwrap_or(u32::MAX)).ok_or(Fault::BadHeartBeat)
            };
            let (can_send, wants) = (number(can_send)?, number(wants)?);
            if version > Version::V10 {
                let limits = context.limits;
                let at_least =
                    |theirs: u32| if theirs == 0 { 0 } else { theirs.max(limits.heart_beat_min_ms) };
                // Beating more often than asked is allowed, so a client that asks for one an hour does not
                // keep a dead connection for an hour.
                self.beat_out = Interval::from_ms(at_least(wants).min(limits.heart_beat_max_ms));
                self.beat_in = Interval::from_ms(at_least(can_send));
            }
        }
        let login = Value { header: "login", text: login };
        let login = login.bounded(context.limits)?.filter(|login| !login.is_empty());
        if let Some(sources) = context.sources {
            let ticket = self.extra.as_mut().and_then(|extra| extra.ticket.take());
            self.tidy();
            let (passcode, authorization) = (passcode.as_deref(), authorization.as_deref());
            // Old clients always say both, and mean nothing by an empty one.
            let passcode = passcode.filter(|passcode| !passcode.is_empty());
            let said = Said { login, passcode, authorization };
            let credentials = Ticket::redeem(ticket, said, stomp_frame, sources)?;
            self.version = Some(version);
            context.commands.push(Command::Authenticate(Box::new(credentials)));
            return Ok(());
        }
        self.version = Some(version);
        if let Some(login) = login {
            let said = Principal { login: login.into(), roles: Box::default(), claims: Box::default() };
            self.principal = Some(context.principals.acquire(said));
        }
        context.commands.push(Command::Connected);
        Ok(())
    }

    /// A new token, for a session whose old one will expire.
    pub(super) fn renew(
        &self,
        stomp_frame: &StompFrame<'_>,
        head: &Head<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let Some(sources) = context.sources else { return Err(Fault::NothingToRenew) };
        if head.transaction.text.is_some() {
            return Err(Fault::NotAuthenticated("a new token is no part of a transaction".into()));
        }
        if stomp_frame.body.len() > sources.token_bytes_max as usize {
            return Err(ticket::token_too_long(sources));
        }
        // A token is ASCII: one that is no text is refused as one that is none.
        let token = std::str::from_utf8(stomp_frame.body).unwrap_or_default().trim_ascii();
        context.commands.push(Command::Renew(Secret(token.into())));
        Ok(())
    }

    /// The client, which says that it has this login, is asked for by this request, and is not connected before the answer.
    pub fn connecting(&mut self, serial: u32, claimed: Option<Box<str>>) {
        self.extra_mut().connecting = Some((serial, claimed));
    }

    /// It is asked who the client is. The reference is dead as soon as nobody waits for the answer.
    pub fn asking(&mut self) -> Weak<()> {
        Arc::downgrade(self.extra_mut().asking.insert(Arc::default()))
    }

    /// That is answered.
    pub(super) fn asked(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.asking = None;
            self.tidy();
        }
    }

    /// The login that the client says it has, while that is found out.
    pub fn claimed(&self) -> Option<&str> {
        self.extra.as_ref()?.connecting.as_ref()?.1.as_deref()
    }

    /// Whether this request is the one that [`Session::connecting`] noted.
    pub fn is_connecting_by(&self, serial: u32) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.is_connecting_by(serial))
    }

    /// It is known who the client is: it is connected.
    pub fn connected_as(&mut self, principal: Option<PrincipalId>) {
        self.principal = principal;
        if let Some(extra) = &mut self.extra {
            extra.connecting = None;
            self.tidy();
        }
    }

    /// The session's principal has other roles or claims from here on. Returns the one that it had.
    pub fn renewed_as(&mut self, principal: Option<PrincipalId>) -> Option<PrincipalId> {
        std::mem::replace(&mut self.principal, principal)
    }

    /// What the upgrade said of the client, for its CONNECT.
    pub fn keep_ticket(&mut self, ticket: Box<Ticket>) {
        self.extra_mut().ticket = Some(ticket);
    }

    /// Bytes of what the upgrade said of the client.
    pub fn ticket_bytes(&self) -> u64 {
        self.extra.as_ref().and_then(|extra| extra.ticket.as_ref()).map_or(0, |ticket| ticket.weight())
    }

    /// The receipt of this request will say until when the session may last, in seconds since 1970.
    pub fn lasts_until(&mut self, serial: u32, expires_s: u64) {
        if let Some(extra) = &mut self.extra {
            extra.awaiting.lasts_until(serial, expires_s);
        }
    }
}
