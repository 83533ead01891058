//! The walls, by what they are made of.
//!
//! Each function plays one: it drives sockets into the bound, moves the knob, and says what it saw. What must
//! be true is claimed there, in numbers.
//!
//! Invariant: a stage ends by itself, in bounded time and with a bounded number of sockets.

pub mod arrival;
pub mod descriptors;
pub mod firewall;
pub mod peers;
pub mod ports;
pub mod table;
pub mod threads;
pub mod time_wait;
