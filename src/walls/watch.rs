//! The watch: which wall is being hit right now, by the kernel's counters.
//!
//! Two readings some seconds apart are compared. Only counters that a wall moves when it turns something
//! away are looked at; that one stands above zero says nothing, since nobody knows when it rose. The counters
//! belong to the network namespace (and the control group) of the caller: the doctor must run where the
//! server does.
//!
//! Invariant: a counter that was not read both times, or went back, has no delta.

use super::probe::Counters;

/// A counter that rises when a wall turns something away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The counter's name.
    pub counter: &'static str,
    /// The wall's row of the catalogue.
    pub row: &'static str,
    /// The wall's id in the forecast.
    pub wall: &'static str,
    /// What one more of it means.
    pub meaning: &'static str,
}

macro_rules! watched {
    ( $( $counter:literal, $row:literal, $wall:literal, $meaning:literal; )+ ) => {
        &[ $( Watched { counter: $counter, row: $row, wall: $wall, meaning: $meaning } ),+ ]
    };
}

/// What is watched.
pub const WATCHED: &[Watched] = watched! {
    "ListenOverflows", "backlog", "somaxconn", "a complete connection found the accept queue full";
    "ListenDrops", "backlog", "somaxconn", "a SYN or a complete connection was dropped at a listener";
    "TCPReqQFullDrop", "half-open", "syn-backlog", "a SYN was dropped: too many half-open, and no SYN cookies";
    "TCPReqQFullDoCookies", "half-open", "syn-backlog", "a SYN was answered with a cookie: too many half-open";
    "TCPTimeWaitOverflow", "time-wait-max", "tw-buckets", "a TIME_WAIT record was not kept";
    "TCPMemoryPressures", "buffers", "tcp-mem", "all TCP buffers together went above the pressure mark";
    "TCPAbortOnMemory", "buffers", "tcp-mem", "a connection was aborted for want of memory";
    "PruneCalled", "buffers", "tcp-mem", "a receive buffer was full and had to be pruned";
    "RcvPruned", "buffers", "tcp-mem", "received data was dropped to free a receive buffer";
    "OfoPruned", "buffers", "tcp-mem", "data out of order was dropped to free a receive buffer";
    "TCPRcvQDrop", "buffers", "tcp-mem", "data was dropped because the receive queue had no room";
    "TCPBacklogDrop", "buffers", "tcp-mem", "a segment was dropped because its socket was busy";
    "TCPWqueueTooBig", "buffers", "tcp-mem", "a send buffer was too full to split";
    "TCPAbortOnTimeout", "keep-alive", "keep-alive", "a connection was given up: its peer did not answer";
    "nf_conntrack:drop", "nat", "conntrack", "the firewall dropped a packet: its table was full";
    "nf_conntrack:early_drop", "nat", "conntrack", "the firewall forgot a connection to make room";
    "nf_conntrack:insert_failed", "nat", "conntrack", "the firewall could not remember a connection";
    "memory.events:max", "app-limits", "cgroup-memory", "the control group ran into its memory limit";
    "pids.events:max", "app-limits", "cgroup-pids", "the control group was refused a thread";
};

/// How far a counter rose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    /// The counter.
    pub watched: &'static Watched,
    /// Its value at first.
    pub before: u64,
    /// Its value after the wait.
    pub after: u64,
}

impl Delta {
    /// How far it rose.
    pub fn rise(&self) -> u64 {
        self.after - self.before
    }
}

/// Two readings of the counters compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// Seconds between the readings.
    pub seconds: f64,
    /// The counters that were read both times, in the order of [`WATCHED`].
    pub deltas: Vec<Delta>,
}

impl Watch {
    /// Compares two readings.
    pub fn new(before: &Counters, after: &Counters, seconds: f64) -> Self {
        let delta = |watched: &'static Watched| {
            let (before, after) = (*before.get(watched.counter)?, *after.get(watched.counter)?);
            (after >= before).then_some(Delta { watched, before, after })
        };
        Self { seconds, deltas: WATCHED.iter().filter_map(delta).collect() }
    }

    /// The counters that rose.
    pub fn rises(&self) -> impl Iterator<Item = &Delta> {
        self.deltas.iter().filter(|delta| delta.rise() > 0)
    }

    /// The rows of the catalogue that are being hit, each once, in the order of [`WATCHED`].
    pub fn hit(&self) -> Vec<&'static str> {
        let mut rows = Vec::new();
        for delta in self.rises() {
            if !rows.contains(&delta.watched.row) {
                rows.push(delta.watched.row);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walls::catalogue;

    fn counters(pairs: &[(&str, u64)]) -> Counters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn every_watched_counter_belongs_to_a_wall() {
        for watched in WATCHED {
            assert!(catalogue::row(watched.row).is_some(), "{}", watched.counter);
        }
    }

    #[test]
    fn what_rose_names_its_wall_and_what_stood_high_does_not() {
        let before = counters(&[("ListenOverflows", 5), ("TCPTimeWaitOverflow", 900), ("PruneCalled", 3)]);
        let after = counters(&[("ListenOverflows", 17), ("TCPTimeWaitOverflow", 900), ("TCPRcvQDrop", 1)]);
        let watch = Watch::new(&before, &after, 5.0);
        assert_eq!(watch.hit(), ["backlog"]);
        let rises: Vec<_> = watch.rises().map(|delta| (delta.watched.counter, delta.rise())).collect();
        assert_eq!(rises, [("ListenOverflows", 12)]);
        assert_eq!(watch.deltas.len(), 2, "read both times");
    }

    #[test]
    fn a_counter_that_went_back_says_nothing() {
        let watch = Watch::new(&counters(&[("ListenDrops", 9)]), &counters(&[("ListenDrops", 2)]), 1.0);
        assert!(watch.deltas.is_empty());
    }
}
