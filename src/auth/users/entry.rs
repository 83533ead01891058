//! A line of the file of users: `login:hash` or `login:hash:role,role`, with an argon2id hash in the PHC string format.
//!
//! Lines that are empty, or begin with `#`, say nothing. It hashes nothing but new passwords.
//!
//! Invariant: an entry's text, read again, is the same entry; and its hash costs no more than the bounds here.

use std::fmt;

use argon2::password_hash::PasswordHasher;
use argon2::{ARGON2ID_IDENT, Argon2, Params, PasswordHash, Version};

use crate::auth::principal::{LOGIN_BYTES_MAX, is_login};

/// Bytes of a role's name.
const ROLE_BYTES_MAX: usize = 64;
/// Roles of one user.
const ROLES_MAX: usize = 64;
/// What a hash may cost, so that one line cannot stop the checks of everybody: memory in KiB, passes over it, lanes. Six
/// times what is recommended, and more than other programs choose by default.
const MEMORY_KIB_MAX: u32 = 128 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// One user, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) login: Box<str>,
    pub(super) hash: PasswordHash,
    pub(super) roles: Vec<Box<str>>,
}

impl Entry {
    /// The entry of a line; `None` if the line says nothing.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold no part of the hash.
    pub(super) fn parse(line: &str) -> Result<Option<Entry>, String> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let mut fields = line.split(':');
        let (Some(login), Some(hash)) = (fields.next(), fields.next()) else {
            return Err("LOGIN:HASH or LOGIN:HASH:ROLE,ROLE is needed; `tcbchat passwd` writes it".into());
        };
        check_login(login)?;
        let hash = parse_hash(hash).map_err(|text| format!("the hash of {login:?}: {text}"))?;
        let roles = fields.next().map_or(Ok(Vec::new()), parse_roles);
        let roles = roles.map_err(|text| format!("the roles of {login:?}: {text}"))?;
        if fields.next().is_some() {
            return Err(format!("{login:?}: nothing may follow the roles"));
        }
        Ok(Some(Entry { login: login.into(), hash, roles }))
    }

    /// An entry with a new hash of a password, of a random salt.
    ///
    /// # Errors
    /// Of the login, a role, the password or the system's randomness.
    pub(super) fn new(login: &str, password: &str, roles: &[impl AsRef<str>]) -> Result<Entry, String> {
        check_login(login)?;
        let roles = roles.iter().map(|role| role.as_ref()).collect::<Vec<_>>();
        let roles = if roles.is_empty() { Vec::new() } else { parse_roles(&roles.join(","))? };
        if password.is_empty() {
            return Err("an empty password is refused".into());
        }
        let hash = Argon2::default().hash_password(password.as_bytes());
        let hash = hash.map_err(|error| format!("cannot hash the password: {error}"))?;
        Ok(Entry { login: login.into(), hash, roles })
    }

    /// The same, with these roles in place of its own.
    pub(super) fn with_roles(self, roles: Vec<Box<str>>) -> Entry {
        Entry { roles, ..self }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.login, self.hash)?;
        if !self.roles.is_empty() {
            write!(f, ":{}", self.roles.join(","))?;
        }
        Ok(())
    }
}

/// Whether a login can stand in the file.
///
/// # Errors
/// Why not.
pub(super) fn check_login(login: &str) -> Result<(), String> {
    let wrong = if login.is_empty() {
        "it is empty"
    } else if login.len() > LOGIN_BYTES_MAX {
        return Err(format!("the login has {} bytes; {LOGIN_BYTES_MAX} are permitted", login.len()));
    } else if login.contains(':') {
        "a colon would end it in the file"
    } else if login.contains(char::is_control) {
        "control characters are not permitted"
    } else if login.starts_with('#') {
        "a # would make it a comment of the file"
    } else if login.trim() != login {
        "white space around it would be lost in the file"
    } else if !is_login(login) {
        "it has characters that are not seen"
    } else {
        return Ok(());
    };
    Err(format!("the login {login:?}: {wrong}"))
}

fn parse_roles(text: &str) -> Result<Vec<Box<str>>, String> {
    let mut roles: Vec<Box<str>> = Vec::new();
    for role in text.split(',') {
        if role.is_empty() || role.len() > ROLE_BYTES_MAX {
            return Err(format!("a role has 1 to {ROLE_BYTES_MAX} bytes"));
        }
        if role.contains(|char: char| char.is_control() || char.is_whitespace() || char == ':') {
            return Err(format!("{role:?}: a role has no white space, colons, commas or control characters"));
        }
        roles.push(role.into());
    }
    if roles.len() > ROLES_MAX {
        return Err(format!("{} are there; {ROLES_MAX} are permitted", roles.len()));
    }
    Ok(roles)
}

fn parse_hash(text: &str) -> Result<PasswordHash, String> {
    const NEEDED: &str = "an argon2id hash in the PHC string format is needed ($argon2id$v=19$m=...)";
    let hash = PasswordHash::new(text).map_err(|_| NEEDED)?;
    if hash.algorithm != ARGON2ID_IDENT || hash.salt.is_none() || hash.hash.is_none() {
        return Err(NEEDED.into());
    }
    if hash.version != Some(Version::V0x13.into()) {
        return Err("argon2 version 19 is needed (v=19)".into());
    }
    let params = Params::try_from(&hash).map_err(|error| format!("its parameters: {error}"))?;
    for (name, value, most) in [
        ("m (memory in KiB)", params.m_cost(), MEMORY_KIB_MAX),
        ("t (passes)", params.t_cost(), PASSES_MAX),
        ("p (lanes)", params.p_cost(), LANES_MAX),
    ] {
        if value > most {
            return Err(format!("{name} = {value}: at most {most}, or each check would take too long"));
        }
    }
    Ok(hash)
}
