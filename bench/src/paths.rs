//! The paths of the server that are measured: set up here once, timed by the benches, counted by `bench guard`.
//!
//! A path is what one operation does, and everything that must be there before it. Invariant: the same calls give
//! the same work to every run.

pub mod policy;
pub mod rooms;
pub mod tcb;
pub mod wheel;
pub mod wire;
