//! Who vouches for the clients of a measurement: keys and tokens, a file of users, and the server's settings for them.
//!
//! Tokens are signed as `tcbchat token` signs them. The key of EdDSA is that of RFC 8037, appendix A, and the secret is in this
//! file, so nothing that is made here is good anywhere else.
//!
//! Invariant: the files live as long as the value.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tcbchat::auth::signing::SigningKey;
use tcbchat::auth::users;
use tempfile::TempDir;

/// RFC 8037, appendix A.1: the private key.
const ED25519_SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
/// Appendix A.2: the public key.
const ED25519_PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
/// 32 bytes.
const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";
/// How long a token is good: longer than any measurement.
const EXPIRES_IN_S: u64 = 24 * 3600;
/// The one user with a password.
pub const LOGIN: &str = "bench";
const PASSWORD: &str = "correct horse battery staple";

/// What a client proves who it is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// A token that is signed with Ed25519.
    EdDsa,
    /// A token that is authenticated with a shared secret.
    Hs256,
    /// A password, of which the server has an argon2id hash.
    Argon2id,
}

impl Proof {
    /// All.
    pub const ALL: [Proof; 3] = [Proof::EdDsa, Proof::Hs256, Proof::Argon2id];

    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Proof::EdDsa => "EdDSA",
            Proof::Hs256 => "HS256",
            Proof::Argon2id => "argon2id",
        }
    }

    /// What the names of the threads that check it begin with.
    pub fn threads(self) -> &'static str {
        match self {
            Proof::EdDsa | Proof::Hs256 => "auth-jwt-",
            Proof::Argon2id => "auth-users-",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Issuer {
    directory: TempDir,
    eddsa: SigningKey,
    hs256: SigningKey,
}

impl Issuer {
    /// Makes the files.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn new() -> Result<Issuer, String> {
        let public =
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "x": ED25519_PUBLIC });
        let private =
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "d": ED25519_SEED });
        let secret = json!({ "kty": "oct", "kid": "hs", "alg": "HS256", "k": SECRET });
        let users = users::set("", LOGIN, PASSWORD, None)
            .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let write = || -> io::Result<TempDir> {
            // The directory is its owner's only.
            let directory = tempfile::tempdir()?;
            fs::write(directory.path().join("keys.json"), json!({ "keys": [public, secret] }).to_string())?;
            fs::write(directory.path().join("users"), users)?;
            Ok(directory)
        };
        let key = |jwk: &serde_json::Value| SigningKey::parse(jwk.to_string().as_bytes(), None);
        Ok(Issuer {
            directory: write().map_err(|error| format!("files of users and keys: {error}"))?,
            eddsa: key(&private).map_err(|mistake| mistake.to_string())?,
            hs256: key(&secret).map_err(|mistake| mistake.to_string())?,
        })
    }

    /// Settings of a server that asks for tokens and passwords, as `key=value`.
    pub fn settings(&self) -> Vec<String> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        vec![
            "auth.mode=jwt,users".to_owned(),
            format!("auth.keys_file={}", file("keys.json")),
            format!("auth.users_file={}", file("users")),
        ]
    }

    /// A token of a login, signed with one of the two keys.
    ///
    /// # Errors
    /// Of a key that does not sign.
    pub fn token(&self, proof: Proof, login: &str) -> Result<String, String> {
        let key = if proof == Proof::Hs256 { &self.hs256 } else { &self.eddsa };
        // A clock before 1970 is as wrong as any.
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        key.sign(&json!({ "sub": login, "iat": now_s, "exp": now_s + EXPIRES_IN_S }))
    }

    /// The lines of CONNECT of client `n`, each client with a login of its own where it has a token.
    ///
    /// # Errors
    /// See [`Issuer::token`].
    pub fn lines(&self, proof: Proof, n: u32) -> Result<String, String> {
        match proof {
            Proof::Argon2id => Ok(format!("login:{LOGIN}\npasscode:{PASSWORD}\n")),
            proof => Ok(format!("passcode:{}\n", self.token(proof, &format!("user-{n}"))?)),
        }
    }
}

/// Lines of CONNECT with a password that is wrong, of a login that nobody has: attempt `n` of a guesser who knows that each
/// login has its number of failures.
pub fn guess(n: u64) -> String {
    format!("login:guess-{n}\npasscode:password-{n}\n")
}

#[cfg(test)]
mod tests {
    use tcbchat::auth::{Credentials, Users, Verdict};

    use super::*;

    #[test]
    fn the_password_is_right_and_guesses_are_wrong() {
        let issuer = Issuer::new().unwrap();
        let text = fs::read_to_string(issuer.directory.path().join("users")).unwrap();
        let users = Users::parse(&text).unwrap();
        let verdict = |lines: &str| {
            let of = |name: &str| {
                lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(Into::into)
            };
            users.verify(&Credentials {
                login: of("login"),
                passcode: of("passcode"),
                token: None,
                headers: Box::default(),
                address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            })
        };
        assert!(matches!(verdict(&issuer.lines(Proof::Argon2id, 0).unwrap()), Verdict::Accepted(_)));
        assert!(matches!(verdict(&guess(7)), Verdict::NotMine));
    }
}
