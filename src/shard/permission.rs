//! What the rules let sessions do.
//!
//! A frame is judged as a whole before it takes any effect, so a transaction is all or nothing. What a session has subscribed
//! to it keeps, whatever rules or roles come later.
//!
//! Invariant: who has not proved a login has none for the rules.

use crate::message::destination::{Destination, Kind};
use crate::message::fault::Fault;
use crate::policy::{Action, NOBODY, Who};
use crate::session::principals::PrincipalId;
use crate::session::{Command, Question};
use crate::shard::Shard;

impl Shard {
    /// What the rules do not let a session do of what a frame asks for.
    pub(super) fn forbidden<'c>(&mut self, index: u32, commands: &'c [Command]) -> Option<Fault> {
        let for_services = |command: &'c Command| match command {
            Command::Subscribe { key, .. } if Destination::is_for_services(key) => {
                Some((Action::Subscribe, &**key))
            }
            Command::Publish(message) if message.kind() == Kind::Reply => Some((Action::Send, message.key())),
            _ => None,
        };
        if let Some((action, key)) = commands.iter().find_map(for_services)
            && !self.is_service(index)
        {
            return Some(Fault::Forbidden { action: action.word(), destination: key.into() });
        }
        if self.authorizer.rules().is_empty() {
            return None;
        }
        commands.iter().find_map(|command| match command {
            // Whoever has the question may answer it.
            Command::Publish(message) if message.kind() == Kind::Reply => None,
            Command::Publish(message) => self.may(index, Action::Send, message.key()).err(),
            Command::Subscribe { key, past, .. } => {
                let may = self.may(index, Action::Subscribe, key);
                may.and_then(|()| past.map_or(Ok(()), |_| self.may(index, Action::History, key))).err()
            }
            Command::Ask(Question { key, .. }) => self.may(index, Action::Subscribe, key).err(),
            _ => None,
        })
    }

    /// Whether a session is one of the application's own programs.
    pub(super) fn is_service(&self, index: u32) -> bool {
        self.sessions[index].is_service(self.is_guarded(), self.sessions.principals())
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
        let action = if action == Action::History { "read the past of" } else { action.word() };
        Err(Fault::Forbidden { action, destination: key.into() })
    }
}
