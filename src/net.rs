//! Sockets and threads: the only module that names mio.
//!
//! Everything below this layer is a state machine that is handed bytes and times; everything here moves
//! bytes between the kernel and those machines and decides nothing about their meaning.
//!
//! - [`server`] starts the reactors, waits for signals, and ends the process in order.
//! - `patience` is how long it waits for their end.
//! - [`handle`] is what other threads may ask of a reactor.
//! - [`reactor`] is one thread's event loop.
//! - [`address`] is where to listen.
//! - [`reservation`] holds an address for this process alone, before anybody listens there.
//! - [`acceptor`] takes connections from the listeners and survives running out of descriptors.
//! - [`socket`] holds a reactor's sockets, parallel to its shard's connections.
//! - [`fd_table`] gives a thread a descriptor table of its own.
//! - [`group_memory`] says when nobody is to be admitted, because the control group is short of memory.
//!
//! Invariant: a descriptor is used and closed only by threads whose table it is in. The rule and the few
//! descriptors that are valid everywhere are described in [`fd_table`].

pub mod acceptor;
pub mod address;
pub mod fd_table;
pub mod flush_timer;
pub mod group_memory;
pub mod handle;
mod look;
mod patience;
pub mod reactor;
pub mod reservation;
pub mod server;
pub mod socket;
