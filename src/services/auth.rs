//! Finds out who clients are, in threads of its own.
//!
//! `auth.mode` is a list, and each of its modes says yes, no, or that the credentials are not its own; then the next is asked.
//! Each kind of check has a queue and threads of its own, because they cost differently: a token some hundred microseconds, a
//! password some ten milliseconds, a question to the application a round trip. So a flood of wrong passwords fills the queue
//! of passwords, and tokens go on. Whoever fails too often is refused without a check ([`failures`]).
//!
//! It reads no file: checks are given, and can be replaced while it runs ([`Desk::replace`]).
//!
//! Invariant: a queue has at most `auth.queue_max` questions, and what it has no room for is refused at once.

mod application;
mod failures;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use crate::auth::{Accepted, Checks, Credentials, Refusal, Verdict, tokens};
use crate::limits;
use crate::mesh::request::{Authenticator, Expiry, Identity, Question};
use crate::message::fault::Fault;
use crate::session::ticket::Sources;
use failures::Failures;

pub use application::Application;

/// One way to find out who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By a signed token.
    Jwt,
    /// By a file of users.
    Users,
    /// By asking the application.
    Http,
    /// Whoever says nothing is let in, and is nobody.
    Open,
}

/// What a desk is made of.
#[derive(Debug)]
pub struct Setup {
    /// The modes, in the order in which they are asked.
    pub modes: Vec<Mode>,
    /// What they check against.
    pub checks: Checks,
    /// Whom [`Mode::Http`] asks.
    pub application: Option<Application>,
    /// Where credentials are looked for.
    pub sources: Sources,
    /// Bounds.
    pub limits: limits::Auth,
}

/// A question, and the mode that is to answer it.
struct Case {
    question: Question,
    /// Its place in the list of modes.
    mode: usize,
}

/// A queue for each kind of check; `None` for a kind that no mode needs.
#[derive(Debug, Default)]
struct Queues {
    tokens: Option<SyncSender<Case>>,
    passwords: Option<SyncSender<Case>>,
    application: Option<SyncSender<Case>>,
}

#[derive(Debug)]
struct Inner {
    modes: Vec<Mode>,
    queues: Queues,
    checks: RwLock<Arc<Checks>>,
    application: Option<Application>,
    failures: Mutex<Failures>,
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    inner: Arc<Inner>,
    sources: Sources,
}

impl Mode {
    /// Its threads.
    fn threads(self, limits: &limits::Auth) -> u32 {
        match self {
            Mode::Jwt | Mode::Users => 1,
            Mode::Http => limits.http_requests_max,
            Mode::Open => 0,
        }
    }
}

/// Threads that a desk with these modes has.
pub fn threads(modes: &[Mode], limits: &limits::Auth) -> u64 {
    modes.iter().map(|mode| u64::from(mode.threads(limits))).sum()
}

impl Desk {
    /// A desk whose threads wait for questions.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn open(setup: Setup) -> std::io::Result<Desk> {
        let Setup { modes, checks, application, sources, limits } = setup;
        let mut queues = Queues::default();
        let mut desks = Vec::new();
        for mode in &modes {
            let (sender, receiver) = sync_channel(limits.queue_max as usize);
            match mode {
                Mode::Jwt => queues.tokens = Some(sender),
                Mode::Users => queues.passwords = Some(sender),
                Mode::Http => queues.application = Some(sender),
                Mode::Open => continue,
            }
            desks.push((*mode, Arc::new(Mutex::new(receiver))));
        }
        let failures = Mutex::new(Failures::new(&limits));
        let inner =
            Arc::new(Inner { modes, queues, checks: RwLock::new(Arc::new(checks)), application, failures });
        for (mode, receiver) in desks {
            for number in 0..mode.threads(&limits) {
                let (inner, receiver) = (Arc::clone(&inner), Arc::clone(&receiver));
                let name = format!("auth-{}-{number}", format!("{mode:?}").to_lowercase());
                thread::Builder::new().name(name).spawn(move || inner.serve(mode, &receiver))?;
            }
        }
        Ok(Desk { inner, sources })
    }

    /// Other users and keys from here on.
    pub fn replace(&self, checks: Checks) {
        *self.inner.checks.write() = Arc::new(checks);
    }
}

impl Authenticator for Desk {
    fn sources(&self) -> &Sources {
        &self.sources
    }

    fn ask(&self, question: Question) {
        self.inner.pass_on(Case { question, mode: 0 });
    }
}

/// Hashing yields to the reactors and to who checks tokens. Where the kernel does not let it, it does not.
fn give_way() {
    let this = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(this), 10) {
        tracing::debug!(%error, "passwords are hashed at the priority of all threads");
    }
}

impl Inner {
    /// Answers what comes to one queue, for as long as the process lives.
    fn serve(&self, mode: Mode, questions: &Mutex<Receiver<Case>>) {
        if mode == Mode::Users {
            give_way();
        }
        loop {
            // Whoever has the lock waits for the next question; it is free again while that is answered.
            let next = questions.lock().recv();
            match next {
                Ok(case) => self.check(case),
                Err(_) => return,
            }
        }
    }

    /// Puts a question into the queue of the first mode, from its own on, that it concerns; or answers it.
    fn pass_on(&self, mut case: Case) {
        loop {
            let credentials = case.question.credentials();
            let Some(mode) = self.modes.get(case.mode) else {
                let refusal = Refusal::of_no_mode(credentials);
                return case.question.answer(Err(fault_of(refusal)));
            };
            let queue = match mode {
                Mode::Jwt if says_token(credentials) => &self.queues.tokens,
                Mode::Users if credentials.login.is_some() => {
                    if !self.failures.lock().may_try(credentials, Instant::now()) {
                        return case.question.answer(Err(Fault::AuthBusy));
                    }
                    &self.queues.passwords
                }
                Mode::Http => &self.queues.application,
                Mode::Open if says_nothing(credentials) => {
                    return case.question.answer(Ok(Identity { principal: None, expiry: None }));
                }
                _ => {
                    case.mode += 1;
                    continue;
                }
            };
            // A queue is there for each mode, and its thread for as long as the process: else the question is dropped, which
            // refuses it.
            let Some(queue) = queue else { return };
            return match queue.try_send(case) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(case)) => case.question.answer(Err(Fault::AuthBusy)),
            };
        }
    }

    /// Answers a question by its mode, or passes it on.
    fn check(&self, mut case: Case) {
        let checks = Arc::clone(&self.checks.read());
        let mode = self.modes[case.mode];
        let credentials = case.question.credentials();
        // What is checked comes from strangers, by libraries: a bug there is not to end everybody's session.
        let verdict = panic::catch_unwind(AssertUnwindSafe(|| self.verdict(mode, &checks, credentials)));
        let verdict = verdict.unwrap_or_else(|_| {
            tracing::error!(?mode, "a check panicked: a bug; its client is refused");
            Verdict::Refused(Refusal::Unavailable)
        });
        if mode == Mode::Users {
            self.failures.lock().note(credentials, &verdict, Instant::now());
        }
        match verdict {
            Verdict::Accepted(accepted) => case.question.answer(Ok(identity(accepted))),
            Verdict::Refused(refusal) => case.question.answer(Err(fault_of(refusal))),
            Verdict::NotMine => {
                case.mode += 1;
                self.pass_on(case);
            }
        }
    }

    fn verdict(&self, mode: Mode, checks: &Checks, credentials: &Credentials) -> Verdict {
        match mode {
            Mode::Jwt => checks.tokens.as_ref().map(|tokens| tokens.verify(credentials, now().0)),
            Mode::Users => checks.users.as_ref().map(|users| users.verify(credentials)),
            Mode::Http => {
                self.application.as_ref().map(|application| application.verify(credentials, now().0))
            }
            Mode::Open => None,
        }
        .unwrap_or(Verdict::NotMine)
    }
}

/// Whether a client says a token.
fn says_token(credentials: &Credentials) -> bool {
    credentials.token.is_some() || credentials.passcode.as_deref().is_some_and(tokens::has_shape)
}

/// Whether a client says nothing of itself.
fn says_nothing(credentials: &Credentials) -> bool {
    credentials.login.is_none() && credentials.passcode.is_none() && credentials.token.is_none()
}

/// Seconds since 1970, and milliseconds of the one under way.
fn now() -> (u64, u64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_millis().into())
}

fn identity(accepted: Accepted) -> Identity {
    let Accepted { principal, expires_s } = accepted;
    let (now_s, now_ms) = now();
    let expiry = expires_s.map(|at_s| {
        let in_ms = at_s.saturating_sub(now_s).saturating_mul(1000).saturating_sub(now_ms);
        Expiry { at_s, in_ms }
    });
    Identity { principal: Some(principal), expiry }
}

fn fault_of(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::NotAuthenticated(why) => Fault::NotAuthenticated(why.into()),
        Refusal::Said(why) => Fault::NotAuthenticated(why),
        Refusal::Expired => Fault::Expired,
        Refusal::Busy => Fault::AuthBusy,
        Refusal::Unavailable => Fault::AuthUnavailable,
    }
}
