//! tcbchat: a WebSocket + STOMP 1.2 chat server on mio event loops.

pub mod buf;
pub mod chat;
pub mod config;
pub mod conn;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod shard;
pub mod tcb;
pub mod time;
pub mod walls;
pub mod wire;
