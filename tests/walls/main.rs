//! The walls that the server sets itself, hit with real sockets: what it counts is compared with what the
//! kernel has.
//!
//! Which connections the kernel has is read from `/proc/net/tcp` by the server's port, which is the test's
//! own while the server lives, so other programs on the machine do not disturb; what was left there before is not counted.

#[path = "../support/mod.rs"]
mod support;

mod half_open;
mod shares;
mod time_wait;
