//! Finds out who clients are, in threads of its own.
//!
//! `auth.mode` is a list, and each of its modes says yes, no, or that the credentials are not its own; then the next is asked.
//! Each kind of check has a queue and threads of its own, because they cost differently: a token some hundred microseconds, a
//! password some ten milliseconds, a question to the application a round trip. So a flood of wrong passwords fills the queue
//! of passwords, and tokens go on. Whoever fails too often is refused without a check (`failures`).
//!
//! It reads no file: checks are given, and can be replaced while it runs ([`Desk::replace`]).
//!
//! Invariant: what nobody waits for any more is not checked, and each question is answered once.

mod application;
mod failures;
mod queue;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use crate::auth::{Accepted, Checks, Credentials, Mode, Refusal, Verdict, tokens};
use crate::limits;
use crate::mesh::request::{Authenticator, Expiry, Identity, Question};
use crate::message::fault::Fault;
use crate::message::origin::Holder;
use crate::session::ticket::Sources;
use failures::Failures;
use queue::Queue;

pub use application::{Application, without_secrets};

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
    /// How long a client waits at most.
    pub patience: Duration,
    /// Bounds.
    pub limits: limits::Auth,
}

/// A question, and the mode that is to answer it.
struct Case {
    question: Question,
    asked: Instant,
    /// Its place in the list of modes.
    mode: usize,
    /// No user has its password, so far as was asked.
    has_failed: bool,
}

impl Case {
    fn holder(&self) -> Holder {
        self.question.origin().holder
    }
}

#[derive(Debug)]
struct Inner {
    modes: Vec<Mode>,
    /// For each mode that has something to check.
    queues: Vec<(Mode, Queue<Case>)>,
    checks: RwLock<Arc<Checks>>,
    application: Option<Application>,
    failures: Mutex<Failures>,
    patience: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    inner: Arc<Inner>,
    sources: Sources,
}

/// Threads for one mode.
fn threads_of(mode: Mode, limits: &limits::Auth) -> u32 {
    match mode {
        Mode::Jwt | Mode::Users => 1,
        Mode::Http => limits.http_requests_max,
        Mode::Open => 0,
    }
}

/// Threads that a desk with these modes has.
pub fn threads(modes: &[Mode], limits: &limits::Auth) -> u64 {
    modes.iter().map(|mode| u64::from(threads_of(*mode, limits))).sum()
}

impl Desk {
    /// A desk whose threads wait for questions.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn open(setup: Setup) -> std::io::Result<Desk> {
        let Setup { modes, checks, application, sources, patience, limits } = setup;
        let queued = modes.iter().copied().filter(|mode| threads_of(*mode, &limits) > 0);
        let queues = queued.map(|mode| (mode, Queue::new(&limits))).collect();
        let failures = Mutex::new(Failures::new(&limits));
        let checks = RwLock::new(Arc::new(checks));
        let inner = Arc::new(Inner { modes, queues, checks, application, failures, patience });
        for (at, (mode, _)) in inner.queues.iter().enumerate() {
            for number in 0..threads_of(*mode, &limits) {
                let inner = Arc::clone(&inner);
                let name = format!("auth-{}-{number}", format!("{mode:?}").to_lowercase());
                thread::Builder::new().name(name).spawn(move || inner.serve(at))?;
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
        self.inner.pass_on(Case { question, asked: Instant::now(), mode: 0, has_failed: false });
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
    fn serve(&self, at: usize) {
        let (mode, queue) = &self.queues[at];
        if *mode == Mode::Users {
            give_way();
        }
        loop {
            self.check(queue.take());
        }
    }

    fn queue(&self, mode: Mode) -> Option<&Queue<Case>> {
        self.queues.iter().find(|(other, _)| *other == mode).map(|(_, queue)| queue)
    }

    /// Whether a mode has something to say of these credentials.
    fn concerns(&self, mode: Mode, credentials: &Credentials) -> bool {
        let has_mode = |mode| self.modes.contains(&mode);
        match mode {
            Mode::Jwt => says_token(credentials),
            // A token is not hashed where there is somebody to check it.
            Mode::Users => credentials.login.is_some() && !(says_token(credentials) && has_mode(Mode::Jwt)),
            // Whoever says nothing may be nobody, where that is allowed.
            Mode::Http => !(says_nothing(credentials) && has_mode(Mode::Open)),
            Mode::Open => says_nothing(credentials),
        }
    }

    /// Puts a question into the queue of the first mode, from its own on, that it concerns; or answers it.
    fn pass_on(&self, mut case: Case) {
        let modes = self.modes.iter().enumerate().skip(case.mode);
        let credentials = case.question.credentials();
        let next = modes.map(|(at, mode)| (at, *mode)).find(|(_, mode)| self.concerns(*mode, credentials));
        let Some((at, mode)) = next else {
            let refusal = Refusal::of_no_mode(credentials);
            return self.refuse(case, refusal);
        };
        case.mode = at;
        if mode == Mode::Users && !self.may_try(&case) {
            return case.question.answer(Err(Fault::AuthBusy));
        }
        let refused = match self.queue(mode) {
            Some(queue) => {
                let bytes = case.question.credentials().weight();
                queue.push(case.holder(), bytes, case)
            }
            // Of `Open`, which has nothing to check.
            None => return case.question.answer(Ok(Identity { principal: None, expiry: None })),
        };
        if let Err(case) = refused {
            case.question.answer(Err(Fault::AuthBusy));
        }
    }

    /// Answers a question by its mode, or passes it on.
    fn check(&self, mut case: Case) {
        let mode = self.modes[case.mode];
        // While it waited its client may have gone, or given up, and others of its holder have failed.
        if !case.question.is_awaited()
            || case.asked.elapsed() > self.patience
            || (mode == Mode::Users && !self.may_try(&case))
        {
            return case.question.answer(Err(Fault::AuthBusy));
        }
        let checks = Arc::clone(&self.checks.read());
        let credentials = case.question.credentials();
        // What is checked comes from strangers, by libraries: a bug there is not to end everybody's session.
        let verdict = panic::catch_unwind(AssertUnwindSafe(|| self.verdict(mode, &checks, credentials)));
        let verdict = verdict.unwrap_or_else(|_| {
            tracing::error!(?mode, "a check panicked: a bug; its client is refused");
            Verdict::Refused(Refusal::Unavailable)
        });
        match verdict {
            Verdict::Accepted(accepted) => {
                if mode == Mode::Users || case.has_failed {
                    self.failures.lock().succeeded(case.holder(), credentials, Instant::now());
                }
                case.question.answer(Ok(identity(accepted)));
            }
            Verdict::Refused(refusal) => {
                case.has_failed |= mode == Mode::Users && refusal == Refusal::WRONG;
                self.refuse(case, refusal);
            }
            Verdict::NotMine => {
                case.has_failed |= mode == Mode::Users;
                case.mode += 1;
                self.pass_on(case);
            }
        }
    }

    fn verdict(&self, mode: Mode, checks: &Checks, credentials: &Credentials) -> Verdict {
        let now_s = now().0;
        match mode {
            Mode::Jwt => checks.tokens.as_ref().map(|tokens| tokens.verify(credentials, now_s)),
            Mode::Users => checks.users.as_ref().map(|users| users.verify(credentials)),
            Mode::Http => self
                .application
                .as_ref()
                .map(|application| application.verify(credentials, &checks.claims, now_s)),
            Mode::Open => None,
        }
        .unwrap_or(Verdict::NotMine)
    }

    /// Whether the failures of its client let a password be checked.
    fn may_try(&self, case: &Case) -> bool {
        self.failures.lock().may_try(case.holder(), case.question.credentials(), Instant::now())
    }

    /// The last word of all modes: a guess that was wrong counts.
    fn refuse(&self, case: Case, refusal: Refusal) {
        // Whom nobody could ask about has not guessed.
        let is_judged = !matches!(refusal, Refusal::Busy | Refusal::Unavailable);
        if case.has_failed && is_judged {
            self.failures.lock().failed(case.holder(), case.question.credentials(), Instant::now());
        }
        case.question.answer(Err(fault_of(refusal)));
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
