//! `tcbchat token`: a signed token, to try a server out.
//!
//! Invariant: nothing but the token is on standard output.

use std::fs;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tcbchat::auth::signing::SigningKey;

use crate::cli::{EXIT_NOT, Token};
use crate::output::{fail, print};

/// Signs, prints the token, and gives the exit code.
pub fn make(options: &Token) -> ExitCode {
    match signed(options) {
        Ok(token) => print(&format!("{token}\n")),
        Err(error) => fail(&format!("{}: {error}", options.key.display()), EXIT_NOT),
    }
}

fn signed(options: &Token) -> Result<String, String> {
    let bytes = fs::read(&options.key).map_err(|error| error.to_string())?;
    let key = SigningKey::parse(&bytes, options.kid.as_deref()).map_err(|why| why.to_string())?;
    // A clock before 1970 is as wrong as any.
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    key.sign(&claims(options, now_s))
}

fn claims(options: &Token, now_s: u64) -> Value {
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Value| claims.insert(name.into(), value);
    claim("sub", options.login.as_str().into());
    if !options.role.is_empty() {
        claim("roles", options.role.clone().into());
    }
    for (name, value) in [("aud", &options.audience), ("iss", &options.issuer)] {
        if let Some(value) = value {
            claim(name, value.as_str().into());
        }
    }
    claim("iat", now_s.into());
    claim("exp", now_s.saturating_add_signed(options.expires_in).into());
    Value::Object(claims)
}
