//! What waits for room in one room, in its order.
//!
//! Invariant: `publishers` counts the publications in the list, by the sessions that said them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::message::Message;
use crate::message::destination::Kind;
use crate::message::origin::{ConnKey, Origin};
use crate::message::past::Past;

/// What waits for room.
#[derive(Debug)]
pub enum Parked {
    /// A publication.
    Publication(Message),
    /// The begin of a subscription, which gets nothing that its session has published before, but as the past that it asks for.
    Begin(Kind, Option<Past>),
    /// The end of a subscription, which gets all that its session has published before.
    End,
}

impl Parked {
    pub(super) fn weight(&self) -> u64 {
        match self {
            Parked::Publication(message) => message.weight(),
            Parked::Begin(..) | Parked::End => size_of::<(Origin, Parked)>() as u64,
        }
    }
}

/// See the module. Few rooms have it at any time.
#[derive(Debug, Default)]
pub(super) struct Parking {
    list: VecDeque<(Origin, Parked)>,
    /// By the shards and connections of their sessions.
    publishers: HashMap<(u16, ConnKey), u32>,
}

impl Parking {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a session has published something that waits.
    pub(super) fn has_publication_of(&self, origin: &Origin) -> bool {
        self.publishers.contains_key(&(origin.shard, origin.connection))
    }

    pub(super) fn push(&mut self, origin: Origin, parked: Parked) {
        if matches!(parked, Parked::Publication(_)) {
            *self.publishers.entry((origin.shard, origin.connection)).or_insert(0) += 1;
        }
        self.list.push_back((origin, parked));
    }

    pub(super) fn pop(&mut self) -> Option<(Origin, Parked)> {
        let (origin, parked) = self.list.pop_front()?;
        if matches!(parked, Parked::Publication(_))
            && let Entry::Occupied(mut publications) =
                self.publishers.entry((origin.shard, origin.connection))
        {
            *publications.get_mut() -= 1;
            if *publications.get() == 0 {
                publications.remove();
            }
        }
        Some((origin, parked))
    }

    /// Panics unless something waits, and the publishers are those in the list. Returns the bytes of all.
    pub(super) fn check(&self) -> u64 {
        assert!(!self.list.is_empty());
        let publications = self.list.iter().filter(|(_, parked)| matches!(parked, Parked::Publication(_)));
        assert_eq!(
            self.publishers.values().map(|count| *count as usize).sum::<usize>(),
            publications.count()
        );
        self.list.iter().map(|(_, parked)| parked.weight()).sum()
    }
}
