//! What the server shows of itself: its pages, its health and its metrics.
//!
//! - [`site`] answers plain HTTP requests, in the threads of the reactors.
//! - [`metrics`] turns the reactors' counters, the TCB table and the process into a scrape.
//! - [`notify`] tells the service manager.
//! - [`memory`] reads what the process really uses.
//! - [`log`] takes the lines of the log off the reactors' hands.
//!
//! Nothing here is on the way of a chat message, and nothing here changes the server.
//!
//! Invariant: an answer is computed from memory and a few files of the kernel in bounded time, because a
//! reactor with thousands of connections waits for it.

pub mod log;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod site;
