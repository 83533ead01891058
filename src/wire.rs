//! Bytes to values and back, for the protocols that a connection speaks in turn: the HTTP request that opens it ([`http`]),
//! WebSocket framing ([`ws`]) and STOMP ([`stomp`]), which may also have the stream to itself ([`framing`]).
//!
//! Everything here is a plain function over bytes that the caller holds: no sockets, no clock, no queues.
//! What a value means for a room or a session is decided above.
//!
//! Invariant: the result depends on the bytes alone, never on how they were cut into reads. Property tests
//! and the fuzz targets check that for every decoder.

#[cfg(test)]
pub(crate) mod documented;
pub mod framing;
pub mod http;
pub mod proxy;
pub mod stomp;
pub mod ws;
