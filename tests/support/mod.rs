//! What the integration tests share: a server of their own, a STOMP client that shares no code with it, and
//! peers that other people wrote.
//!
//! It starts and ends processes; it asserts nothing about protocols.
//!
//! Invariant: every process that is started here is ended here, by its id, also when the test panics.

// Each test binary compiles all of this and uses its part of it.
#![allow(dead_code, unused_imports)]

pub mod api;
pub mod client;
pub mod peer;
pub mod running;
pub mod server;
pub mod skipped;
pub mod stream;

pub use client::{Client, Frame};
pub use running::Running;
pub use server::Server;
pub use stream::Stream;
