//! The HTTP API: an application's own programs publish by it, and operators look and act.
//!
//! It is one thread with listeners of its own, beside the reactors. It knows no connection and no session: all that it is asked
//! becomes inquiries to shards ([`crate::mesh::inquiry`]), answered from their threads. HTTP itself is hyper's, on a runtime of
//! tokio that belongs to this thread.
//!
//! | file | its job |
//! |---|---|
//! | `listener` | connections, the token, bounds of time and number |
//! | `routes` | which method and path is which operation |
//! | `operations`, `looking`, `acting` | what operations do |
//! | `lists` | pages and cursors |
//! | `bans` | who is banned, and the file of that |
//! | `publish`, `idempotency` | messages, each once |
//! | `shards` | the way to the shards |
//! | `problem` | refusals, as `application/problem+json` (RFC 9457) |
//! | `counts` | what the metrics show |
//!
//! What several threads use (the runtime's epoll and eventfd, the listeners) is made before the reactors split their descriptor
//! tables, because a shard's answer wakes the runtime from the reactor's thread. Connections are taken after that, so that no
//! table keeps a copy of one.
//!
//! Invariant: who does not have the token is told that, and nothing else; a request is answered once.

mod acting;
mod bans;
mod counts;
mod idempotency;
mod listener;
mod lists;
mod looking;
mod operations;
mod problem;
mod publish;
pub mod routes;
mod shards;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::RwLock;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::auth::Secret;
use crate::limits;
use crate::mesh::Mesh;

pub use bans::Register;
pub use counts::{Counts, Refusal};

/// What the process does at an operator's word.
pub trait Operator: Send + Sync {
    /// The same as SIGTERM.
    fn drain(&self);

    /// The same as SIGHUP.
    fn reload(&self);
}

/// What an API is made of.
#[derive(Debug)]
pub struct Setup {
    /// Where it listens; at least one address.
    pub addresses: Vec<SocketAddr>,
    /// The token that every request must have.
    pub token: Secret,
    /// How messages may look.
    pub stomp: limits::Stomp,
    /// Messages say when they were accepted: clients prove who they are.
    pub is_guarded: bool,
    /// The seed of the shards' hashes, by which a destination has its owner.
    pub seed: u64,
    /// Bounds.
    pub limits: limits::Api,
    /// What it counts.
    pub counts: Arc<Counts>,
    /// Who is banned. The shards know them already.
    pub bans: Register,
}

/// What may be replaced while it runs.
#[derive(Debug)]
struct Terms {
    token: RwLock<Secret>,
    stomp: RwLock<limits::Stomp>,
}

/// See the module.
pub struct Api {
    terms: Arc<Terms>,
    addresses: Vec<SocketAddr>,
    state: State,
    stopping: watch::Sender<bool>,
}

enum State {
    /// Its descriptors are there.
    Open(Box<Parts>),
    Running(JoinHandle<()>),
    Stopped,
}

struct Parts {
    runtime: Runtime,
    listeners: Vec<TcpListener>,
    setup: Setup,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Api {
    /// An API that listens and takes no connection yet.
    ///
    /// # Errors
    /// An address cannot be had; or the operating system refuses the runtime's descriptors, which is told of the first address.
    pub fn open(setup: Setup) -> Result<Api, (SocketAddr, io::Error)> {
        let first = *setup.addresses.first().expect("an API has an address");
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| (first, error))?;
        let listen = |address: &SocketAddr| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners =
            setup.addresses.iter().map(|address| listen(address).map_err(|error| (*address, error)));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        let local = |listener: &TcpListener| listener.local_addr().map_err(|error| (first, error));
        let addresses = listeners.iter().map(local).collect::<Result<_, _>>()?;
        let terms =
            Terms { token: RwLock::new(setup.token.clone()), stomp: RwLock::new(setup.stomp.clone()) };
        Ok(Api {
            terms: Arc::new(terms),
            addresses,
            state: State::Open(Box::new(Parts { runtime, listeners, setup })),
            stopping: watch::Sender::new(false),
        })
    }

    /// Where it listens, with the ports that were picked in place of 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes connections from here on, in a thread of its own. To be called once, when every reactor has its descriptor table.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(&mut self, mesh: Arc<Mesh>, operator: Arc<dyn Operator>) -> io::Result<()> {
        let State::Open(parts) = std::mem::replace(&mut self.state, State::Stopped) else { return Ok(()) };
        let Parts { runtime, listeners, setup } = *parts;
        let service = Arc::new(listener::Service::new(
            setup,
            Arc::clone(&self.terms),
            mesh,
            operator,
            self.stopping.subscribe(),
        ));
        let serve = move || runtime.block_on(listener::serve(service, listeners));
        self.state = State::Running(thread::Builder::new().name("api".into()).spawn(serve)?);
        Ok(())
    }

    /// Another token, and other bounds of messages, from here on.
    pub fn replace(&self, token: Secret, stomp: limits::Stomp) {
        *self.terms.token.write() = token;
        *self.terms.stomp.write() = stomp;
    }

    /// Takes no more connections, answers what is under way, for a second at most, and ends the thread.
    pub fn stop(&mut self) {
        self.stopping.send_replace(true);
        if let State::Running(thread) = std::mem::replace(&mut self.state, State::Stopped)
            && thread.join().is_err()
        {
            tracing::error!("the thread of the API has panicked: a bug");
        }
    }
}
