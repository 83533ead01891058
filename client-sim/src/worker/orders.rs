//! What the crew tells a worker, and what it hears back.
//!
//! Invariant: each order but `Listen` and `Exit` is answered by exactly one notice.

use super::desk::ChatTally;

pub use super::chat::{ChatOrder, Pace};
pub use super::churn::{ChurnOrder, Leave};
pub use super::connect::ConnectOrder;
pub use super::leave::LeaveOrder;

/// What the crew tells a worker to do.
#[derive(Debug, Clone)]
pub enum Order {
    /// Connect the clients of the worker's share.
    Connect(ConnectOrder),
    /// Send messages over random rooms.
    Chat(ChatOrder),
    /// Deaf clients read again, to hear what became of them.
    Listen,
    /// Count what each subscriber got.
    Tally,
    /// Let all clients go.
    Leave(LeaveOrder),
    /// Connect, subscribe and leave, over and over.
    Churn(ChurnOrder),
    /// The server will end: expect to be closed by it.
    Farewell,
    /// Stop now; sockets that are open are closed with the thread.
    Exit,
}

/// What a worker tells the crew.
#[derive(Debug)]
pub enum Notice {
    /// Every client of the share is ready or has failed.
    Connected,
    /// Every message of the order was sent.
    Sent,
    /// The answer to [`Order::Tally`].
    Tally(Box<ChatTally>),
    /// No connection is left.
    Left,
    /// Every cycle of the order is over.
    Churned,
    /// The server may end.
    Expecting,
}
