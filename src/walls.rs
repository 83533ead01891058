//! The walls: every limit that stops connections, what it is on this machine, and what moves it.
//!
//! * [`catalogue`] names the walls, each with what Windows has and what Linux has in its place;
//! * [`probe`] reads the machine into a [`Snapshot`](probe::Snapshot) of plain values;
//! * [`running`] finds the server that runs here already, and asks it for its numbers;
//! * [`forecast`] is a pure function from the snapshot, the configuration and a number of connections to
//!   each wall's verdict;
//! * [`watch`] compares two readings of the kernel's counters: which wall is being hit right now;
//! * [`report`] says it all, to people and as JSON.
//!
//! Nothing here changes a limit: the doctor names the command, and a person runs it. Numbers that cannot be
//! read are said to be unreadable; none is made up in their place.
//!
//! Invariant: a command is named only for a wall that is in the way.

pub mod catalogue;
pub mod forecast;
pub mod probe;
pub mod report;
pub mod running;
pub mod watch;
