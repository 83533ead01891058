//! Who a session is: credentials against a file of passwords, or against the keys of whoever issues tokens.
//!
//! * [`principal`] has the vocabulary: what a client says of itself, who it is, and what a check answers;
//! * [`users`] checks passwords against a file of hashes;
//! * [`keys`] are what tokens are verified with, and [`tokens`] verifies them;
//! * [`signing`] makes tokens for a try-out;
//! * [`mistake`] is what may be wrong with a file.
//!
//! A check is a function of values: the credentials, a file that was parsed before, the time as an argument. Nothing here
//! reads a file or a clock, and nothing waits. A check costs up to tens of milliseconds of CPU, so it belongs on a thread
//! of its own.
//!
//! Invariant: [`Verdict::Accepted`] is given only for a password that was hashed and compared, or a signature that was
//! verified.

pub mod keys;
pub mod mistake;
pub mod principal;
pub mod signing;
pub mod tokens;
pub mod users;

pub use keys::Keys;
pub use mistake::Mistake;
pub use principal::{Accepted, Credentials, Principal, Refusal, Secret, Verdict};
pub use tokens::{Terms, Tokens};
pub use users::Users;

/// One way to find out who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By a signed token.
    Jwt,
    /// By a file of users.
    Users,
    /// By asking the application.
    Http,
    /// Alone: everybody is who he says. Behind others: whoever says nothing is let in, and is nobody.
    Open,
}

/// What is checked with: the files of a configuration, as they are in force.
#[derive(Debug, Default)]
pub struct Checks {
    /// Logins with passwords.
    pub users: Option<Users>,
    /// Tokens.
    pub tokens: Option<Tokens>,
    /// Names of the claims that principals keep.
    pub claims: Box<[Box<str>]>,
}
