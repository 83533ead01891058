//! Requests that a session waits for, and the receipts that wait with them.
//!
//! A RECEIPT says that all before it was received (STOMP 1.2, RECEIPT). So receipts leave in the order of the frames: one that
//! needs no answer waits behind one that does.
//!
//! Invariant: the first request that is kept is not done; `memberships` counts what it says.

use std::collections::VecDeque;

use compact_str::CompactString;
use smallvec::SmallVec;

/// A receipt that may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The `receipt-id`.
    pub id: CompactString,
    /// Until when the session may last, in seconds since 1970, if that was asked for.
    pub lasts_until_s: Option<u64>,
}

/// A request, or several that one receipt covers.
#[derive(Debug)]
pub struct Awaited {
    /// Its number in the session.
    pub serial: u32,
    /// Completions that have not come.
    pub left: u32,
    /// The receipt to send when all have.
    pub receipt: Option<Receipt>,
    /// A SUBSCRIBE or UNSUBSCRIBE: the shard that was asked.
    pub owner: Option<u16>,
    /// The hash of the key of a room that is being subscribed to.
    pub joins: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    list: VecDeque<Awaited>,
    /// Of these, changes of membership that their owners have not answered.
    memberships: u32,
}

impl Awaited {
    fn is_membership(&self) -> bool {
        self.left > 0 && self.owner.is_some()
    }
}

impl Awaiting {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn push(&mut self, awaited: Awaited) {
        if self.list.is_empty() {
            // Few sessions have a second one under way.
            self.list.reserve_exact(1);
        }
        self.memberships += u32::from(awaited.is_membership());
        self.list.push_back(awaited);
    }

    /// Receipts that wait.
    pub(super) fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.list.iter().filter_map(|awaited| awaited.receipt.as_ref())
    }

    /// Joins under way to the room whose key has this hash.
    pub(super) fn joining(&self, hash: u64) -> usize {
        self.list.iter().filter(|awaited| awaited.left > 0 && awaited.joins == Some(hash)).count()
    }

    /// Whether a change of membership is under way to another owner than this one.
    pub(super) fn has_other_than(&self, owner: Option<u16>) -> bool {
        self.memberships > 0
            && self.list.iter().any(|awaited| awaited.is_membership() && awaited.owner != owner)
    }

    /// One completion has come. Adds the receipts that may leave.
    pub(super) fn complete(&mut self, serial: u32, receipts: &mut SmallVec<[Receipt; 1]>) {
        if let Some(awaited) = self.list.iter_mut().find(|awaited| awaited.serial == serial) {
            let was_membership = awaited.is_membership();
            awaited.left = awaited.left.saturating_sub(1);
            self.memberships -= u32::from(was_membership && !awaited.is_membership());
        }
        while let Some(done) = self.list.pop_front_if(|awaited| awaited.left == 0) {
            receipts.extend(done.receipt);
        }
    }

    /// Whether this request joins the room whose key has this hash.
    pub(super) fn is_joining(&self, serial: u32, hash: u64) -> bool {
        self.list.iter().any(|awaited| awaited.serial == serial && awaited.joins == Some(hash))
    }

    /// The request was refused, and the session goes on: takes its receipt, which is not sent.
    pub(super) fn take_receipt(&mut self, serial: u32) -> Option<CompactString> {
        let awaited = self.list.iter_mut().find(|awaited| awaited.serial == serial)?;
        awaited.receipt.take().map(|receipt| receipt.id)
    }

    /// The receipt of this request says until when the session may last.
    pub(super) fn lasts_until(&mut self, serial: u32, expires_s: u64) {
        let awaited = self.list.iter_mut().find(|awaited| awaited.serial == serial);
        if let Some(receipt) = awaited.and_then(|awaited| awaited.receipt.as_mut()) {
            receipt.lasts_until_s = Some(expires_s);
        }
    }

    /// The owner has answered; the receipt waits for something else.
    pub(super) fn answered(&mut self, serial: u32) {
        if let Some(awaited) = self.list.iter_mut().find(|awaited| awaited.serial == serial) {
            self.memberships -= u32::from(awaited.is_membership());
            awaited.owner = None;
        }
    }

    /// Whether this request is waited for.
    pub(super) fn has(&self, serial: u32) -> bool {
        self.list.iter().any(|awaited| awaited.serial == serial && awaited.left > 0)
    }

    /// The request was refused: its receipt. A RECEIPT says that all before it was done, so what comes behind it is no more
    /// waited for.
    pub(super) fn refuse(&mut self, serial: u32) -> Option<CompactString> {
        let at = self.list.iter().position(|awaited| awaited.serial == serial)?;
        let mut given_up = self.list.drain(at..);
        let refused = given_up.next()?;
        let memberships = u32::from(refused.is_membership())
            + given_up.map(|awaited| u32::from(awaited.is_membership())).sum::<u32>();
        self.memberships -= memberships;
        refused.receipt.map(|receipt| receipt.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited(serial: u32, left: u32, receipt: Option<&str>) -> Awaited {
        let receipt = receipt.map(|id| Receipt { id: id.into(), lasts_until_s: None });
        Awaited { serial, left, receipt, owner: None, joins: None }
    }

    fn complete(awaiting: &mut Awaiting, serial: u32) -> Vec<CompactString> {
        let mut receipts = SmallVec::new();
        awaiting.complete(serial, &mut receipts);
        receipts.into_iter().map(|receipt| receipt.id).collect()
    }

    #[test]
    fn receipts_leave_in_the_order_of_the_frames_in_whatever_order_requests_are_done() {
        let mut awaiting = Awaiting::default();
        awaiting.push(awaited(1, 2, Some("a")));
        awaiting.push(awaited(2, 1, None));
        awaiting.push(awaited(3, 0, Some("c")));
        awaiting.push(awaited(4, 1, Some("d")));
        assert!(complete(&mut awaiting, 4).is_empty());
        assert!(complete(&mut awaiting, 1).is_empty());
        assert_eq!(complete(&mut awaiting, 1), ["a"]);
        assert_eq!(complete(&mut awaiting, 2), ["c", "d"]);
        assert!(awaiting.is_empty());
        // A completion that nobody waits for finds nothing.
        assert!(complete(&mut awaiting, 1).is_empty());
    }

    #[test]
    fn memberships_under_way_are_known_by_owner_and_room() {
        let mut awaiting = Awaiting::default();
        awaiting.push(Awaited { owner: Some(1), joins: Some(7), ..awaited(1, 1, None) });
        assert!(awaiting.has_other_than(None) && awaiting.has_other_than(Some(0)));
        assert!(!awaiting.has_other_than(Some(1)));
        assert_eq!((awaiting.joining(7), awaiting.joining(8)), (1, 0));
        awaiting.answered(1);
        assert!(!awaiting.has_other_than(None) && !awaiting.is_empty());
        assert!(awaiting.has(1) && !awaiting.has(2));
        assert_eq!(awaiting.refuse(1), None);
        assert!(!awaiting.has_other_than(None));
    }

    #[test]
    fn behind_a_refused_request_nothing_is_waited_for() {
        let mut awaiting = Awaiting::default();
        awaiting.push(awaited(1, 1, Some("a")));
        awaiting.push(Awaited { owner: Some(1), ..awaited(2, 1, Some("b")) });
        awaiting.push(awaited(3, 0, Some("c")));
        awaiting.push(Awaited { owner: Some(2), ..awaited(4, 1, Some("d")) });
        assert_eq!(awaiting.refuse(2).as_deref(), Some("b"));
        assert_eq!((awaiting.len(), awaiting.has_other_than(None)), (1, false));
        assert!(!awaiting.has(4));
        assert_eq!(complete(&mut awaiting, 1), ["a"]);
        assert!(awaiting.is_empty());
    }
}
