//! Memory for bytes on their way, of which an idle connection holds none.
//!
//! [`Pool`] leases buffers for input that is not complete yet; [`Segments`] queues what is not sent yet. Both belong to one
//! reactor; neither knows sockets or limits of a single connection.

mod pool;
mod segments;

pub use pool::{KEPT_LEASE_BYTES_MAX, LEASE_BYTES_MIN, Lease, Pool, PoolExhausted, PoolStats};
pub use segments::{JOINED_BYTES_MAX, Segments, Slices};
