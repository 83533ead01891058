//! The server ends while everybody is connected: what it owes each client is a close frame with 1001.
//!
//! A client that gets it answers, and waits for the end of the TCP connection; that is an end in order. One that is reset,
//! or whose stream just ends, was cut off: the server ran out of time. Neither is a failure.
//!
//! Invariant: from the order on, each client is counted as closed in order, as cut off, or as failed.

use super::Worker;
use super::orders::Notice;
use crate::failure::{Failure, Kind};

impl Worker {
    /// From here on an end by the server is what is waited for.
    pub(super) fn expect_farewell(&mut self) {
        self.connecting = None;
        self.chatting = None;
        self.listen();
        self.kit.expects_farewell = true;
        self.notify(Notice::Expecting);
    }

    /// Counts an end that was to be expected; false when it was not.
    pub(super) fn is_cut_off(&mut self, failure: &Failure) -> bool {
        let is_cut_off = self.kit.expects_farewell && matches!(failure.kind, Kind::Reset | Kind::EndOfStream);
        self.desk.cut_off += u64::from(is_cut_off);
        is_cut_off
    }
}
