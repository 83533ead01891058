//! A table of TCP control blocks (TCBs) with the limits that Windows' had, in the open.
//!
//! Up to Server 2003, Windows kept its TCP connections in a table of fixed size that was allocated at start,
//! with a hash table over it and an afterlife, TIME_WAIT, in it. Each of these had a registry key, and each
//! was a wall that servers ran into: "after about 1500 connections, users cannot connect any more". Linux has
//! no such table (what it has in place of each wall is in `docs/LIMITS.md`), so this one stands above the
//! kernel: the server asks it for admission when it accepts a connection, tells it each change of state, and
//! returns the TCB at the end. It is the server's ledger of all connections, and the place where those walls
//! can be set, hit, measured and passed.
//!
//! # The keys
//!
//! | registry key | default there | here | what it bounds |
//! |---|---|---|---|
//! | `TcpNumConnections` | 16,777,214 | [`CAPACITY_MAX`] | what the capacity can be set to |
//! | `MaxFreeTcbs` | XP Professional 1,000, Server 2,000 | [`TableConfig::capacity`], connections | TCBs, active and in TIME_WAIT; one more is [refused](Refused::Full) |
//! | `MaxHashTableSize` | 512 (64 to 65,536) | [`TableConfig::hash_buckets`], buckets | nothing: too few make [chains](index::ChainLengths) long and lookups slow |
//! | `NumTcbTablePartitions` | 4 per processor | [`TableConfig::partitions`], locks | nothing: too few make threads wait for one another |
//! | `TcpTimedWaitDelay` | 240 s (30 to 300) | [`delay_ms`](time_wait::Config::delay_ms), milliseconds | how long a closed connection keeps its place |
//! | `MaxFreeTWTcbs` | 1,000 | [`records_max`](time_wait::Config::records_max), records | TIME_WAIT, as [`Reuse`](time_wait::Reuse) says |
//! | (Windows 2000, 2003 SP1) | | [`reuse`](time_wait::Config::reuse) | which records give way early |
//! | (Windows; not Linux) | | [`counts_against_capacity`](time_wait::Config::counts_against_capacity) | whether TIME_WAIT takes places from the living |
//!
//! From Vista and Server 2008 on, Windows ignores `MaxFreeTcbs`, `MaxHashTableSize` and
//! `NumTcbTablePartitions`: its table grows too.
//!
//! # The 1,500 wall
//!
//! A Windows 2000 server with its 2,000 TCBs, where 500 users have just been disconnected by the server:
//!
//! ```
//! use tcbchat::tcb::{Closer, Event, FourTuple, Refused, State, TableConfig, TcbTable, time_wait};
//! use tcbchat::time::Tick;
//!
//! let table = TcbTable::new(TableConfig {
//!     hash_buckets: 512,
//!     time_wait: time_wait::Config {
//!         delay_ms: 240_000,
//!         records_max: 1_000,
//!         reuse: time_wait::Reuse::OlderThan60s,
//!         counts_against_capacity: true,
//!     },
//!     ..TableConfig::sized(2_000, 1)
//! });
//! let user = |n: u16| FourTuple::new(([192, 0, 2, 1], 80).into(), ([198, 51, 100, 7], 1024 + n).into());
//!
//! for n in 0..500 {
//!     let key = table.admit(user(n), Tick(0))?;
//!     assert_eq!(table.transition(key, Event::Upgraded, Tick(0)), Ok(State::Established));
//!     assert_eq!(table.release(key, Closer::Local, Tick(0)), Some(State::TimeWait));
//! }
//! for n in 500..2_000 {
//!     table.admit(user(n), Tick(1))?;
//! }
//! assert_eq!(table.admit(user(2_000), Tick(1)), Err(Refused::Full)); // user 1,501
//!
//! let stats = table.stats();
//! assert_eq!((stats.half_open, stats.time_wait, stats.refused_total), (1_500, 500, 1));
//! assert!(stats.load_factor > 2.9); // 1,500 TCBs in 512 buckets
//!
//! // Four minutes later the places are free again.
//! assert!(table.admit(user(2_000), Tick(0).after_ms(240_000)).is_ok());
//! # Ok::<(), Refused>(())
//! ```
//!
//! # States
//!
//! [`state::next`] is the one function that changes a state; its documentation has the table.
//! `HalfOpen` is meant as a server means it: accepted, but not yet a WebSocket connection.
//!
//! # Memory and time
//!
//! Windows took 0.5 KB of paged and 0.5 KB of non-paged memory for a TCB, because the connection itself was in
//! it. Here the kernel has the connection (about 4 KB of it), and a TCB is what admission and lookup need:
//!
//! | part | bytes |
//! |---|---:|
//! | TCB of an IPv4 connection ([`TCB_BYTES`]) | 40 |
//! | the same, IPv6: addresses in a box | + 44 |
//! | bucket | 4 |
//! | record in TIME_WAIT, in the queue and in the index by name | 16 + about 8 |
//!
//! Memory for the capacity is reserved at start and taken from the kernel where it is used, so a table of a
//! million costs an idle server nothing.
//!
//! A sketch of 32 KiB knows how many places each address has taken, for [`TcbTable::is_above_share`].
//!
//! Admission, release and [`find`](TcbTable::find) cost one keyed hash, one lock and the length of a chain;
//! [`transition`](TcbTable::transition) and [`get`](TcbTable::get) cost one lock. A [`TcbKey`] carries a
//! generation, so one that outlives its connection finds nothing. No method panics on a stale key.

pub mod index;
mod partition;
mod sketch;
pub mod state;
mod table;
pub mod time_wait;
mod tuple;

pub use partition::TCB_BYTES;
pub use state::{Closer, Event, IllegalTransition, State};
pub use table::{
    CAPACITY_MAX, Error, PARTITIONS_MAX, Refused, TableConfig, TableStats, TcbKey, TcbTable, TcbView,
};
pub use tuple::FourTuple;
