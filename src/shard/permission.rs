//! What the rules let sessions do.
//!
//! A frame is judged as a whole before it takes any effect, so a transaction is all or nothing. What a session has subscribed
//! to it keeps, whatever rules or roles come later.
//!
//! Invariant: who has not proved a login has none for the rules.

use crate::message::destination::{Destination, SERVICE};
use crate::message::fault::Fault;
use crate::policy::{Action, NOBODY, Who};
use crate::session::Command;
use crate::session::principals::PrincipalId;
use crate::shard::Shard;

impl Shard {
    /// What the rules do not let a session do of what a frame asks for.
    pub(super) fn forbidden(&mut self, index: u32, commands: &[Command]) -> Option<Fault> {
        let is_for_services = |command: &&Command| matches!(command, Command::Subscribe { key, .. } if Destination::is_for_services(key));
        if let Some(Command::Subscribe { key, .. }) = commands.iter().find(is_for_services)
            && !self.is_service(index)
        {
            let destination = key.clone();
            return Some(Fault::Forbidden { action: Action::Subscribe.word(), destination });
        }
        if self.authorizer.rules().is_empty() {
            return None;
        }
        commands.iter().find_map(|command| match command {
            Command::Publish(message) => self.may(index, Action::Send, message.key()).err(),
            Command::Subscribe { key, past, .. } => {
                let may = self.may(index, Action::Subscribe, key);
                may.and_then(|()| past.map_or(Ok(()), |_| self.may(index, Action::History, key))).err()
            }
            _ => None,
        })
    }

    /// Whether a session is one of the application's own programs. Where nobody proves who they are, all may be.
    fn is_service(&self, index: u32) -> bool {
        let principal = self.sessions[index].principal();
        self.env.authenticator.is_none()
            || principal.is_some_and(|principal| {
                let roles = self.sessions.principals().roles(principal);
                roles.iter().any(|role| **role == *SERVICE)
            })
    }

    /// Whether the rules let a session do this with a destination.
    fn may(&mut self, index: u32, action: Action, key: &str) -> Result<(), Fault> {
        let Shard { env, sessions, authorizer, .. } = self;
        let principal = env.authenticator.as_ref().and_then(|_| sessions[index].principal());
        let who = || {
            let principals = sessions.principals();
            principal.map_or_else(Who::default, |principal| Who {
                login: Some(principals.login(principal)),
                roles: principals.roles(principal),
                claims: principals.claims(principal),
            })
        };
        let number = principal.map_or(NOBODY, PrincipalId::number);
        if authorizer.may(number, who, action, key) {
            return Ok(());
        }
        Err(Fault::Forbidden { action: action.word(), destination: key.into() })
    }
}
