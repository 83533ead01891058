//! Subscriptions that recover what was said before them: how far each is, and whose turn it is.
//!
//! One that recovers asks its room's owner for a page when its connection has little unsent, so a client that does not read
//! costs a page. Of one connection one page is under way at once, in rotation; of all those of a shard [`ASKED_MAX`], first come,
//! first served.
//!
//! It knows no rooms and no messages. A session that does not recover has nothing here.
//!
//! Invariant: a connection is in `ready` once, while its step is `Ready`, and not else; `asked` counts requests without an
//! answer.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::footprint::Part;
use crate::message::MessageId;
use crate::message::interner::Symbol;
use crate::message::past::{Missing, Start};

/// Pages that are under way to one shard at once.
pub const ASKED_MAX: usize = 32;

/// What comes next for a connection with subscriptions that recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is to send what it has.
    Sending,
    /// It may have a page.
    Ready,
    /// A page is asked for, by this request.
    Asked(u32),
}

/// One subscription's recovery.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// The subscription.
    pub class: Symbol,
    /// Where its next page begins.
    pub next: MessageId,
    /// What it could not have so far.
    pub missing: Option<Missing>,
    /// Messages that it has had.
    pub had: u32,
}

/// Those of one connection; none is left of one that has ended while it was `Ready`.
#[derive(Debug)]
struct OfOne {
    /// The first has the next page.
    list: SmallVec<[Recovery; 1]>,
    step: Step,
}

/// The recoveries of one shard, by connection.
#[derive(Debug, Default)]
pub struct Recoveries {
    // Looked up by keys that no peer chooses; no answer depends on its order.
    table: HashMap<u32, OfOne, RandomState>,
    ready: VecDeque<u32>,
    asked: usize,
    count: usize,
}

impl Recoveries {
    /// Whether nobody recovers.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Subscriptions that recover.
    pub fn len(&self) -> usize {
        self.count
    }

    /// A subscription begins to recover.
    pub fn begin(&mut self, index: u32, class: Symbol, start: &Start) {
        let next = MessageId { sequence: start.next, ..start.position };
        let of_one =
            self.table.entry(index).or_insert_with(|| OfOne { list: SmallVec::new(), step: Step::Sending });
        of_one.list.push(Recovery { class, next, missing: start.missing, had: 0 });
        self.count += 1;
    }

    /// A subscription recovers no more. Returns how far it was.
    pub fn end(&mut self, index: u32, class: Symbol) -> Option<Recovery> {
        let of_one = self.table.get_mut(&index)?;
        let at = of_one.list.iter().position(|recovery| recovery.class == class)?;
        let ended = of_one.list.remove(at);
        self.count -= 1;
        // One that is on the list is taken off when its turn comes.
        if of_one.list.is_empty() && of_one.step != Step::Ready {
            self.table.remove(&index);
        }
        if self.table.is_empty() {
            self.table = HashMap::default();
        }
        Some(ended)
    }

    /// A connection has little unsent: one of its subscriptions may have a page, if none has asked for one.
    pub fn wake(&mut self, index: u32) {
        let Some(of_one) = self.table.get_mut(&index) else { return };
        if of_one.step == Step::Sending {
            of_one.step = Step::Ready;
            self.ready.push_back(index);
        }
    }

    /// Whether [`Recoveries::take_ready`] would look for one.
    pub fn has_ready(&self) -> bool {
        self.asked < ASKED_MAX && !self.ready.is_empty()
    }

    /// Who is to ask for a page by this request, and how far it is: [`Recoveries::answered`] must follow.
    pub fn take_ready(&mut self, serial: u32) -> Option<(u32, Recovery)> {
        while self.asked < ASKED_MAX {
            let index = self.ready.pop_front()?;
            let of_one = self.table.get_mut(&index).expect("what is listed is there");
            let Some(first) = of_one.list.first().copied() else {
                self.table.remove(&index);
                continue;
            };
            of_one.step = Step::Asked(serial);
            self.asked += 1;
            return Some((index, first));
        }
        None
    }

    /// A page has come that this request asked for, whether anybody waits for it or not.
    pub fn answered(&mut self, index: u32, serial: u32) {
        self.asked -= 1;
        if let Some(of_one) = self.table.get_mut(&index)
            && of_one.step == Step::Asked(serial)
        {
            of_one.step = Step::Sending;
        }
    }

    /// A subscription has had a page of so many messages: the next one begins here, when the others have had one.
    pub fn go_on(&mut self, index: u32, class: Symbol, next: MessageId, had: usize) {
        let Some(of_one) = self.table.get_mut(&index) else { return };
        if let Some(at) = of_one.list.iter().position(|recovery| recovery.class == class) {
            let mut recovery = of_one.list.remove(at);
            recovery.next = next;
            recovery.had = recovery.had.saturating_add(had as u32);
            of_one.list.push(recovery);
        }
    }

    /// A subscription cannot have this.
    pub fn miss(&mut self, index: u32, class: Symbol, missing: Missing) {
        let found = self.table.get_mut(&index).map(|of_one| &mut of_one.list);
        if let Some(recovery) =
            found.and_then(|list| list.iter_mut().find(|recovery| recovery.class == class))
        {
            recovery.missing = Some(missing.after(recovery.missing));
        }
    }

    /// What the table takes, about.
    pub fn memory(&self) -> Part {
        let table = Part::array(self.table.len(), self.table.capacity(), size_of::<(u32, OfOne)>());
        let ready = Part::array(self.ready.len(), self.ready.capacity(), size_of::<u32>());
        [table, ready].into_iter().sum()
    }

    /// Panics unless each that recovers `is_there`, and will go on.
    pub fn check(&self, is_there: impl Fn(u32, Symbol) -> bool) {
        let (mut ready, mut count) = (0, 0);
        for (index, of_one) in &self.table {
            assert!(of_one.list.iter().all(|recovery| is_there(*index, recovery.class)));
            assert!(!of_one.list.is_empty() || of_one.step == Step::Ready, "kept for nothing");
            let listed = self.ready.iter().filter(|other| *other == index).count();
            assert_eq!(listed, usize::from(of_one.step == Step::Ready));
            ready += listed;
            count += of_one.list.len();
        }
        assert_eq!((ready, count), (self.ready.len(), self.count));
        assert!(self.asked <= ASKED_MAX);
    }

    /// Panics unless nobody recovers and no page is under way.
    pub fn check_empty(&self) {
        assert!(self.is_empty() && self.asked == 0 && self.ready.is_empty() && self.table.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::past::Lack;

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 1, sequence }
    }

    fn start(next: u64) -> Start {
        Start { position: id(99), next, missing: None }
    }

    fn asked(recoveries: &mut Recoveries, serial: u32) -> Option<(u32, u32, u64)> {
        let taken = recoveries.take_ready(serial);
        recoveries.check(|_, _| true);
        taken.map(|(index, recovery)| (index, recovery.class.0, recovery.next.sequence))
    }

    #[test]
    fn pages_are_asked_for_in_order_and_a_bounded_number_at_once() {
        let mut recoveries = Recoveries::default();
        let last = ASKED_MAX as u32 + 1;
        for index in 0..=last {
            recoveries.begin(index, Symbol(0), &start(1));
            assert_eq!(asked(&mut recoveries, 1), None, "it has not been woken");
        }
        for index in (0..=last).rev() {
            recoveries.wake(index);
            recoveries.wake(index);
        }
        for index in (2..=last).rev() {
            assert_eq!(asked(&mut recoveries, index), Some((index, 0, 1)));
        }
        assert!(!recoveries.has_ready() && asked(&mut recoveries, 9).is_none());
        recoveries.end(1, Symbol(0)).unwrap();
        recoveries.answered(last, last);
        assert_eq!(asked(&mut recoveries, 1), Some((0, 0, 1)), "who has ended is passed over");
    }

    #[test]
    fn one_connection_has_one_page_at_once_in_rotation() {
        let mut recoveries = Recoveries::default();
        recoveries.begin(7, Symbol(1), &start(1));
        recoveries.begin(7, Symbol(2), &start(5));
        recoveries.wake(7);
        assert_eq!(asked(&mut recoveries, 11), Some((7, 1, 1)));
        recoveries.wake(7);
        assert_eq!(asked(&mut recoveries, 12), None, "it has one already");
        recoveries.answered(7, 11);
        recoveries.miss(7, Symbol(1), Missing { lack: Lack::Trimmed, from: 1, to: 2 });
        recoveries.miss(7, Symbol(1), Missing { lack: Lack::Trimmed, from: 6, to: 6 });
        recoveries.go_on(7, Symbol(1), id(9), 3);
        recoveries.wake(7);
        assert_eq!(asked(&mut recoveries, 13), Some((7, 2, 5)));
        // It ends with its page under way: the answer finds the other one, and does not stop it.
        recoveries.end(7, Symbol(2)).unwrap();
        recoveries.answered(7, 13);
        recoveries.wake(7);
        assert_eq!(asked(&mut recoveries, 14), Some((7, 1, 9)));
        let ended = recoveries.end(7, Symbol(1)).unwrap();
        assert_eq!((ended.missing, ended.had), (Some(Missing { lack: Lack::Trimmed, from: 1, to: 6 }), 3));
        assert!(recoveries.end(7, Symbol(1)).is_none() && recoveries.end(8, Symbol(2)).is_none());
        // Another connection has the index when the answer comes.
        recoveries.begin(7, Symbol(3), &start(1));
        recoveries.wake(7);
        assert_eq!(asked(&mut recoveries, 15), Some((7, 3, 1)));
        recoveries.answered(7, 14);
        recoveries.wake(7);
        assert_eq!(asked(&mut recoveries, 16), None);
        recoveries.end(7, Symbol(3)).unwrap();
        recoveries.answered(7, 15);
        recoveries.check_empty();
    }

    #[test]
    fn who_comes_and_goes_while_all_are_busy_leaves_one_entry() {
        let mut recoveries = Recoveries::default();
        for round in 0..100 {
            recoveries.begin(7, Symbol(round), &start(1));
            recoveries.wake(7);
            recoveries.end(7, Symbol(round)).unwrap();
            recoveries.check(|_, _| true);
        }
        assert_eq!(recoveries.ready.len(), 1);
        assert_eq!(asked(&mut recoveries, 1), None);
        recoveries.check_empty();
    }
}
