//! Subscriptions that recover what was said before them: how far each is, and whose turn it is.
//!
//! One that recovers asks its room's owner for a page when its connection has little unsent, so a client that does not read
//! costs nothing. Of all those of a shard only [`ASKED_MAX`] pages are under way at once, first come, first served.
//!
//! It knows no rooms and no messages. A session that does not recover has nothing here.
//!
//! Invariant: what is in `ready` and is still recovering is in the step `Ready`, once; `asked` counts requests without an answer.

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use crate::footprint::Part;
use crate::message::MessageId;
use crate::message::interner::Symbol;
use crate::message::past::Missing;

/// Pages that are under way to one shard at once.
pub const ASKED_MAX: usize = 256;

/// What comes next for one that recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its connection is to send what it has.
    Sending,
    /// It may have a page.
    Ready,
    /// A page is asked for.
    Asked,
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
    step: Step,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Recoveries {
    /// By connection.
    table: HashMap<u32, SmallVec<[Recovery; 1]>>,
    ready: VecDeque<(u32, Symbol)>,
    asked: usize,
}

impl Recoveries {
    /// Whether nobody recovers.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Subscriptions that recover.
    pub fn len(&self) -> usize {
        self.table.values().map(|of_one| of_one.len()).sum()
    }

    /// A subscription begins to recover.
    pub fn begin(&mut self, index: u32, class: Symbol, next: MessageId, missing: Option<Missing>) {
        let recovery = Recovery { class, next, missing, step: Step::Sending };
        self.table.entry(index).or_default().push(recovery);
    }

    /// A subscription recovers no more. Returns how far it was.
    pub fn end(&mut self, index: u32, class: Symbol) -> Option<Recovery> {
        let of_one = self.table.get_mut(&index)?;
        let at = of_one.iter().position(|recovery| recovery.class == class)?;
        let ended = of_one.remove(at);
        if of_one.is_empty() {
            self.table.remove(&index);
            if self.table.is_empty() {
                *self = Recoveries { asked: self.asked, ..Recoveries::default() };
            }
        }
        Some(ended)
    }

    fn find(&mut self, index: u32, class: Symbol) -> Option<&mut Recovery> {
        self.table.get_mut(&index)?.iter_mut().find(|recovery| recovery.class == class)
    }

    /// A connection has little unsent: those of its subscriptions that wait for that may have a page.
    pub fn wake(&mut self, index: u32) {
        let Recoveries { table, ready, .. } = self;
        for recovery in table.get_mut(&index).into_iter().flatten() {
            if recovery.step == Step::Sending {
                recovery.step = Step::Ready;
                ready.push_back((index, recovery.class));
            }
        }
    }

    /// Whether [`Recoveries::take_ready`] would give one.
    pub fn has_ready(&self) -> bool {
        self.asked < ASKED_MAX && !self.ready.is_empty()
    }

    /// Who is to ask for a page, and where it begins: [`Recoveries::answered`] must follow.
    pub fn take_ready(&mut self) -> Option<(u32, Symbol, MessageId)> {
        while self.asked < ASKED_MAX {
            let (index, class) = self.ready.pop_front()?;
            // It may have ended meanwhile, and another begun.
            let Some(recovery) = self.find(index, class).filter(|recovery| recovery.step == Step::Ready)
            else {
                continue;
            };
            recovery.step = Step::Asked;
            let next = recovery.next;
            self.asked += 1;
            return Some((index, class, next));
        }
        None
    }

    /// A page has come that was asked for, whether anybody waits for it or not.
    pub fn answered(&mut self) {
        self.asked -= 1;
    }

    /// A subscription has had a page, and sends it: the next one begins here.
    pub fn go_on(&mut self, index: u32, class: Symbol, next: MessageId) {
        if let Some(recovery) = self.find(index, class) {
            (recovery.next, recovery.step) = (next, Step::Sending);
        }
    }

    /// A subscription cannot have this. Returns all that it could not have so far.
    pub fn miss(&mut self, index: u32, class: Symbol, missing: Missing) {
        if let Some(recovery) = self.find(index, class) {
            recovery.missing = Some(recovery.missing.map_or(missing, |before| before.and(missing)));
        }
    }

    /// What the table takes, about.
    pub fn memory(&self) -> Part {
        let table =
            Part::array(self.table.len(), self.table.capacity(), size_of::<(u32, SmallVec<[Recovery; 1]>)>());
        let ready = Part::array(self.ready.len(), self.ready.capacity(), size_of::<(u32, Symbol)>());
        [table, ready].into_iter().sum()
    }

    /// Panics unless each that recovers `is_there`, and will go on.
    pub fn check(&self, is_there: impl Fn(u32, Symbol) -> bool) {
        let mut ready: Vec<(u32, Symbol)> = self.ready.iter().copied().collect();
        for (index, of_one) in &self.table {
            for recovery in of_one {
                assert!(is_there(*index, recovery.class));
                let at = ready.iter().position(|entry| *entry == (*index, recovery.class));
                if recovery.step == Step::Ready {
                    ready.swap_remove(at.expect("it will be looked at"));
                }
            }
        }
        assert!(self.asked <= ASKED_MAX);
    }

    /// Panics unless nobody recovers and no page is under way.
    pub fn check_empty(&self) {
        assert!(self.is_empty() && self.asked == 0 && self.ready.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::past::Lack;

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 1, sequence }
    }

    #[test]
    fn pages_are_asked_for_in_order_and_a_bounded_number_at_once() {
        let mut recoveries = Recoveries::default();
        for index in 0..ASKED_MAX as u32 + 2 {
            recoveries.begin(index, Symbol(0), id(1), None);
            assert_eq!(recoveries.take_ready(), None, "it has not been woken");
        }
        for index in (0..ASKED_MAX as u32 + 2).rev() {
            recoveries.wake(index);
            recoveries.wake(index);
        }
        for index in (2..ASKED_MAX as u32 + 2).rev() {
            assert_eq!(recoveries.take_ready(), Some((index, Symbol(0), id(1))));
        }
        assert!(!recoveries.has_ready() && recoveries.take_ready().is_none());
        recoveries.end(1, Symbol(0)).unwrap();
        recoveries.answered();
        assert_eq!(recoveries.take_ready(), Some((0, Symbol(0), id(1))), "who has ended is passed over");
        recoveries.check(|_, _| true);
    }

    #[test]
    fn one_goes_on_where_its_page_ended_and_remembers_what_it_missed() {
        let mut recoveries = Recoveries::default();
        recoveries.begin(7, Symbol(1), id(1), None);
        recoveries.begin(7, Symbol(2), id(5), None);
        recoveries.wake(7);
        assert_eq!(recoveries.take_ready(), Some((7, Symbol(1), id(1))));
        recoveries.answered();
        recoveries.miss(7, Symbol(1), Missing { lack: Lack::Trimmed, from: 1, to: 2 });
        recoveries.miss(7, Symbol(1), Missing { lack: Lack::Trimmed, from: 6, to: 6 });
        recoveries.go_on(7, Symbol(1), id(9));
        recoveries.wake(7);
        assert_eq!(recoveries.take_ready(), Some((7, Symbol(2), id(5))));
        assert_eq!(recoveries.take_ready(), Some((7, Symbol(1), id(9))));
        let ended = recoveries.end(7, Symbol(1)).unwrap();
        assert_eq!(ended.missing, Some(Missing { lack: Lack::Trimmed, from: 1, to: 6 }));
        assert!(recoveries.end(7, Symbol(1)).is_none() && recoveries.end(8, Symbol(2)).is_none());
        recoveries.end(7, Symbol(2)).unwrap();
        recoveries.answered();
        recoveries.answered();
        recoveries.check_empty();
    }
}
