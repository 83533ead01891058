//! Threads beside the reactors that complete requests: what a shard must not wait for.
//!
//! A service is given a request by a shard, in the shard's thread, and takes it over at once or refuses it. It completes it
//! from a thread of its own. It never sees a connection or a session.
//!
//! Invariant: each request is completed once, also when the service is at its bound or panics.

pub mod api;
pub mod auth;
