//! Memory for bytes on their way, of which an idle connection holds none.
//!
//! [`Pool`] leases buffers for input that is not complete yet; [`Outbound`] queues shared segments that are
//! not sent yet. Both belong to one reactor; neither knows sockets or limits of a single connection.

mod outbound;
mod pool;

pub use outbound::{JOINED_BYTES_MAX, Outbound, Segment};
pub use pool::{KEPT_LEASE_BYTES_MAX, LEASE_BYTES_MIN, Lease, Pool, PoolExhausted, PoolStats};
