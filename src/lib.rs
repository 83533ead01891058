//! tcbchat: a WebSocket + STOMP 1.2 chat server on mio event loops, with its own table of TCP control blocks.
//!
//! This page is the map: the layers, the way of a byte, the threads. `docs/ARCHITECTURE.md` has the reasons,
//! `docs/PROTOCOL.md` what clients may say, `docs/OPERATIONS.md` every key and metric. The binary (`main.rs`,
//! `cli.rs`, `doctor.rs`) turns a command line into the values that [`net::server::run`] is given.
//!
//! # Layers
//! From the lowest to the highest. A module sees the layers above its own row here, and not its neighbours in the
//! same layer; `tests/layers.rs` reads every source file and checks it.
//!
//! | layer | module | its job |
//! |---|---|---|
//! | numbers | [`limits`] | every bound: unit, default, range, reason |
//! | | [`time`] | ticks that are handed down, the one clock, the timing wheel |
//! | | [`metrics`] | what a reactor counts, declared once with its description |
//! | | [`footprint`] | what a structure uses and reserves |
//! | | [`share`] | sums that cannot wrap; who holds how much of a shared bound |
//! | structures | [`tcb`] | the ledger of all connections: admission, states, lookup by 4-tuple, TIME_WAIT |
//! | | [`buf`] | leases for incomplete input, segments of unsent output |
//! | | [`wire`] | HTTP, WebSocket and STOMP as plain functions over bytes |
//! | | [`auth`] | passwords and tokens: who a session is, as a function of its credentials |
//! | vocabulary | [`message`] | a message in one allocation; destinations, encoding classes, faults, replies, origins |
//! | | [`policy`] | rules: who may do what where, and verdicts that are kept |
//! | components | [`conn`] | connections without sockets: phase, holds, incomplete input, answers and debts |
//! | | [`session`] | STOMP sessions: frames in, commands out |
//! | | [`broker`] | what an owner does: the order of rooms, who gets a queue's message |
//! | members | [`members`] | what a shard does for its members: room logs, walks, laggards, encoding |
//! | mail | [`mesh`] | requests to owners, completions, mailboxes, credit |
//! | beside reactors | [`services`] | threads that complete requests: who clients are |
//! | one reactor's state | [`shard`] | the composition of all these: no socket, no clock |
//! | I/O | [`net`] | listeners, sockets, the event loop, descriptor tables; the only module that names mio |
//! | around it | [`ops`] | the pages, `/healthz`, `/metrics` |
//! | | [`config`] | file, environment and flags to a checked configuration and a plan for this machine |
//! | the doctor | [`walls`] | every limit of this machine and of the configuration, judged for a number of connections |
//!
//! # The way of a byte
//! ```text
//! in   net::acceptor > net::reactor > net::socket > shard::Shard::receive
//!                    > wire::http (once) > wire::ws > wire::stomp > session
//! on   session::Command > mesh::port > the owner's mesh::mailbox > broker::topic or broker::queue
//!                    > mesh::port > the mailbox of each shard with members > members::log
//! out  shard::Shard::flush > members (walk, encoded once) > net::socket
//!                    > what a socket does not take: a debt in conn::output, paid by members when it does
//! back the owner's completion > session > an answer in conn::output > net::socket
//! ```
//! An owner on the same shard does its part in place, without mail. Everything complete is parsed where it was read. Only
//! what is incomplete is copied, into a lease of [`buf::Pool`]. Messages are kept once, in the room's log
//! ([`members::log`]); who lags has a [debt](conn::output::Debt), which copies nothing.
//!
//! # Threads
//! The main thread starts the reactors and waits ([`net::server`]); a thread named `signals` passes SIGTERM and
//! SIGINT on to it; each reactor thread owns a poll, listeners, sockets and a [`shard::Shard`]. On the way of a
//! message reactors share nothing but mailboxes ([`mesh::mailbox`]); when connections open, change their state or
//! close they share the TCB table ([`tcb::TcbTable`]) and the handshakes by source ([`conn::pending`]); once per turn
//! each stores its counters for scrapes ([`metrics::ShardMetrics`]).
//!
//! When one descriptor table is too small for the capacity, each reactor has a table of its own:
//! [`net::fd_table`] has the rule that makes that safe, [`config::plan`] decides it.
//!
//! # Where to begin
//! [`net::reactor`] is the loop, [`shard`] what it drives, [`session`] what a frame asks for, [`members`] how a message
//! reaches its subscribers, and [`mesh`] how shards talk. [`conn::hold`] says why a connection is not read.
//! [`tcb`] stands alone and can be used without the rest.

pub mod auth;
pub mod broker;
pub mod buf;
pub mod config;
pub mod conn;
pub mod footprint;
pub mod limits;
pub mod members;
pub mod mesh;
pub mod message;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod policy;
pub mod services;
pub mod session;
pub mod shard;
pub mod share;
pub mod tcb;
pub mod time;
pub mod walls;
pub mod wire;
