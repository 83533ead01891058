//! Logins with passwords, from a file of argon2id hashes.
//!
//! [`Users`] is the file as it is in force; [`set`] and [`remove`] change its text. Nothing here reads or writes a file.
//!
//! Each check of a passcode is one hashing: of a known login with its hash, of an unknown one with a hash of the same cost
//! that nobody's passcode has. So time does not tell which logins there are.
//!
//! Invariant: a login is in the file once.

mod entry;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use argon2::password_hash::phc::Output;
use argon2::password_hash::{self, PasswordVerifier};
use argon2::{Argon2, PasswordHash};

use super::mistake::Mistake;
use super::principal::{Accepted, Credentials, Principal, Refusal, Verdict};
use entry::Entry;

/// Users with their passwords and roles.
#[derive(Debug)]
pub struct Users {
    by_login: HashMap<Box<str>, User>,
    /// Hashes that unknown logins are checked with: as many of each cost as there are users of that cost.
    decoys: Vec<PasswordHash>,
    /// Which decoy an unknown login gets: always the same one, and nobody else knows which.
    choice: RandomState,
}

#[derive(Debug)]
struct User {
    hash: PasswordHash,
    principal: Principal,
}

impl Users {
    /// The users of a file's text.
    ///
    /// # Errors
    /// What is wrong with it, each with its line.
    pub fn parse(text: &str) -> Result<Users, Vec<Mistake>> {
        let mut by_login: HashMap<Box<str>, User> = HashMap::new();
        let mut decoys = Vec::new();
        let mut mistakes = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            match Entry::parse(text) {
                Ok(None) => {}
                Ok(Some(Entry { login, .. })) if by_login.contains_key(&login) => {
                    mistakes.push(Mistake::on(line, format!("{login:?} is there twice")));
                }
                Ok(Some(Entry { login, hash, roles })) => {
                    decoys.push(decoy(&hash));
                    let principal = Principal::new(login.clone(), roles, []);
                    by_login.insert(login, User { hash, principal });
                }
                Err(text) => mistakes.push(Mistake::on(line, text)),
            }
        }
        Mistake::none_of(mistakes, Users { by_login, decoys, choice: RandomState::new() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_login.len()
    }

    /// Checks login and passcode. It takes as long as one hashing: some ten milliseconds with what [`set`] writes.
    ///
    /// An unknown login is not this mode's, and costs as much as a wrong passcode. If no other mode knows it,
    /// [`Refusal::of_no_mode`] gives the words of a wrong passcode.
    pub fn verify(&self, credentials: &Credentials) -> Verdict {
        self.verify_by(credentials, |hash, passcode| {
            Argon2::default().verify_password(passcode.as_bytes(), hash)
        })
    }

    /// [`Users::verify`] with the hashing as an argument.
    fn verify_by(
        &self,
        credentials: &Credentials,
        check: impl FnOnce(&PasswordHash, &str) -> Result<(), password_hash::Error>,
    ) -> Verdict {
        let Some(login) = &credentials.login else { return Verdict::NotMine };
        let user = self.by_login.get(login);
        let Some(passcode) = &credentials.passcode else {
            // A known login is refused here, so that a mode behind this one cannot accept it unasked.
            return if user.is_some() { Verdict::Refused(Refusal::MISSING) } else { Verdict::NotMine };
        };
        let hash = user.map(|user| &user.hash).or_else(|| self.decoy(login));
        let result = hash.map_or(Err(password_hash::Error::PasswordInvalid), |hash| check(hash, passcode));
        match (user, result) {
            (Some(user), Ok(())) => {
                Verdict::Accepted(Accepted { principal: user.principal.clone(), expires_s: None })
            }
            // Of a decoy, whatever the result is.
            (None, _) => Verdict::NotMine,
            (Some(_), Err(password_hash::Error::PasswordInvalid)) => Verdict::Refused(Refusal::WRONG),
            // There is no memory for a hashing, which says nothing of the passcode.
            (Some(_), Err(_)) => Verdict::Refused(Refusal::Busy),
        }
    }

    /// The hash that an unknown login is checked with; `None` if there are no users to tell apart.
    fn decoy(&self, login: &str) -> Option<&PasswordHash> {
        let at = self.choice.hash_one(login).checked_rem(self.decoys.len() as u64)?;
        self.decoys.get(at as usize)
    }
}

/// A hash that costs what the other costs, and that no passcode is known for.
fn decoy(hash: &PasswordHash) -> PasswordHash {
    let length = hash.hash.as_ref().map_or(Output::MIN_LENGTH, |output| output.as_ref().len());
    let nothing = [0; Output::MAX_LENGTH];
    PasswordHash { hash: Output::new(&nothing[..length]).ok(), ..hash.clone() }
}

/// The text of a file of users in which a login has a new password; other lines and comments are kept.
///
/// Without `roles`, those that it had are kept.
///
/// # Errors
/// The login, a role or the password is not permitted, or a line of the text is no user.
pub fn set(
    text: &str,
    login: &str,
    password: &str,
    roles: Option<&[String]>,
) -> Result<String, Vec<Mistake>> {
    Users::parse(text)?;
    let whole = |text: String| vec![Mistake::on(0, text)];
    let mut entry = Entry::new(login, password, roles.unwrap_or_default()).map_err(whole)?;
    let mut is_set = false;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        match Entry::parse(line) {
            Ok(Some(old)) if *old.login == *login => {
                if roles.is_none() {
                    entry = entry.with_roles(old.roles);
                }
                lines.push(entry.to_string());
                is_set = true;
            }
            _ => lines.push(line.to_owned()),
        }
    }
    if !is_set {
        lines.push(entry.to_string());
    }
    Ok(ended(lines))
}

/// The text of a file of users without a login; `None` if it is not there. Other lines and comments are kept.
///
/// # Errors
/// A line of the text is no user.
pub fn remove(text: &str, login: &str) -> Result<Option<String>, Vec<Mistake>> {
    if !Users::parse(text)?.by_login.contains_key(login) {
        return Ok(None);
    }
    let is_of = |line: &str| matches!(Entry::parse(line), Ok(Some(entry)) if *entry.login == *login);
    Ok(Some(ended(text.lines().filter(|line| !is_of(line)).map(str::to_owned).collect())))
}

/// Whether a login can stand in a file of users.
///
/// # Errors
/// Why not.
pub fn check_login(login: &str) -> Result<(), String> {
    entry::check_login(login)
}

/// Lines with an end each.
fn ended(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests;
