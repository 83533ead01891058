//! Chat without I/O: sessions, rooms, queues and fan-out. It knows no sockets and no clock.

pub mod destination;
pub mod fanout;
pub mod fault;
pub mod form;
pub mod intern;
pub mod message;
pub mod queue;
pub mod reply;
pub mod room;
pub mod session;
