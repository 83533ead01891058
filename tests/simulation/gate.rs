//! Who knows who clients are, in a world where that must be proved: late, in another order, wrongly, or never.
//!
//! A client proves that it is `c7` by saying so: as its login, or as its token. It is refused if its passcode is `wrong`.
//!
//! Invariant: a question is answered once at most; one of a session that is connected is answered before the world ends.

use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tcbchat::auth::{Credentials, Principal};
use tcbchat::mesh::request::{Authenticator, Expiry, Identity, Question};
use tcbchat::message::destination::SERVICE;
use tcbchat::message::fault::Fault;
use tcbchat::session::ticket::Sources;

use crate::client::is_program;
use crate::coverage::Coverage;

/// The passcode that is wrong.
pub const WRONG: &str = "wrong";
/// The token of somebody else.
pub const ANOTHER: &str = "another";

struct State {
    rng: StdRng,
    asked: Vec<Question>,
    /// From here on everybody is who he says he is, for good.
    is_calm: bool,
}

/// See the module.
pub struct Gate {
    sources: Sources,
    state: Mutex<State>,
}

impl Gate {
    pub fn new(seed: u64) -> Gate {
        let rng = StdRng::seed_from_u64(seed ^ 0x6a7e);
        let sources =
            Sources { connect_headers: seed.is_multiple_of(2), token_bytes_max: 100, ..Sources::default() };
        Gate { sources, state: Mutex::new(State { rng, asked: Vec::new(), is_calm: false }) }
    }

    /// Nobody is refused any more, or expires.
    pub fn calm_down(&self) {
        self.state.lock().expect("no test panics in it").is_calm = true;
    }

    /// Answers some of what was asked, or all of it, in no order. Returns whether there was any.
    pub fn answer(&self, is_all: bool, coverage: &mut Coverage) -> bool {
        let mut state = self.state.lock().expect("no test panics in it");
        let mut has_any = false;
        while !state.asked.is_empty() && (is_all || state.rng.random_bool(0.3)) {
            let State { rng, asked, is_calm } = &mut *state;
            let question = asked.swap_remove(rng.random_range(0..asked.len()));
            match answer_one(question.credentials(), rng, *is_calm, coverage) {
                Some(answer) => {
                    has_any = true;
                    question.answer(answer);
                }
                None => std::mem::forget(question),
            }
        }
        has_any
    }

    /// Panics if a question is left.
    pub fn check_empty(&self) {
        assert!(self.state.lock().expect("no test panics in it").asked.is_empty());
    }
}

fn answer_one(
    credentials: &Credentials,
    rng: &mut StdRng,
    is_calm: bool,
    coverage: &mut Coverage,
) -> Option<Result<Identity, Fault>> {
    if credentials.passcode.as_deref() == Some(WRONG) {
        coverage.note("gate", "refuses");
        return Some(Err(Fault::NotAuthenticated("a passcode".into())));
    }
    // Of a renewal it has to say something: the session waits as long as its client does.
    if !is_calm && !is_renewal(credentials) && rng.random_bool(0.02) {
        coverage.note("gate", "never answers");
        return None;
    }
    let login = credentials.login.as_ref().or(credentials.token.as_ref());
    let Some(login) = login else {
        coverage.note("gate", "lets somebody in who is nobody");
        return Some(Ok(Identity { principal: None, expiry: None }));
    };
    let mut roles: Vec<Box<str>> = if rng.random_bool(0.5) { vec!["staff".into()] } else { Vec::new() };
    if is_program(login) {
        roles.push(SERVICE.into());
    }
    let principal = Some(Principal::new(&**login, roles, []));
    let expiry = (!is_calm && rng.random_bool(0.2)).then(|| {
        coverage.note("gate", "says when it ends");
        let in_ms = rng.random_range(0..20_000);
        Expiry { at_s: in_ms / 1000, in_ms }
    });
    coverage.note("gate", "says who it is");
    Some(Ok(Identity { principal, expiry }))
}

fn is_renewal(credentials: &Credentials) -> bool {
    credentials.login.is_none() && credentials.headers.is_empty()
}

impl Authenticator for Gate {
    fn sources(&self) -> &Sources {
        &self.sources
    }

    fn ask(&self, question: Question) {
        let mut state = self.state.lock().expect("no test panics in it");
        // A new token that cannot be judged is one that a session may survive.
        let percent = if is_renewal(question.credentials()) { 30 } else { 100 };
        match state.rng.random_range(0..percent) {
            0..2 if !state.is_calm => question.answer(Err(Fault::AuthBusy)),
            // It is dropped.
            2..4 if !state.is_calm => {}
            _ => state.asked.push(question),
        }
    }
}

/// An answer that is no upgrade, to a client that may open a WebSocket or may not.
pub fn check_refusal(answer: &[u8], may_open: bool) {
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
    let is_forbidden = answer.starts_with(b"HTTP/1.1 403 ");
    let is_banned = crate::inquirer::is_ban(answer, body);
    let has_no_place = [&b"HTTP/1.1 503 "[..], b"HTTP/1.1 408 ", b"HTTP/1.1 429 "];
    assert!(
        has_no_place.iter().any(|start| answer.starts_with(start))
            || (is_forbidden && (is_banned || !may_open)),
        "{}",
        String::from_utf8_lossy(answer)
    );
}
